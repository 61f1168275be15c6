package agent

import (
	"context"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	// confirmations is how many probes in a row, after the first, must say the
	// same before a change is stated.
	confirmations = 2
	// confirmGap is the time between them. Together they outlast what passes by
	// itself: single answers of the VM server after a repair, and 0.25 s of
	// refusals when a local redirect changes its backend.
	confirmGap = 300 * time.Millisecond
	// maxConfirmations bounds the probes of one cycle while the answers differ.
	maxConfirmations = 5
	// cacheLag is how much later than the metadata server the API server may know
	// of a changed annotation: the agent reads from its watch cache.
	cacheLag = 2 * time.Second
)

// changes reports whether the verdict differs from what is stated, so that it
// must be confirmed. Both ways: one lucky connection is no recovery. Only the
// first match after a start has nothing to take back.
func (a *Agent) changes(v identity.Verdict) bool {
	stated := a.stated()
	if stated.State == identity.Starting && v.State == identity.Match {
		return a.confirmsFirst
	}
	return !v.Same(stated)
}

// confirm repeats a probe that would change what is stated until several in a
// row agree, and returns what may be published: that, or what is stated
// already. An accusation is first judged again by a fresh expectation, since
// the annotation may have been changed on purpose.
func (a *Agent) confirm(ctx context.Context, o identity.Observation, v identity.Verdict) (identity.Observation, identity.Verdict) {
	agreeing, fresh := 0, false // fresh: the expectation was read after the verdict
	for range maxConfirmations {
		if v.State.Accuses() && !fresh && a.expectation.early.Allow() {
			fresh = true
			a.readExpectation(ctx)
			if w := a.judge(o); !w.Same(v) {
				v, agreeing = w, 0
			}
		}
		if !a.changes(v) || agreeing == confirmations {
			break
		}
		if !sleep(ctx, confirmGap) {
			return o, a.stated()
		}
		next, w := a.probe(ctx)
		if w.Same(v) {
			agreeing++
		} else {
			agreeing, fresh = 0, false
		}
		o, v = next, w
	}
	explained := v.State == identity.Mismatch || v.State == identity.Unbound // could be, by a changed annotation
	if explained && a.expectation.now.Source != identity.SourceConfig && a.changes(v) && (!fresh || !a.outlasts(ctx, o, v)) {
		return o, a.stated()
	}
	return o, a.settle(v, agreeing >= confirmations)
}

// outlasts reports whether the verdict on the observation is the same when a
// changed annotation has had time to get to the API server's cache.
func (a *Agent) outlasts(ctx context.Context, o identity.Observation, v identity.Verdict) bool {
	if !sleep(ctx, cacheLag) {
		return false
	}
	a.readExpectation(ctx)
	return a.judge(o).Same(v)
}

// settle decides what is stated after the confirm probes.
func (a *Agent) settle(v identity.Verdict, confirmed bool) identity.Verdict {
	stated := a.stated()
	inGrace := time.Since(a.started) < a.StartupGrace
	switch {
	case !a.changes(v):
		return v
	case stated.State == identity.Starting && inGrace && (!confirmed || v.State.Inconclusive()):
		// A fresh node's metadata server, and a fresh Pod's network, need some seconds.
		stated.Why = v.Why
		return stated
	case confirmed:
		return v
	case stated.State == identity.Starting:
		return identity.Verdict{State: identity.Unavailable, Server: identity.ServerUnknown, Why: "the answers contradict each other from one probe to the next"}
	}
	return stated
}
