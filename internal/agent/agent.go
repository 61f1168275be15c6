// Package agent is the loop: it probes, judges, confirms, and publishes what it
// knows as a Snapshot.
//
// All decisions about time (when to probe, what is too old) use the monotonic
// clock, so that a step of the wall clock changes no verdict. The wall clock is
// only read for the timestamps that people see.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Prober makes one probe: fresh observations, no retry, no cache.
type Prober interface {
	Probe(ctx context.Context, withToken bool) identity.Observation
}

// Recorder counts what the published state cannot show.
type Recorder interface {
	// Probed is called with the requests of every single probe.
	Probed(identity.Observation)
	// Judged is called with the verdict on every single probe, before it is confirmed.
	Judged(identity.State)
	// Panicked is called when a probe panicked.
	Panicked()
}

// Options are the parts and settings of an Agent. Those up to StartupGrace must be set.
type Options struct {
	Prober Prober
	// Expect reads what is expected. Beside an error it may return what is Invalid of it.
	Expect   func(context.Context) (identity.Reading, error)
	Recorder Recorder
	Logger   *slog.Logger
	Nodes    identity.NodeAccounts

	// Interval is the longest time between the beginnings of two probes.
	Interval time.Duration
	// Timeout is the longest time that one probe takes.
	Timeout time.Duration
	// TokenInterval is the greatest age of a valid token that is taken for granted.
	TokenInterval time.Duration
	// ExpectationInterval is how often the expectation is read while nothing is wrong.
	ExpectationInterval time.Duration
	// AnnotationGrace is how much later than the API server the metadata server may
	// know of a changed annotation. GKE promises no figure.
	AnnotationGrace time.Duration
	// StartupGrace is how long a start may take before "cannot tell" is stated.
	StartupGrace time.Duration

	// ClusterSettings reads the settings that may explain a bad verdict, as far as the
	// scope asks for them; the others are as before. nil: they are not known. It returns
	// what it has when its context ends.
	ClusterSettings func(ctx context.Context, scope diagnose.Scope, before diagnose.Settings) diagnose.Settings
	// Claims asks the metadata server for an identity token, and returns what it says
	// of who made it; nil: nobody is asked.
	Claims func(context.Context) identity.Claims
	// Changed is told when another state is published, with its causes; nil: nobody is.
	// It must not block.
	Changed func(previous identity.State, s *Snapshot)
	// Process is what does not change and may explain a verdict, too.
	Process diagnose.Process

	// Wall is the wall clock, time.Now by default.
	Wall func() time.Time
	// Random returns a number in [0,1), rand.Float64 by default.
	Random func() float64
}

// Agent probes in a loop. Its methods may be called at any time from any goroutine.
type Agent struct {
	Options

	started     time.Time // monotonic, as all times here
	phase       float64   // where in each interval the agent does its work, in [0,1)
	snapshot    atomic.Pointer[Snapshot]
	heartbeat   atomic.Pointer[time.Time]
	expectation expectation
	token       token
	causes      causes
	history     history
	panicked    bool
	// confirmsFirst: the first match after the start is confirmed as well.
	confirmsFirst bool
}

// New returns an agent in the state Starting.
func New(o Options) *Agent {
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	a := &Agent{Options: o, started: time.Now(), phase: o.Random(), expectation: newExpectation(), causes: newCauses()}
	a.snapshot.Store(&Snapshot{
		Verdict:    identity.Verdict{State: identity.Starting, Server: identity.ServerUnknown, Why: "no probe has finished yet"},
		Since:      o.Wall(),
		probed:     a.started,
		staleAfter: max(a.maxSilence(), o.StartupGrace),
	})
	a.causes.nextRead = a.started.Add(settingsFrom + time.Duration(a.Random()*float64(settingsBy-settingsFrom)))
	a.beat()
	return a
}

// Snapshot returns what was published last. It is never changed afterwards.
func (a *Agent) Snapshot() *Snapshot { return a.snapshot.Load() }

// Alive reports whether the loop still turns, whatever it finds out.
func (a *Agent) Alive() bool { return time.Since(*a.heartbeat.Load()) <= a.maxSilence() }

// Run probes until the context ends, for the first time at once: until there is
// a verdict nothing is known about the node, and the Pod is not ready.
//
// Agents that start together, on a new release or a new node pool, must not go
// on probing together. Each has a random phase within the period and keeps it,
// with some jitter around it that does not add up: added up, it would let them
// drift into bunches. Period and jitter together are at most the interval.
func (a *Agent) Run(ctx context.Context) {
	a.cycle(ctx)
	// A fresh Pod's metadata server needs some seconds to know it.
	for wait := time.Second; wait < a.Interval && a.stated().State == identity.Starting; wait *= 2 {
		if !sleep(ctx, a.within(wait)) {
			return
		}
		a.cycle(ctx)
	}
	period, jitter := a.Interval*95/100, float64(a.Interval*5/100)
	next := time.Now().Add(time.Duration((1 - a.Random()) * float64(period)))
	for sleep(ctx, time.Until(next)+time.Duration(a.Random()*jitter)) {
		a.cycle(ctx)
		// After a cycle that took longer than the period the next one is due at once.
		next = next.Add(period)
		if now := time.Now(); next.Before(now) {
			next = now
		}
	}
}

// cycle makes one probe, and as many more as it takes to be sure of a change.
func (a *Agent) cycle(ctx context.Context) {
	defer func() {
		if r := recover(); r != nil {
			a.Recorder.Panicked()
			if !a.panicked {
				a.panicked = true
				stack := debug.Stack()
				if p, ok := r.(interface{ Stack() []byte }); ok { // it began in another goroutine
					stack = p.Stack()
				}
				a.Logger.Error("A probe panicked, the loop goes on. Further panics are only counted", "panic", fmt.Sprint(r), "stack", string(stack))
			}
		}
	}()
	a.beat()
	if a.expectation.due(a.stated().State) {
		a.readExpectation(ctx)
	}
	o, v := a.observe(ctx)
	if ctx.Err() == nil {
		before := a.stated()
		a.publish(o, v)
		// What has come to an end is looked at, too; a good start is not worth it.
		ended := v.State != before.State && before.State != identity.Starting
		a.readSettings(ctx, !v.Same(before) && (v.State != identity.Match || ended))
		if v.State != before.State && a.Changed != nil {
			a.Changed(before.State, a.Snapshot())
		}
	}
}

const (
	// confirmGap is the time between the probes of a confirmation.
	confirmGap = 300 * time.Millisecond
	// cacheLag is how much later than the metadata server the API server may know
	// of a changed annotation: the agent reads from its watch cache.
	cacheLag = 2 * time.Second
)

// observe probes until it is clear what may be stated, and returns that with the
// last observation. After the end of the context both are void.
func (a *Agent) observe(ctx context.Context) (identity.Observation, identity.Verdict) {
	c := confirmation{
		stated: a.stated(), confirmsFirst: a.confirmsFirst, byAnnotation: a.expectation.now.Source != identity.SourceConfig,
	}
	c.probed(a.probe(ctx))
	for ctx.Err() == nil {
		switch c.next() {
		case probeAgain:
			sleep(ctx, confirmGap)
			c.probed(a.probe(ctx))
		case readExpectation:
			c.expectationRead(a.readEarly(ctx), a.judge)
		case readAfterCacheLag:
			sleep(ctx, cacheLag)
			c.expectationRead(a.readExpectation(ctx), a.judge)
		case finish:
			return c.newest().observation, c.result(time.Since(a.started) < a.StartupGrace)
		}
	}
	return c.newest().observation, c.stated
}

// probe makes one probe and judges it. After the end of the context its result
// is void, because the requests were cut off.
func (a *Agent) probe(ctx context.Context) (identity.Observation, identity.Verdict) {
	o := a.ask(ctx, a.token.due(a.Options))
	if !o.Token.Live() && a.token.isOfAnother(o.Email) {
		// The valid token at hand says nothing about the new identity.
		a.token = token{}
		if a.expectation.accepted(a.AnnotationGrace).Accepts(o.Email.Identity) {
			// Only a token can now tell whether it is a match.
			o = a.ask(ctx, true)
		}
	}
	if !o.Token.Live() && a.token.withoutEmail && o.Email.OK() {
		// What both failed for has passed.
		o = a.ask(ctx, true)
	}
	if f := o.Server.Failure; !o.Token.Live() && f != nil && f.Reason == identity.NotFound {
		// Any server may answer so, and only a token can now tell whether it is a metadata server.
		o = a.ask(ctx, true)
	}
	if o.Token.Live() {
		a.token.keep(o, a.Wall())
	} else {
		o.Token = a.token.reused()
	}
	v := a.judge(o)
	a.expectation.rightByPrevious = v.State == identity.Match && !a.expectation.now.Accepts(v.Identity)
	if ctx.Err() == nil {
		counted := v
		if !v.Same(a.stated()) {
			counted = a.inGrace().verdict(v)
		}
		a.Recorder.Judged(counted.State)
		a.history.add(a.Wall(), o, counted)
		a.Logger.Debug("Probe finished", verdictAttributes(counted)...)
	}
	return o, v
}

// ask makes one probe and counts it. One that the process did not run for says
// nothing, and is made again.
func (a *Agent) ask(ctx context.Context, withToken bool) identity.Observation {
	for {
		o := a.Prober.Probe(ctx, withToken)
		a.beat()
		if ctx.Err() != nil {
			return o
		}
		if !o.Void {
			a.Recorder.Probed(o)
			now := *a.Snapshot()
			now.probed = time.Now()
			a.snapshot.Store(&now)
			return o
		}
		a.Logger.Debug("A probe says nothing, because the process was stopped meanwhile")
		sleep(ctx, confirmGap)
	}
}

// publish replaces the snapshot.
func (a *Agent) publish(o identity.Observation, v identity.Verdict) {
	last := a.Snapshot()
	next := *last
	next.staleAfter = a.maxSilence()
	next.LastProbe = a.Wall()
	next.Observation = o
	next.Probes = slices.Clone(a.history)
	next.Expectation = a.expectation.now
	next.ExpectationRead = a.expectation.readAt
	next.ExpectationError = a.expectation.err
	if o.Token.OK() {
		next.TokenExpiry = a.token.expires
		if next.TimeToFirstToken == 0 {
			next.TimeToFirstToken = time.Since(a.started)
		}
	}
	next.Verdict = v
	if last.Verdict.State.Accuses() && !v.State.Accuses() {
		a.causes.wrongEnded = time.Now()
	}
	// While all is well there is little to say, and that changes slowly.
	if v.State != identity.Match || !v.Same(last.Verdict) || time.Since(a.causes.diagnosedAt) >= diagnosisInterval {
		next.Diagnosis = a.diagnose(o, v)
	}
	if v.State != last.Verdict.State {
		next.Since = next.LastProbe
		next.remember(Change{At: next.Since, From: last.Verdict.State, To: v})
	}
	a.snapshot.Store(&next)
}

func verdictAttributes(v identity.Verdict) []any {
	return []any{"state", v.State, "observed", v.Identity, "metadata_server", v.Server, "why", v.Why}
}

// stated is the verdict that is published.
func (a *Agent) stated() identity.Verdict { return a.Snapshot().Verdict }

// maxSilence is how long no probe may finish before the last verdict is too old:
// three intervals, but at least one with all that may come between two probes of a
// healthy loop: the reads of an API server that does not answer, the lag of its
// cache, and two requests in a row that a silent metadata server lets run into their
// deadline.
func (a *Agent) maxSilence() time.Duration {
	const reads = 3*expectTimeout + cacheLag + settingsTimeout
	return max(3*a.Interval, a.Interval+reads+2*a.Timeout)
}

func (a *Agent) beat() {
	now := time.Now()
	a.heartbeat.Store(&now)
}

// slot is how long it is until the moment in each d that is the agent's own, at most d.
// Agents that were started together, or read together because all nodes failed, are
// spread over d by it at once.
func (a *Agent) slot(d time.Duration) time.Duration {
	return d - (time.Since(a.started)+time.Duration(a.phase*float64(d)))%d
}

// within is a little less than d, so that what many agents plan for the same
// moment is spread, and never late.
func (a *Agent) within(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 - 0.1*a.Random()))
}

// sleep waits, and reports whether the context still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
