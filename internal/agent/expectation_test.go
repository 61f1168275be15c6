package agent_test

import (
	"errors"
	"slices"
	"strings"
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
		w.expects(annotated(other), nil)
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

// What was right until the change is right for a while, also where the text of the
// expectation is cut before what has changed.
func TestAChangeBehindTheEndOfALongListIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		many := func(last identity.Identity) identity.Expectation {
			var ids []identity.Identity
			for range 20 {
				ids = append(ids, customSA)
			}
			return identity.Expect(append(ids, last)...)
		}
		w := start(t, func(o *agent.Options) { o.ExpectationInterval = time.Minute })
		w.expects(many(app), nil)
		w.after(time.Minute)
		w.expects(many(other), nil)
		for before := len(w.reads); len(w.reads) == before; {
			w.after(time.Second)
		}
		w.after(3 * interval)
		if w.wants(t, identity.Match); w.judged[identity.Mismatch] > 0 {
			t.Errorf("%d probes were accused of what was right before the change", w.judged[identity.Mismatch])
		}
	})
}

// A changed annotation gets to the metadata server, and to the cache that the API
// server answers from, at different moments. Neither order accuses anybody,
// whenever in between the agent probes and reads.
func TestAnAnnotationThatNotAllKnowYetAccusesNobody(t *testing.T) {
	for _, lag := range []struct {
		name          string
		server, cache time.Duration
	}{
		{"the metadata server first", 0, 2 * time.Second},
		{"the metadata server at once", 0, 0},
		{"the metadata server last", 45 * time.Second, 0},
	} {
		t.Run(lag.name, func(t *testing.T) {
			for phase := time.Duration(0); phase < 90*time.Second; phase += 170 * time.Millisecond {
				synctest.Test(t, func(t *testing.T) {
					w := start(t, func(o *agent.Options) { o.ExpectationInterval = time.Minute })
					w.after(time.Minute + phase)
					time.AfterFunc(lag.server, func() { w.answers(gke(other)) })
					time.AfterFunc(lag.cache, func() { w.expects(annotated(other), nil) })
					w.after(5 * time.Minute)
					if got := w.changes(); !slices.Equal(got, []identity.State{identity.Match}) {
						t.Errorf("changed %s after the start: stated %v, want match alone", time.Minute+phase, got)
					}
					// Six of these would be taken for flapping.
					if n := w.judged[identity.Mismatch]; n > 4 {
						t.Errorf("changed %s after the start: %d verdicts are a mismatch, want few", time.Minute+phase, n)
					}
				})
			}
		})
	}
}

// Who got the new annotation wrong is told in the end.
func TestAMetadataServerThatNeverLearnsOfAnAnnotationIsAccused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(o *agent.Options) { o.ExpectationInterval = time.Minute })
		w.after(time.Second)
		w.expects(annotated(other), nil) // which is read after a minute
		w.after(3*time.Minute - 2*time.Second)
		w.wants(t, identity.Match)
		w.after(2*interval + 2*time.Second)
		w.wants(t, identity.Mismatch)
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
			w.expects(annotated(id), nil)
			w.answers(gke(id))
			w.after(interval)
		}
		w.after(4 * time.Minute)
		if slices.ContainsFunc(w.changes(), identity.State.Accuses) {
			t.Errorf("stated %v, want no accusation", w.changes())
		}
		if n := len(w.reads) - before; n > 3+9 {
			t.Errorf("%d reads in nine minutes, want three and then one a minute", n)
		}
		w.answers(gke(other))
		w.after(interval + 3*time.Second)
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

// Each of these is read twice, since the first read may be of an old cache.
func TestAForeignIdentityThatComesAndGoesReadsTwiceAsOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		before := len(w.reads)
		for i := range 60 {
			w.answers(gke([]identity.Identity{other, app}[i%2]))
			w.after(interval)
		}
		if n := len(w.reads) - before; n < 2*9 || n > 2*13+10 { // and the regular ones while it accuses
			t.Errorf("%d reads in ten minutes, want six and then two or three a minute", n)
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
		w.expects(annotated(other), nil)
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
		w.expects(annotated(app), nil)
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
		w.expects(annotated(app), nil)
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

// invalid is what a read of an annotation brings that is no email.
func invalid(t *testing.T, annotation string) (identity.Expectation, error) {
	t.Helper()
	e, err := identity.FromAnnotations(map[string]string{identity.AnnotationServiceAccount: annotation}, "demo", "app", "project")
	if err == nil {
		t.Fatalf("%q is an email", annotation)
	}
	return e, err
}

// repeating is GKE's server that repeats an annotation unchecked.
func repeating(annotation string) identity.Observation {
	o := gke("")
	o.Email = identity.Email{Request: failed(identity.Malformed), Instead: identity.Shown(annotation)}
	o.Token = identity.Token{Request: failed(identity.NoServiceAccount)}
	return o
}

// A stray quote (google-github-actions/auth issue 139), from the start on.
func TestAnAnnotationThatIsNoEmailIsAtFaultAndNotTheServer(t *testing.T) {
	const annotation = `"app@project.iam.gserviceaccount.com`
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.expects(invalid(t, annotation))
		w.answers(repeating(annotation))
		w.after(2 * time.Minute)
		w.wants(t, identity.UnknownExpectation)
		s := w.Snapshot()
		if !strings.Contains(s.Verdict.Why, "repeats") || s.ExpectationError == nil || s.ExpectationRead.IsZero() {
			t.Errorf("why %q, error %v, read at %s; want that it was read, and is repeated", s.Verdict.Why, s.ExpectationError, s.ExpectationRead)
		}
		if n := strings.Count(w.logs.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings, want one:\n%s", n, &w.logs)
		}
		w.expects(annotated(app), nil)
		w.answers(gke(app))
		w.after(time.Minute + interval)
		w.wants(t, identity.Match)
		if n := len(w.reads); n > 8 {
			t.Errorf("%d reads in three minutes, want fewer and fewer", n)
		}
	})
}

// It was read well: what was expected before accuses nobody any more, and is right for
// as long as the metadata server may not know of the change.
func TestAnAnnotationThatBecomesNoEmailEndsAnAccusation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		w.answers(gke(other))
		w.after(2 * interval)
		w.wants(t, identity.Mismatch)
		w.expects(invalid(t, "app"))
		w.after(time.Minute + interval)
		w.wants(t, identity.UnknownExpectation)
		w.answers(gke(app))
		w.after(interval + time.Second)
		w.wants(t, identity.Match) // as it was until a minute ago
		w.after(2 * time.Minute)
		w.wants(t, identity.UnknownExpectation)
		w.answers(vm(customSA))
		w.after(2 * interval)
		w.wants(t, identity.NodeFallback) // which no annotation explains
	})
}

// A read that fails meanwhile takes nothing back of what was read.
func TestAFailedReadKeepsAnAnnotationThatIsNoEmail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		w.answers(gke(other))
		w.after(2 * interval)
		w.expects(invalid(t, "app"))
		w.after(time.Minute + interval)
		w.expects(identity.Expectation{}, errAway)
		w.after(5 * time.Minute)
		w.wants(t, identity.UnknownExpectation)
		if err := w.Snapshot().ExpectationError; !errors.Is(err, errAway) {
			t.Errorf("error %v, want %v", err, errAway)
		}
	})
}
