package agent

import (
	"cmp"
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
// agree in their class: a server whose wrong answers differ from each other is no
// less wrong. Both ways: one lucky connection is no recovery. An accusation is
// judged again by an expectation that was read after it, since the annotation may
// have been changed on purpose; one that it may explain is not stated without.
type confirmation struct {
	stated identity.Verdict
	// confirmsFirst: the first match after the start is confirmed as well.
	confirmsFirst bool
	// byAnnotation: what is expected comes from an annotation, which may be changed.
	byAnnotation bool

	probes []judged  // of this cycle, the newest last
	fresh  freshness // of the expectation, since the newest class began
	doubt  doubt     // if it is not
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

// freshness is what became of the reads of the expectation.
type freshness int8

const (
	notRead freshness = iota
	// doubtful: it could not be read, may not be read so often, or was changed a
	// moment ago.
	doubtful
	// readOnce after the first accusation.
	readOnce
	// readTwice: again, after the lag of the API server's cache.
	readTwice
)

// doubt is why nobody is to be accused by what is expected. The zero value is none.
type doubt struct {
	why string
	// changed: the annotation was changed a moment ago, which the metadata server may
	// not know. Otherwise the agent may not know of a change.
	changed bool
}

// spares reports whether the verdict is an accusation that the doubt forbids. That the
// VM's server answers no annotation explains. A node's account that GKE's server gives
// is one that was expected until a moment ago, or none at all.
func (d doubt) spares(v identity.Verdict) bool {
	if d.changed && v.State == identity.NodeFallback {
		return v.Server != identity.ServerVM
	}
	return d.why != "" && explainable(v)
}

// verdict is the one on an identity that cannot be judged because of the doubt.
func (d doubt) verdict(v identity.Verdict) identity.Verdict {
	if d.spares(v) {
		v.State, v.Why = identity.UnknownExpectation, v.Why+", but "+d.why
	}
	return v
}

// probed takes the next probe.
func (c *confirmation) probed(o identity.Observation, v identity.Verdict) {
	switch {
	case c.byAnnotation && c.fresh == doubtful && c.doubt.spares(v):
		v = c.doubt.verdict(v)
	case len(c.probes) > 0 && classOf(v) != classOf(c.newest().verdict):
		c.fresh = notRead
	}
	c.probes = append(c.probes, judged{o, v})
}

// expectationRead takes the result of a read, and judges by it what was observed.
func (c *confirmation) expectationRead(d doubt, judge func(identity.Observation) identity.Verdict) {
	c.doubt = d
	switch {
	case d.why != "":
		c.fresh = doubtful
	case c.fresh == readOnce:
		c.fresh = readTwice
	default:
		c.fresh = readOnce
	}
	for i, p := range c.probes {
		v := judge(p.observation)
		if c.byAnnotation {
			v = d.verdict(v)
		}
		c.probes[i].verdict = v
	}
}

// next is the step that is still needed for a result.
func (c *confirmation) next() step {
	row := c.row()
	explained := 0
	for _, p := range row {
		if c.byAnnotation && explainable(p.verdict) {
			explained++
		}
	}
	switch agreed := len(row) == agreeingProbes; {
	case !c.changes(c.newest().verdict):
		return finish
	case c.newest().verdict.State.Accuses() && c.fresh == notRead:
		return readExpectation
	// One more probe is sooner than one more read, where it may tell without.
	case len(c.probes) < maxProbesOfCycle && (!agreed || c.fresh == readOnce && 0 < explained && explained < len(row)):
		return probeAgain
	case agreed && c.fresh == readOnce && explained > 0:
		return readAfterCacheLag
	}
	return finish
}

// result is what is to be stated. Within the grace of a start it is no news that
// there is no answer: a fresh node's metadata server, and a fresh Pod's network,
// need some seconds.
func (c *confirmation) result(inGrace bool) identity.Verdict {
	newest := c.newest().verdict
	if !c.changes(newest) {
		return newest
	}
	row, v := c.row(), newest
	agreed := len(row) == agreeingProbes
	if agreed {
		v = c.worst(row)
	}
	starting := c.stated.State == identity.Starting
	switch {
	case starting && inGrace && (!agreed || v.State.Inconclusive()):
		kept := c.stated
		kept.Why = v.Why
		return kept
	case agreed:
		return v
	// What is stated lasts only while some probe says it.
	case starting, !slices.ContainsFunc(c.probes, func(p judged) bool { return classOf(p.verdict) == classOf(c.stated) }):
		return identity.Verdict{State: identity.Unavailable, Server: identity.ServerUnknown, Why: "the answers contradict each other from one probe to the next"}
	}
	return c.stated
}

func (c *confirmation) newest() judged { return c.probes[len(c.probes)-1] }

// row are the newest probes as far as they are of one class, at most as many as
// must agree.
func (c *confirmation) row() []judged {
	n := 0
	for _, p := range slices.Backward(c.probes) {
		if n == agreeingProbes || classOf(p.verdict) != classOf(c.newest().verdict) {
			break
		}
		n++
	}
	return c.probes[len(c.probes)-n:]
}

// changes reports whether the verdict differs from what is stated, so that it must
// be confirmed. Only the first match after a start has nothing to take back.
func (c *confirmation) changes(v identity.Verdict) bool {
	if c.stated.State == identity.Starting && v.State == identity.Match {
		return c.confirmsFirst
	}
	return !v.Same(c.stated)
}

// worst is the first in the order of precedence of verdicts that agree in their
// class, from a server that is known if there is one. If that is stated already, on
// other evidence, it stays: answers that differ each time must not make as many
// label values.
func (c *confirmation) worst(row []judged) identity.Verdict {
	newest := c.newest().verdict
	if !slices.ContainsFunc(row, func(p judged) bool { return !p.verdict.Same(newest) }) {
		return newest
	}
	worst := slices.MinFunc(row, func(a, b judged) int {
		return cmp.Or(precedence(a.verdict)-precedence(b.verdict), known(b.verdict.Server)-known(a.verdict.Server))
	}).verdict
	why := "the answers differ from one probe to the next, and none of them is right: " + worst.Why
	if worst.State == c.stated.State {
		worst = c.stated
	}
	if worst.State != identity.Match {
		worst.Why = why
	}
	return worst
}

func precedence(v identity.Verdict) int { return slices.Index(identity.States(), v.State) }

func known(s identity.Server) int {
	if s == identity.ServerUnknown {
		return 0
	}
	return 1
}

// explainable by a changed annotation is an identity that is wrong only by comparison.
func explainable(v identity.Verdict) bool {
	return v.State == identity.Mismatch || v.State == identity.Unbound
}

// class is what probes must agree in.
type class int8

const (
	accuses class = iota
	inconclusive
	refused // a token, for the right identity
	matches
)

func classOf(v identity.Verdict) class {
	switch {
	case v.State.Accuses():
		return accuses
	case v.State == identity.Match:
		return matches
	case v.State == identity.TokenDenied:
		return refused
	}
	return inconclusive
}
