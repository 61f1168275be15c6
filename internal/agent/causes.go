package agent

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	// surroundingsInterval is how often the settings around the agent are read
	// while nothing is wrong: people edit them rarely.
	surroundingsInterval = 30 * time.Minute
	// They are read first between these two after the start: all agents may start at once.
	surroundingsFrom = 30 * time.Second
	surroundingsBy   = 3 * time.Minute
	// surroundingsTimeout bounds such a read, which delays the probes meanwhile.
	surroundingsTimeout = 2 * time.Second
	// diagnosisInterval is how often a good verdict is looked at for risks.
	diagnosisInterval = time.Minute
	// replacedFor is how long a changed annotation may explain something.
	replacedFor = 10 * time.Minute
	// recoveredFor is how long after a repair Pods may still use the wrong identity:
	// as long as a token lives.
	recoveredFor = time.Hour
)

// causes is what the loop knows of why the verdict is as it is.
type causes struct {
	facts diagnose.Facts // those that are read; the others are filled in
	of    identity.Verdict
	next  time.Time // when they are read again, if nothing is wrong
	early *rate.Limiter

	said       time.Time // when the last diagnosis was made
	wrongEnded time.Time // when the last wrong identity ended, zero if none did
}

func newCauses() causes {
	return causes{early: rate.NewLimiter(rate.Every(earlyInterval), earlyBurst)}
}

// readSurroundings reads them when they are due, or when a bad verdict has just
// been published, and publishes what they say about it.
func (a *Agent) readSurroundings(ctx context.Context, turnedBad bool) {
	c := &a.causes
	if a.Surroundings == nil || ctx.Err() != nil {
		return
	}
	if time.Now().Before(c.next) && (!turnedBad || !c.early.Allow()) {
		return
	}
	limited, cancel := context.WithTimeout(ctx, surroundingsTimeout)
	defer cancel()
	facts := a.Surroundings(limited)
	a.beat()
	if ctx.Err() != nil {
		return
	}
	c.facts, c.of, c.next = facts, a.stated(), time.Now().Add(a.within(surroundingsInterval))
	next := *a.Snapshot()
	next.Diagnosis = a.diagnose(next.Observation, next.Verdict)
	a.snapshot.Store(&next)
}

// diagnose says why the verdict is as it is, by what is known now.
func (a *Agent) diagnose(o identity.Observation, v identity.Verdict) diagnose.Diagnosis {
	a.causes.said = time.Now()
	f := a.causes.facts
	f.Verdict, f.Observation, f.Expectation = v, o, a.expectation.now
	if !v.Same(a.causes.of) {
		f.Claims = identity.Claims{} // settings last, a witness speaks of what it saw
	}
	f.HostNetwork, f.Environment, f.Self = a.HostNetwork, a.Environment, a.Self
	if time.Since(a.expectation.replaced) < replacedFor {
		f.Replaced = a.expectation.before
	}
	f.Recovered = !a.causes.wrongEnded.IsZero() && time.Since(a.causes.wrongEnded) < recoveredFor
	return diagnose.Diagnose(f)
}
