package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	// expectTimeout bounds a read, which delays the probes meanwhile.
	expectTimeout = 2 * time.Second
	// earlyInterval is the time between two reads that accusations cause, beyond
	// the first earlyBurst. 15,000 agents may have reason to accuse at the same
	// moment, and an annotation may be changed twice in a minute.
	earlyInterval = time.Minute
	earlyBurst    = 3
	// serverLag is how much later than the API server a metadata server may know
	// of a changed annotation. GKE promises no figure.
	serverLag = time.Minute
)

// expectation is what the loop knows of the expected identity, and when it may
// read it again. The last good one is kept when a read fails.
type expectation struct {
	now    identity.Expectation
	readAt time.Time // wall clock, of the last good read
	err    error     // of the last read

	before   identity.Expectation // the one that was replaced by now
	replaced time.Time            // when it was

	next     time.Time // when it is read again, if nothing is wrong
	tried    time.Time // when it was read last, well or not
	failures int
	early    *rate.Limiter
}

func newExpectation() expectation {
	return expectation{early: rate.NewLimiter(rate.Every(earlyInterval), earlyBurst)}
}

// due reports whether the expectation is to be read before the next probe. As
// long as the agent accuses, it looks every minute whether it still should.
func (e *expectation) due(stated identity.State) bool {
	return !time.Now().Before(e.next) || (stated.Accuses() && time.Since(e.tried) >= earlyInterval)
}

// accepted is what is right at this moment: what was until the annotation was
// changed is as well, for as long as the metadata server may not know of that.
func (e *expectation) accepted() identity.Expectation {
	now := e.now
	if time.Since(e.replaced) < serverLag {
		now.Accepted = append(slices.Clone(now.Accepted), e.before.Accepted...)
	}
	return now
}

// readEarly reads the expectation because an accusation rests on it, if it may.
func (a *Agent) readEarly(ctx context.Context) reading {
	if !a.expectation.early.Allow() {
		return readRefused
	}
	a.readExpectation(ctx)
	return readDone
}

// readExpectation reads the expectation, and plans the next read: soon after
// a failure, but less and less often.
func (a *Agent) readExpectation(ctx context.Context) {
	e := &a.expectation
	limited, cancel := context.WithTimeout(ctx, expectTimeout)
	defer cancel()
	now, err := a.Expect(limited)
	a.beat()
	if ctx.Err() != nil {
		return
	}
	e.tried = time.Now()
	if err != nil {
		if e.err == nil || e.err.Error() != err.Error() {
			a.Logger.Warn("The expected identity could not be read", "error", err.Error(), "still_used", e.now.String())
		}
		e.err = err
		wait := min(a.Interval<<min(e.failures, 10), earlyInterval)
		e.failures++
		e.next = e.tried.Add(a.within(wait))
		return
	}
	changed := fmt.Sprint(now) != fmt.Sprint(e.now)
	if changed {
		e.before, e.replaced = e.now, e.tried
	}
	if e.failures > 0 || e.readAt.IsZero() || changed {
		a.Logger.Info("Expected identity", "expected", now.String(), "source", now.Source)
	}
	e.now, e.readAt, e.err, e.failures = now, a.Wall(), nil, 0
	e.next = e.tried.Add(a.within(a.ExpectationInterval))
}
