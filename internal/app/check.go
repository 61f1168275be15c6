package app

import (
	"context"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/redact"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// Check judges by the parts of an App. It serves nothing, and tells nobody.
type Check struct {
	parts    parts
	risks    bool
	redactor *redact.Redactor
}

// NewCheck wires the parts.
func NewCheck(o Options) (*Check, error) {
	p, err := assemble(o)
	return &Check{p, o.Risks, o.Redactor}, err
}

// Warnings are about the configuration: things that can make the answer untrue.
func (c *Check) Warnings() []string { return c.parts.about().Warnings }

// Run checks until it matches or the time is over, once at least, and is told why
// it tries again.
func (c *Check) Run(ctx context.Context, longest time.Duration, again func(report.Report)) report.Report {
	const most = 5 * time.Second // between two checks
	end := time.Now().Add(longest)
	for pause := time.Second; ; pause = min(2*pause, most) {
		r := redact.Value(c.redactor, report.New(agent.Check(ctx, c.parts.agent, c.risks), c.parts.about()))
		if r.State == identity.Match || ctx.Err() != nil || !time.Now().Add(pause).Before(end) {
			return r
		}
		again(r)
		select {
		case <-ctx.Done():
			return r
		case <-time.After(pause):
		}
	}
}
