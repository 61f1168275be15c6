package agent_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// readsOf makes the API server answer with the expectation, which was changed so long ago.
func (w *world) readsOf(e identity.Expectation, age time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expected, w.expectErr = identity.Reading{Expectation: e, Changed: time.Now().Add(-age)}, nil
}

// Somebody changes the annotation on purpose, the metadata server follows, and the
// API server does not answer: nobody may be accused by what was expected before.
func TestWhatCannotBeReadAgainAccusesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(5 * time.Minute)
		w.expects(identity.Expectation{}, errAway)
		w.answers(gke(other))
		w.after(time.Hour)
		w.wants(t, identity.UnknownExpectation)
		s := w.Snapshot()
		if got := w.changes(); !slices.Equal(got, []identity.State{identity.Match, identity.UnknownExpectation}) {
			t.Errorf("stated %v, want no accusation", got)
		}
		if s.Verdict.Identity != other {
			t.Errorf("observed %q, want %q", s.Verdict.Identity, other)
		}
		for _, part := range []string{"the identity is not the expected one", "was read 1h", errAway.Error()} {
			if !strings.Contains(s.Verdict.Why, part) {
				t.Errorf("why %q lacks %q", s.Verdict.Why, part)
			}
		}
		w.expects(annotated(other), nil)
		w.after(2 * time.Minute)
		w.wants(t, identity.Match)
	})
	t.Run("and the pool neither", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, nil)
			w.after(time.Minute)
			w.expects(identity.Expectation{}, errAway)
			w.answers(gke("project.svc.id.goog"))
			w.after(2 * interval)
			w.wants(t, identity.UnknownExpectation)
		})
	})
	t.Run("but the VM's server is none of an annotation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, nil)
			w.after(time.Minute)
			w.expects(identity.Expectation{}, errAway)
			w.answers(vm(customSA))
			w.after(interval + time.Second)
			w.wants(t, identity.NodeFallback)
		})
	})
	t.Run("and nothing is read for what is configured", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, nil)
			w.expects(identity.Expect(app), nil)
			w.after(time.Minute)
			w.answers(gke(other))
			w.after(interval + time.Second)
			w.wants(t, identity.Mismatch)
		})
	})
	t.Run("what was accused before stays", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, nil)
			w.after(time.Minute)
			w.answers(gke(other))
			w.after(2 * interval)
			w.wants(t, identity.Mismatch)
			w.expects(identity.Expectation{}, errAway)
			w.after(time.Hour)
			w.wants(t, identity.Mismatch)
		})
	})
}

// `helm upgrade` changes the annotation and restarts all agents, and the metadata
// servers follow a while later.
func TestAnAnnotationThatWasChangedAMomentAgoAccusesNobodyAfterARestart(t *testing.T) {
	for _, tt := range []struct {
		name  string
		age   time.Duration // of the change, at the start
		until time.Duration // when it is accused if the server never follows
	}{
		{"changed 5 s before the start", 5 * time.Second, 115 * time.Second},
		{"changed 100 s before the start", 100 * time.Second, 20 * time.Second},
		{"changed an hour ago", time.Hour, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, nil)
				w.readsOf(annotated(app), tt.age)
				w.answers(gke(other)) // what was expected before
				if tt.until > 0 {
					w.after(tt.until - time.Second)
					if slices.ContainsFunc(w.changes(), identity.State.Accuses) {
						t.Errorf("stated %v, want no accusation yet", w.changes())
					}
					if why := w.Snapshot().Verdict.Why; !strings.Contains(why, "was changed") {
						t.Errorf("why %q, want that the annotation was changed", why)
					}
				}
				w.after(interval + 6*time.Second)
				w.wants(t, identity.Mismatch)
			})
			synctest.Test(t, func(t *testing.T) {
				w := start(t, nil)
				w.readsOf(annotated(app), tt.age)
				w.answers(gke(other))
				w.after(tt.until / 2)
				w.answers(gke(app))
				w.after(interval + time.Second)
				w.wants(t, identity.Match)
			})
		})
	}
}

// The grace is measured from the change and not from the moment at which it was read.
func TestARunningAgentAccusesTheGraceAfterTheChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(o *agent.Options) { o.ExpectationInterval = time.Minute })
		w.after(time.Second)
		w.readsOf(annotated(other), 0) // is read after a minute
		w.after(2*time.Minute - 2*time.Second)
		w.wants(t, identity.Match) // what was expected before is right as well
		w.after(interval + 7*time.Second)
		w.wants(t, identity.Mismatch)
	})
}

// An annotation that was removed leaves no time. That other parts of the object are
// old says nothing about it.
func TestARemovedAnnotationAccusesNobodyForTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(o *agent.Options) { o.ExpectationInterval = time.Minute })
		w.readsOf(annotated(app), time.Hour)
		w.after(time.Second)
		pool, err := identity.FromAnnotations(nil, "demo", "app", "project")
		if err != nil {
			t.Fatal(err)
		}
		w.expects(pool, nil) // is read after a minute
		w.after(3*time.Minute - 2*time.Second)
		w.wants(t, identity.Match)
		w.after(2*interval + 7*time.Second)
		w.wants(t, identity.Mismatch)
	})
}

// Somebody changes it twice, and the agent reads only what it was before and after.
func TestAChangeThatWasTakenBackBetweenTwoReadsAccusesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.readsOf(annotated(app), time.Hour)
		w.after(time.Minute)
		w.readsOf(annotated(app), 0) // it was changed to another, and back just now
		w.answers(gke(other))        // which the metadata server has not seen yet
		w.after(30 * time.Second)
		w.answers(gke(app))
		w.after(2 * interval)
		w.wants(t, identity.Match)
		if slices.ContainsFunc(w.changes(), identity.State.Accuses) {
			t.Errorf("stated %v, want no accusation", w.changes())
		}
	})
}

// The Compute default account is a node's by its name, and may be in an annotation.
func TestAnAccountThatWasExpectedAMomentAgoIsNoFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.readsOf(annotated(app), 10*time.Second)
		w.answers(gke(nodeSA)) // as it was annotated before the agent started
		w.after(90 * time.Second)
		if slices.ContainsFunc(w.changes(), identity.State.Accuses) {
			t.Errorf("stated %v, want no accusation", w.changes())
		}
		w.after(time.Minute)
		w.wants(t, identity.NodeFallback)
	})
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.readsOf(annotated(app), 10*time.Second)
		w.after(time.Second)
		w.expects(identity.Expectation{}, errAway) // by which nobody forgets the change
		w.answers(gke(nodeSA))
		w.after(90 * time.Second)
		if slices.ContainsFunc(w.changes(), identity.State.Accuses) {
			t.Errorf("stated %v, want no accusation", w.changes())
		}
		w.after(time.Minute)
		w.wants(t, identity.NodeFallback)
	})
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.readsOf(annotated(app), 10*time.Second)
		w.answers(vm(customSA)) // which no annotation explains
		w.after(interval)
		w.wants(t, identity.NodeFallback)
	})
}

// What holds for any answers: while no probe of an interval and a confirmation is a
// match, the state is none; and nobody is accused unless three probes in a row do.
func TestThePromisesHoldForAnyAnswers(t *testing.T) {
	answers := []identity.Observation{gke(app), vm(app), vm(customSA), gke(nodeSA), gke(other), gke("second@project.iam.gserviceaccount.com"), gke("project.svc.id.goog"), denied(), down()}
	partly := gke(other)
	partly.Server = identity.Responder{Request: failed(identity.Timeout), Server: identity.ServerUnknown}
	answers = append(answers, partly)
	reached := map[identity.State]bool{}
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // repeatable
			var earlier, made []identity.State
			w := start(t, func(o *agent.Options) {
				o.Random = random.Float64
				o.Recorder = judging{o.Recorder, func(s identity.State) { made = append(made, s) }}
			})
			w.after(time.Second)
			for range 60 {
				// A few of the answers, which stay, come in turns, or at random.
				some := []identity.Observation{answers[random.IntN(len(answers))], answers[random.IntN(len(answers))], answers[random.IntN(len(answers))]}[:1+random.IntN(3)]
				turns, i := random.IntN(2) == 0, 0
				w.answersBy(func(bool) identity.Observation {
					i++
					if turns {
						return some[i%len(some)]
					}
					return some[random.IntN(len(some))]
				})
				switch random.IntN(8) {
				case 0, 1:
					w.expects(identity.Expectation{}, errAway)
				case 2:
					w.expects(invalid(t, "app"))
				default:
					w.expects(annotated(app), nil)
				}
				// Until a whole cycle has ended: an interval, and what a confirmation takes.
				for range 1 + random.IntN(3) {
					before, known := w.Snapshot().Verdict.State, w.Snapshot().Expectation.Known()
					earlier, made = made, nil
					w.after(interval + 4*time.Second)
					now := w.Snapshot().Verdict.State
					reached[now] = true
					if known != w.Snapshot().Expectation.Known() {
						continue // what was observed is judged by the new one, and was counted by the old one
					}
					if !slices.Contains(made, identity.Match) && now == identity.Match {
						t.Fatalf("seed %d: probes %v, and the state is a match", seed, made)
					}
					if now.Accuses() && !before.Accuses() && !threeInARow(slices.Concat(earlier, made)) {
						t.Fatalf("seed %d: probes %v, from %s to %s", seed, made, before, now)
					}
				}
			}
		})
	}
	for _, s := range identity.VerdictStates() {
		if !reached[s] {
			t.Errorf("the state %s was never reached", s)
		}
	}
}

func threeInARow(made []identity.State) bool {
	n := 0
	for _, s := range made {
		if n++; !s.Accuses() {
			n = 0
		}
		if n == 3 {
			return true
		}
	}
	return false
}

// judging passes each verdict on.
type judging struct {
	agent.Recorder
	judged func(identity.State)
}

func (j judging) Judged(s identity.State) { j.judged(s); j.Recorder.Judged(s) }

// What takes long in a healthy loop is the API server, not the loop.
func TestALoopThatWaitsForTheAPIServerIsNotStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(o *agent.Options) {
			o.Interval, o.Timeout = time.Second, time.Second
			o.Expect = func(ctx context.Context) (identity.Reading, error) {
				<-ctx.Done()
				return identity.Reading{}, ctx.Err()
			}
			o.ClusterSettings = func(ctx context.Context, _ diagnose.Scope, _ diagnose.Settings) diagnose.Settings {
				<-ctx.Done()
				return diagnose.Settings{}
			}
		})
		slow := func(o identity.Observation) identity.Observation {
			time.Sleep(time.Second)
			return o
		}
		turn := 0
		w.answersBy(func(bool) identity.Observation {
			turn++
			return slow([]identity.Observation{vm(customSA), gke(nodeSA), down(), vm(other), gke(nodeSA), down(), down()}[turn%7])
		})
		for range 700 {
			w.after(100 * time.Millisecond)
			if state, _ := w.Snapshot().State(); state == identity.Stale || !w.Alive() {
				t.Fatalf("after %s the state is %s, alive %t", w.lived(), state, w.Alive())
			}
		}
	})
}

// A ServiceAccount is made, and its annotation is changed a moment later; or it is
// changed and changed back. What explains the new identity is read at once.
func TestAChangeWithinTheGraceOfAnotherIsFoundAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.readsOf(annotated(app), 5*time.Second)
		w.after(interval)
		w.readsOf(annotated(other), 0)
		w.answers(gke(other))
		w.after(interval + time.Second)
		w.wants(t, identity.Match)
		if got := w.Snapshot().Expectation.String(); got != string(other) {
			t.Errorf("expects %s, want %s", got, other)
		}
		w.readsOf(annotated(app), 0)
		w.answers(gke(app)) // which is right as what was expected before
		w.after(interval + time.Second)
		w.wants(t, identity.Match)
		w.after(time.Minute + interval)
		if got := w.Snapshot().Expectation.String(); got != string(app) {
			t.Errorf("a minute later expects %s, want %s", got, app)
		}
		if got := w.changes(); !slices.Equal(got, []identity.State{identity.Match}) {
			t.Errorf("stated %v, want match alone", got)
		}
		if n := w.judged[identity.Mismatch]; n != 0 {
			t.Errorf("%d verdicts were counted as a mismatch", n)
		}
	})
}
