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
	// longestLook bounds the time between two looks whether an accusation still holds: the
	// first is within earlyInterval, and each finds the next within twice that time, since
	// all nodes of a cluster may accuse for hours.
	longestLook = 5 * time.Minute
)

// expectation is what the loop knows of the expected identity, and when it may
// read it again. The last good one is kept when a read fails.
type expectation struct {
	now    identity.Expectation
	readAt time.Time // wall clock, of the last good read
	err    error     // of the last read

	before  identity.Expectation // the one that was replaced by now, unknown after a start
	changed time.Time            // when that was, zero if it is not known
	stamp   time.Time            // the same by the clock of the API server

	next            time.Time // when it is read again, if nothing is wrong
	look            time.Time // when it is read again, if the agent accuses
	looks           int       // such reads in a row that found what was known
	rightByPrevious bool      // the last identity was right only by the one before
	good            time.Time // when it was read well last
	tried           time.Time // when it was read last, well or not
	failures        int
	early           *rate.Limiter
	// graced limits the reads while a change is fresh, which must not use up those
	// that an accusation needs when it is not any more.
	graced *rate.Limiter
}

func newExpectation() expectation {
	limit := rate.Every(earlyInterval)
	return expectation{early: rate.NewLimiter(limit, earlyBurst), graced: rate.NewLimiter(limit, earlyBurst)}
}

// due reports whether the expectation is to be read before the next probe. As
// long as the agent accuses, it looks whether it still should; and as long as the
// identity is that of before a change, whether that was taken back.
func (e *expectation) due(stated identity.State) bool {
	if !stated.Accuses() && !e.rightByPrevious {
		e.looks = 0
	} else if !time.Now().Before(e.look) {
		e.looks++
		return true
	}
	return !time.Now().Before(e.next)
}

// accepted is what is right at this moment: what was until the annotation was
// changed is as well, for as long as the metadata server may not know of that.
func (e *expectation) accepted(grace time.Duration) identity.Expectation {
	now := e.now
	if time.Since(e.changed) < grace {
		now.Accepted = append(slices.Clone(now.Accepted), e.before.Accepted...)
	}
	return now
}

// judge is the verdict on the observation by what is expected now. Where that is not
// known, because the annotation was changed to one that is no email, what was right
// before accuses nobody.
func (a *Agent) judge(o identity.Observation) identity.Verdict {
	v := identity.Judge(a.expectation.accepted(a.AnnotationGrace), a.Nodes, o)
	if now := a.expectation.now; explainable(v) && !now.Known() {
		return identity.Judge(now, a.Nodes, o)
	}
	return v
}

// inGrace is the doubt because the metadata server may not know yet what is expected.
func (a *Agent) inGrace() doubt {
	since := time.Since(a.expectation.changed)
	if since >= a.AnnotationGrace {
		return doubt{}
	}
	return doubt{fmt.Sprintf("what is expected was changed %s ago, which the metadata server may not know yet", since.Round(time.Second)), true}
}

// readEarly reads the expectation because an accusation rests on it, if it may.
func (a *Agent) readEarly(ctx context.Context) doubt {
	changed := a.inGrace()
	switch {
	case changed.why != "" && !a.expectation.graced.Allow():
		return changed
	case changed.why == "" && !a.expectation.early.Allow():
		return doubt{why: a.expectation.lastRead() + ", and is read again within a minute"}
	}
	return a.readExpectation(ctx)
}

// readExpectation reads the expectation, and plans the next read: soon after
// a failure, but less and less often. An annotation that is no email was read well, and
// is read again as soon as one that was not: somebody will correct it.
func (a *Agent) readExpectation(ctx context.Context) doubt {
	e := &a.expectation
	limited, cancel := context.WithTimeout(ctx, expectTimeout)
	defer cancel()
	now, err := a.Expect(limited)
	a.beat()
	if ctx.Err() != nil {
		return doubt{why: "the agent stops"}
	}
	e.tried = time.Now()
	e.look = e.tried.Add(a.slot(min(earlyInterval<<min(e.looks, 10), longestLook)))
	if err == nil || now.Invalid != "" {
		a.keepExpectation(now)
	}
	if err == nil {
		e.err, e.failures = nil, 0
		e.next = e.tried.Add(a.slot(a.ExpectationInterval))
		return a.inGrace()
	}
	if e.err == nil || e.err.Error() != err.Error() {
		a.Logger.Warn("Failed to read the expected identity", "error", err.Error(), "still_used", e.now.String())
	}
	e.err = err
	wait := min(a.Interval<<min(e.failures, 10), earlyInterval)
	e.failures++
	e.next = e.tried.Add(a.within(wait))
	if changed := a.inGrace(); now.Invalid != "" || changed.why != "" {
		return changed
	}
	return doubt{why: e.lastRead()}
}

// lastRead says when the expectation was read well last, and why not since.
func (e *expectation) lastRead() string {
	says := fmt.Sprintf("what is expected was read %s ago", time.Since(e.good).Round(time.Second))
	if e.err != nil {
		says += ", and not since (" + e.err.Error() + ")"
	}
	return says
}

// keepExpectation takes a good read. A change may be some time ago; it is not older
// than the read before, if that found something else.
func (a *Agent) keepExpectation(now identity.Reading) {
	e := &a.expectation
	first, differs := e.readAt.IsZero(), !now.Equal(e.now)
	if differs || now.Changed.After(e.stamp) {
		e.looks = 0
		e.before, e.changed = e.now, time.Time{}
		switch ago := e.tried.Add(-now.Age); {
		case now.Changed.IsZero() && !first:
			e.changed = e.tried
		case now.Changed.IsZero():
		case differs && ago.Before(e.good):
			e.changed = e.good
		default:
			e.changed = ago
		}
	}
	if now.Known() && (e.failures > 0 || first || differs) {
		a.Logger.Info("Expected identity", "expected", now.String(), "source", now.Source)
	}
	e.now, e.stamp, e.readAt, e.good = now.Expectation, now.Changed, a.Wall(), e.tried
}
