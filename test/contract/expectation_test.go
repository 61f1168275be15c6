package contract

import (
	"context"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// Whoever sets WI_EXPECTED_EMAILS forgets it when the annotation is changed. The
// agent has read the annotation before, and must not go by what it was then.
func TestTheEventNamesAnExpectationThatIsOutdated(t *testing.T) {
	n := start(t, func(o *agent.Options) {
		o.Expect = func(context.Context) (identity.Reading, error) {
			return identity.Reading{Expectation: identity.Expect(app)}, nil
		}
	})
	n.until(t, identity.Match)
	n.switchTo(t, simulator.Fault{Name: "refused"})
	n.nextEvent(t) // before which the settings are read
	n.switchTo(t, simulator.Fault{Name: simulator.Healthy})
	n.nextEvent(t)

	n.annotate("third@demo-project.iam.gserviceaccount.com")
	n.names(t, n.nextEvent(t), []diagnose.Cause{diagnose.ExpectationOutdated})
	for _, f := range n.Snapshot().Diagnosis.RuledOut {
		if f.Cause == diagnose.ExpectationOutdated {
			t.Errorf("it is ruled out: %s", f.Why)
		}
	}
}
