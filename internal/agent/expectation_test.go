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

// 15,000 agents can have reason to accuse at the same moment.
func TestAnAccusationReadsAtMostOnceAMinute(t *testing.T) {
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
		if n := len(reads); n < 9 || n > 11 {
			t.Errorf("%d reads in ten minutes of accusations, want about 10", n)
		}
		for i := 1; i < len(reads); i++ {
			if gap := reads[i].Sub(reads[i-1]); gap < time.Minute {
				t.Errorf("two reads are %s apart, want at least a minute", gap)
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
