package agent_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func TestACheck(t *testing.T) {
	for _, tt := range []struct {
		name    string
		expects identity.Expectation
		answers []identity.Observation // in turn, the last one for ever
		want    identity.State
		probes  int
		took    time.Duration
	}{
		{"confirms a match", annotated(app), []identity.Observation{gke(app)}, identity.Match, 3, 600 * time.Millisecond},
		{"does not believe one lucky connection", annotated(app), []identity.Observation{gke(app), vm(customSA)}, identity.NodeFallback, 4, 900 * time.Millisecond},
		{"nor one unlucky one", annotated(app), []identity.Observation{down(), gke(app)}, identity.Match, 4, 900 * time.Millisecond},
		{
			"says what contradicts itself", annotated(app),
			[]identity.Observation{vm(customSA), down(), vm(customSA), down(), vm(customSA), down()},
			identity.Unavailable, 6, 1500 * time.Millisecond,
		},
		{"tells what is down", annotated(app), []identity.Observation{down()}, identity.Unavailable, 3, 600 * time.Millisecond},
		{"looks at the annotation again", annotated(app), []identity.Observation{gke(other)}, identity.Mismatch, 3, 2600 * time.Millisecond},
		{"does not where the configuration says", identity.Expect(app), []identity.Observation{gke(other)}, identity.Mismatch, 3, 600 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{expected: identity.Reading{Expectation: tt.expects}, judged: map[identity.State]int{}}
				w.thenAnswers(tt.answers...)
				began := time.Now()
				s := agent.Check(t.Context(), w.options(), false)
				if got := s.Verdict.State; got != tt.want {
					t.Errorf("got %s (%s), want %s", got, s.Verdict.Why, tt.want)
				}
				if got := len(w.probes); got != tt.probes {
					t.Errorf("%d probes, want %d", got, tt.probes)
				}
				if got := time.Since(began); got != tt.took {
					t.Errorf("took %s, want %s", got, tt.took)
				}
			})
		})
	}
}

func TestACheckEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{expected: identity.Reading{Expectation: annotated(app)}, judged: map[identity.State]int{}}
		w.answers(gke(app))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if s := agent.Check(ctx, w.options(), false); s.Verdict.State != identity.Starting {
			t.Errorf("got %s, want %s", s.Verdict.State, identity.Starting)
		}
	})
}
