package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	// expectTimeout bounds a read, which delays the probes meanwhile.
	expectTimeout = 2 * time.Second
	// earlyInterval is the least time between two reads that an accusation
	// causes. 15,000 agents may have reason to accuse at the same moment.
	earlyInterval = time.Minute
)

// expectation is what the loop knows of the expected identity, and when it may
// read it again. The last good one is kept when a read fails.
type expectation struct {
	now    identity.Expectation
	readAt time.Time // wall clock, of the last good read
	err    error     // of the last read

	next     time.Time
	failures int
	earlyAt  time.Time
}

// due reports whether the expectation is to be read before the next probe. As
// long as the agent accuses, it looks every minute whether it still should.
func (e *expectation) due(stated identity.State) bool {
	return !time.Now().Before(e.next) || (stated.Accuses() && e.mayReadEarly())
}

func (e *expectation) mayReadEarly() bool {
	return e.earlyAt.IsZero() || time.Since(e.earlyAt) >= earlyInterval
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
	if a.stated().State.Accuses() {
		e.earlyAt = time.Now()
	}
	if err != nil {
		if e.err == nil || e.err.Error() != err.Error() {
			a.Logger.Warn("The expected identity could not be read", "error", err.Error(), "still_used", e.now.String())
		}
		e.err = err
		wait := min(a.Interval<<min(e.failures, 10), earlyInterval)
		e.failures++
		e.next = a.soon(wait)
		return
	}
	if e.failures > 0 || e.readAt.IsZero() || fmt.Sprint(now) != fmt.Sprint(e.now) {
		a.Logger.Info("Expected identity", "expected", now.String(), "source", now.Source)
	}
	e.now, e.readAt, e.err, e.failures = now, a.Wall(), nil, 0
	e.next = a.soon(a.ExpectationInterval)
}
