package agent_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func TestTheExpectationIsReadEveryTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(o *agent.Options) { o.Random = func() float64 { return 0.5 } })
		w.after(time.Hour)
		if n := len(w.reads); n < 6 || n > 7 {
			t.Errorf("%d reads in an hour, want 6 or 7: %v", n, w.reads)
		}
	})
}

func TestAChangedAnnotationAccusesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Minute)
		w.expects(identity.Expect(other), nil)
		w.answers(gke(other))
		w.after(5 * time.Minute)
		if got := w.changes(); !slices.Equal(got, []identity.State{identity.Match}) {
			t.Errorf("stated %v, want match alone", got)
		}
		if got := w.Snapshot().Expectation.String(); got != string(other) {
			t.Errorf("expects %s, want %s", got, other)
		}
	})
}

// An annotation is changed, and changed again because that was a mistake. What
// cannot be read again is not accused either.
func TestAnAnnotationThatIsChangedAgainAndAgainAccusesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Minute)
		before := len(w.reads)
		for i := range 30 {
			id := []identity.Identity{other, app}[i%2]
			w.expects(identity.Expect(id), nil)
			w.answers(gke(id))
			w.after(interval)
		}
		w.after(time.Minute)
		if got := w.changes(); !slices.Equal(got, []identity.State{identity.Match}) {
			t.Errorf("stated %v, want match alone", got)
		}
		if n := len(w.reads) - before; n > 3+6 {
			t.Errorf("%d reads in six minutes, want three and then one a minute", n)
		}
		w.answers(gke(other))
		w.after(interval + time.Second)
		w.wants(t, identity.Mismatch)
	})
}

// The node's own account is no matter of annotations: it is stated even if the
// expectation may not be read again yet.
func TestABypassAfterManyIsStatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Millisecond)
		for range 8 {
			w.answers(vm(customSA))
			w.after(interval + time.Second)
			w.wants(t, identity.NodeFallback)
			w.answers(gke(app))
			w.after(interval + time.Second)
			w.wants(t, identity.Match)
		}
	})
}

// 15,000 agents can have reason to accuse at the same moment.
func TestAccusationsReadThreeTimesAndThenOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		before := len(w.reads)
		turn := 0
		w.answersBy(func(bool) identity.Observation { // blips that never confirm
			turn++
			return []identity.Observation{vm(customSA), gke(app)}[turn%2]
		})
		w.after(5 * time.Minute)
		w.answers(vm(customSA))
		w.after(5 * time.Minute)
		w.wants(t, identity.NodeFallback)
		reads := w.reads[before:]
		if n := len(reads); n < 9 || n > 13 {
			t.Errorf("%d reads in ten minutes of accusations, want three and then one a minute", n)
		}
		for i := range reads {
			for j := range i {
				if d := reads[i].Sub(reads[j]); i-j+1 > 4+int(d/time.Minute) {
					t.Errorf("%d reads within %s, want three and then one a minute", i-j+1, d)
				}
			}
		}
	})
}

// Somebody repairs the annotation instead of the node: the accusation must not
// last until the next regular read.
func TestAnAccusationEndsWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		w.answers(gke(other))
		w.after(2 * interval)
		w.wants(t, identity.Mismatch)
		w.expects(identity.Expect(other), nil)
		w.after(time.Minute + interval)
		w.wants(t, identity.Match)
	})
}

func TestWhileTheAPIServerIsAwayTheLastExpectationHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		read := w.Snapshot().ExpectationRead
		w.expects(identity.Expectation{}, errAway)
		w.after(2 * time.Hour)
		w.wants(t, identity.Match)
		s := w.Snapshot()
		if s.Expectation.String() != string(app) || !s.ExpectationRead.Equal(read) || s.ExpectationError == nil {
			t.Errorf("expectation %s of %s, error %v; want that of the start, and an error", s.Expectation, s.ExpectationRead, s.ExpectationError)
		}
		w.answers(vm(customSA))
		w.after(2 * interval)
		w.wants(t, identity.NodeFallback)
		w.expects(identity.Expect(app), nil)
		w.after(2 * time.Minute)
		if s := w.Snapshot(); s.ExpectationError != nil || time.Since(s.ExpectationRead) > 2*time.Minute {
			t.Errorf("read at %s with error %v, want a fresh one", s.ExpectationRead, s.ExpectationError)
		}
	})
}

func TestWithoutAnExpectationItTriesAgainLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(o *agent.Options) { o.Random = func() float64 { return 0.5 } })
		w.expects(identity.Expectation{}, errAway)
		w.after(50 * time.Second)
		w.wants(t, identity.Starting)
		w.after(30 * time.Second)
		w.wants(t, identity.UnknownExpectation)
		w.after(time.Hour)
		if n := len(w.reads); n < 55 || n > 75 {
			t.Errorf("%d reads in an hour of failures, want about one a minute", n)
		}
		w.expects(identity.Expect(app), nil)
		w.after(time.Minute + interval + time.Second)
		w.wants(t, identity.Match)
	})
}

func TestWithoutAnExpectationANodeIsStillRecognised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.expects(identity.Expectation{}, errAway)
		w.answers(gke(nodeSA))
		w.after(2 * interval)
		w.wants(t, identity.NodeFallback)
	})
}
