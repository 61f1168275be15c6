package agent

import (
	"slices"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	// agreeingProbes is how many probes in a row must agree before a change is stated.
	// With the gaps between them they outlast what passes by itself: single answers of
	// the VM server after a repair, and 0.25 s of refusals when a local redirect
	// changes its backend.
	agreeingProbes = 3
	// maxProbesOfCycle bounds the probes of one cycle while the answers differ.
	maxProbesOfCycle = 6
)

// confirmation decides what one cycle of the loop states. It is a value without
// clock or I/O: the loop asks for the next step, carries it out, and tells how it
// went.
//
// A probe that would change what is stated is repeated until several in a row
// agree. Both ways: one lucky connection is no recovery. An accusation is judged
// again by a fresh expectation, since the annotation may have been changed on purpose.
type confirmation struct {
	stated identity.Verdict
	// confirmsFirst: the first match after the start is confirmed as well.
	confirmsFirst bool
	// explainable: a changed annotation may explain a mismatch.
	explainable bool

	probes []judged // of this cycle, the newest last
	read   reading  // of the expectation, since the newest verdict was the first of its kind
	lagged bool     // it was read once more after the lag of the API server's cache
}

// judged is a probe and its verdict.
type judged struct {
	observation identity.Observation
	verdict     identity.Verdict
}

// step is what the loop is to do next.
type step int8

const (
	// finish: there is a result.
	finish step = iota
	// probeAgain after the gap.
	probeAgain
	// readExpectation if it may be read early.
	readExpectation
	// readAfterCacheLag, since the first read may have been of an old cache.
	readAfterCacheLag
)

// reading is what became of an attempt to read the expectation.
type reading int8

const (
	notRead reading = iota
	// readRefused: it was read too often of late.
	readRefused
	readDone
)

// probed takes the next probe.
func (c *confirmation) probed(o identity.Observation, v identity.Verdict) {
	if c.read == readRefused || len(c.probes) > 0 && !v.Same(c.newest().verdict) {
		c.read = notRead
	}
	c.probes = append(c.probes, judged{o, v})
}

// expectationRead takes the result of a read, and judges by it what was observed.
func (c *confirmation) expectationRead(r reading, judge func(identity.Observation) identity.Verdict) {
	c.lagged = c.read == readDone
	c.read = r
	newest := c.newest()
	if v := judge(newest.observation); !v.Same(newest.verdict) {
		c.probes = append(c.probes[:len(c.probes)-1], judged{newest.observation, v})
	}
}

// next is the step that is still needed for a result.
func (c *confirmation) next() step {
	v := c.newest().verdict
	switch {
	case c.lagged || !c.changes(v):
		return finish
	case v.State.Accuses() && c.read == notRead && len(c.probes) < maxProbesOfCycle:
		return readExpectation
	case !c.agreed() && len(c.probes) < maxProbesOfCycle:
		return probeAgain
	case c.byAnnotation(v) && c.read == readDone:
		return readAfterCacheLag
	}
	return finish
}

// result is what is to be stated. Within the grace of a start it is no news that
// there is no answer: a fresh node's metadata server, and a fresh Pod's network,
// need some seconds.
func (c *confirmation) result(inGrace bool) identity.Verdict {
	v, starting := c.newest().verdict, c.stated.State == identity.Starting
	switch {
	case !c.changes(v):
		return v
	case c.byAnnotation(v) && !c.lagged:
		return c.stated
	case starting && inGrace && (!c.agreed() || v.State.Inconclusive()):
		kept := c.stated
		kept.Why = v.Why
		return kept
	case c.agreed():
		return v
	case starting:
		return identity.Verdict{State: identity.Unavailable, Server: identity.ServerUnknown, Why: "the answers contradict each other from one probe to the next"}
	}
	return c.stated
}

func (c *confirmation) newest() judged { return c.probes[len(c.probes)-1] }

// changes reports whether the verdict differs from what is stated, so that it must
// be confirmed. Only the first match after a start has nothing to take back.
func (c *confirmation) changes(v identity.Verdict) bool {
	if c.stated.State == identity.Starting && v.State == identity.Match {
		return c.confirmsFirst
	}
	return !v.Same(c.stated)
}

// agreed reports whether enough probes in a row have the same verdict.
func (c *confirmation) agreed() bool {
	row := c.probes[max(0, len(c.probes)-agreeingProbes):]
	return len(row) == agreeingProbes && !slices.ContainsFunc(row, func(j judged) bool { return !j.verdict.Same(c.newest().verdict) })
}

// byAnnotation reports whether a changed annotation may explain the verdict.
func (c *confirmation) byAnnotation(v identity.Verdict) bool {
	return c.explainable && (v.State == identity.Mismatch || v.State == identity.Unbound)
}
