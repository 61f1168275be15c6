package agent_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func TestTheFirstMatchIsStatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Nanosecond)
		w.wants(t, identity.Match)
		if !w.Snapshot().Ready() || len(w.probes) != 1 {
			t.Errorf("ready %t after %d probes, want true after one", w.Snapshot().Ready(), len(w.probes))
		}
	})
}

// A fresh Pod is unknown to its metadata server for some seconds. Nobody should
// wait an interval longer for the verdict, nor be asked every second for it.
func TestAStartThatFailsIsTriedAgainSoonAndLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.answers(down())
		w.after(2 * time.Second)
		w.answers(gke(app))
		w.wants(t, identity.Starting)
		if w.Snapshot().Ready() {
			t.Error("ready without a verdict")
		}
		w.after(3 * time.Second)
		w.wants(t, identity.Match)
	})
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.answers(down())
		w.after(50 * time.Second)
		w.wants(t, identity.Starting)
		// At 0, 1, 3, 7 and 15 s, then every interval; three probes each.
		if n := len(w.probes); n < 24 || n > 27 {
			t.Errorf("%d probes in 50 s, want 8 or 9 times three", n)
		}
	})
}

func TestAgentsThatStartTogetherProbeSpreadOut(t *testing.T) {
	const agents, slots, intervals = 6000, 10, 5
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		probes := make([]int, intervals*slots)
		began := time.Now()
		count := proberFunc(func() {
			if slot := int(time.Since(began) / (interval / slots)); slot < len(probes) {
				probes[slot]++
			}
		})
		w := &world{expected: identity.Reading{Expectation: identity.Expect(app)}, judged: map[identity.State]int{}}
		done := make(chan struct{})
		turn := make(chan struct{}, 1) // agents share the counters
		for i := range uint64(agents) {
			random := rand.New(rand.NewPCG(i, 2)) //nolint:gosec // repeatable
			a := agent.New(agent.Options{
				Prober: serial{turn, count}, Recorder: w, Expect: w.read, Logger: quiet(), Interval: interval, Timeout: time.Second,
				TokenInterval: time.Minute, ExpectationInterval: time.Hour,
				Random: random.Float64,
			})
			go func() { a.Run(ctx); done <- struct{}{} }()
		}
		time.Sleep(intervals * interval)
		cancel()
		for range agents {
			<-done
		}
		const even = agents * 100 / 95 / slots // a period is 95 % of the interval
		probes[0] -= agents                    // the first one is at once
		for i, n := range probes {
			least := even * 90 / 100
			if i == 0 {
				least = even / 2 // the jitter delays those that would be the earliest
			}
			if n < least || n > even*110/100 {
				t.Errorf("second %d has %d probes of %d agents, want about %d", i, n, agents, even)
			}
		}
	})
}

// Whatever happens to all of them at one moment, an API server is asked by a few of many
// agents at each moment afterwards.
func TestAgentsThatStartAndFailTogetherReadSpreadOut(t *testing.T) {
	const agents = 200
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var mu sync.Mutex
		reads := map[int]int{} // by the minute
		read := func() {
			mu.Lock()
			defer mu.Unlock()
			reads[int(time.Since(began)/time.Minute)]++
		}
		var failing atomic.Bool
		w := &world{judged: map[identity.State]int{}}
		turn, done := make(chan struct{}, 1), make(chan struct{})
		for i := range uint64(agents) {
			o := w.options()
			o.Random = rand.New(rand.NewPCG(i, 3)).Float64 //nolint:gosec // repeatable
			o.Recorder, o.Logger, o.Interval, o.ExpectationInterval = nobody{}, quiet(), time.Minute, 15*time.Minute
			o.Prober = serial{turn, observed(func() identity.Observation {
				if failing.Load() {
					return vm(customSA)
				}
				return gke(app)
			})}
			o.Expect = func(context.Context) (identity.Reading, error) {
				read()
				return identity.Reading{Expectation: annotated(app)}, nil
			}
			o.ClusterSettings = func(context.Context, diagnose.Scope, diagnose.Settings) diagnose.Settings {
				read()
				return diagnose.Settings{Cilium: diagnose.ConfigMap{State: diagnose.Read, Data: map[string]string{"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true"}}}
			}
			a := agent.New(o)
			go func() { a.Run(ctx); done <- struct{}{} }()
		}
		most := func(what string, lasts time.Duration, want int) {
			t.Helper()
			from := int(time.Since(began) / time.Minute)
			time.Sleep(lasts)
			mu.Lock()
			defer mu.Unlock()
			n := 0
			for i := from; i < int(time.Since(began)/time.Minute); i++ {
				n = max(n, reads[i])
			}
			if n > want || n == 0 {
				t.Errorf("%s: %d reads in a minute by %d agents, want some and at most %d", what, n, agents, want)
			}
			t.Logf("%s: %d", what, n)
		}
		time.Sleep(2 * time.Minute)
		most("the hour after the start", time.Hour, agents*15/100)
		failing.Store(true)
		time.Sleep(10 * time.Minute) // all of them read at once, to be sure, and soon again
		most("an hour of failure", time.Hour, agents/2)
		failing.Store(false)
		time.Sleep(2 * time.Minute)
		most("the hour after the repair", time.Hour, agents*15/100)
		cancel()
		for range agents {
			<-done
		}
	})
}

func TestProbesAreNeverMoreThanAnIntervalApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable
		w := start(t, func(o *agent.Options) { o.Random = random.Float64 })
		w.after(time.Hour)
		for i := 1; i < len(w.probes); i++ {
			gap := w.probes[i].Sub(w.probes[i-1])
			if gap > interval || (gap < interval*9/10 && i > 1) { // the second one begins the agent's own phase
				t.Fatalf("probes %d and %d are %s apart, want between 9 and 10 s", i-1, i, gap)
			}
		}
		if len(w.probes) < 360 {
			t.Errorf("%d probes in an hour, want at least 360", len(w.probes))
		}
	})
}

func TestAChangeIsStatedWithinAnIntervalAndASecond(t *testing.T) {
	for _, tt := range []struct {
		name     string
		observed identity.Observation
		want     identity.State
		later    time.Duration
	}{
		{"bypass", vm(customSA), identity.NodeFallback, 0},
		{"source NAT", gke(nodeSA), identity.NodeFallback, 0},
		// An annotation that was just changed could explain these.
		{"another account", gke(other), identity.Mismatch, 2 * time.Second},
		{"the pool", gke("project.svc.id.goog"), identity.Unbound, 2 * time.Second},
		{"refused fast", down(), identity.Unavailable, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, nil)
				w.after(interval + time.Millisecond) // just after a probe: the worst moment
				w.wants(t, identity.Match)
				w.answers(tt.observed)
				w.after(interval + time.Second + tt.later - 2*time.Millisecond)
				w.wants(t, tt.want)
				w.answers(gke(app))
				w.after(interval + time.Second)
				w.wants(t, identity.Match)
				if got, want := w.changes(), []identity.State{identity.Match, tt.want, identity.Match}; !slices.Equal(got, want) {
					t.Errorf("stated %v, want %v", got, want)
				}
			})
		})
	}
}

// The token is valid for an hour and asked for once a minute, so its refusal
// shows at the next request for one.
func TestARefusedTokenIsStatedWithinATokenInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		w.answers(denied())
		w.after(time.Minute + time.Second)
		w.wants(t, identity.TokenDenied)
	})
}

func TestABlipIsCountedAndNotStated(t *testing.T) {
	for _, blip := range []identity.Observation{vm(customSA), gke(other), down()} {
		for _, length := range []int{1, 2} {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, nil)
				w.after(time.Second)
				answers := []identity.Observation{blip, blip}[:length]
				w.thenAnswers(append(answers, gke(app))...)
				w.after(5 * interval)
				w.wants(t, identity.Match)
				if got := w.changes(); !slices.Equal(got, []identity.State{identity.Match}) {
					t.Errorf("stated %v, want match alone", got)
				}
				v := identity.Judge(identity.Expect(app), nil, blip)
				if got := w.judged[v.State]; got != length {
					t.Errorf("counted %d verdicts %s, want %d", got, v.State, length)
				}
			})
		}
	}
}

func TestOneLuckyConnectionIsNoRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		w.answers(vm(customSA))
		w.after(2 * interval)
		w.wants(t, identity.NodeFallback)
		w.thenAnswers(gke(app), vm(customSA))
		w.after(3 * interval)
		if got, want := w.changes(), []identity.State{identity.Match, identity.NodeFallback}; !slices.Equal(got, want) {
			t.Errorf("stated %v, want %v", got, want)
		}
	})
}

// Each request is its own connection: while the datapath changes, the email can
// come from one server and the machine type from the other.
func TestMixedEvidenceIsNotStated(t *testing.T) {
	mixed := []struct {
		name     string
		observed identity.Observation
	}{
		{"the node's email, and the GKE server", gke(customSA)},
		{"the right email, and the VM server", vm(app)},
	}
	for _, tt := range mixed {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, nil)
				w.after(time.Second)
				w.thenAnswers(tt.observed, vm(customSA))
				w.after(interval + time.Second)
				if got, want := w.changes(), []identity.State{identity.Match, identity.NodeFallback}; !slices.Equal(got, want) {
					t.Errorf("stated %v, want %v", got, want)
				}
				w.thenAnswers(tt.observed, gke(app))
				w.after(2 * interval)
				if got := w.Snapshot().Verdict; got.State != identity.Match || got.Server != identity.ServerGKE {
					t.Errorf("stated %+v, want a match from the GKE server", got)
				}
			})
		})
	}
}

func TestContradictionsLeaveWhatIsStated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		turn := 0
		w.answersBy(func(bool) identity.Observation {
			turn++
			return []identity.Observation{vm(customSA), gke(app)}[turn%2]
		})
		w.after(time.Hour)
		if got := w.changes(); !slices.Equal(got, []identity.State{identity.Match}) {
			t.Errorf("stated %v, want match alone", got)
		}
		if w.judged[identity.NodeFallback] < 100 {
			t.Errorf("counted %v, want the fallbacks too", w.judged)
		}
	})
}

func TestWhileItStarts(t *testing.T) {
	slow := 40 * time.Second
	for _, tt := range []struct {
		name  string
		first identity.Observation // until slow
		early identity.State       // before slow
		late  identity.State       // if it stays so
	}{
		{"a metadata server that is not there yet is no news", down(), identity.Starting, identity.Unavailable},
		{"the node's identity is", vm(customSA), identity.NodeFallback, identity.NodeFallback},
		{"a refused token is", denied(), identity.TokenDenied, identity.TokenDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, nil)
				w.answers(tt.first)
				w.after(slow)
				w.wants(t, tt.early)
				w.answers(gke(app))
				w.after(interval + time.Second)
				w.wants(t, identity.Match)
			})
			synctest.Test(t, func(t *testing.T) {
				w := start(t, func(o *agent.Options) { o.Random = func() float64 { return 0.5 } })
				w.answers(tt.first)
				w.after(time.Minute + interval + 2*time.Second)
				w.wants(t, tt.late)
			})
		})
	}
	t.Run("without a grace it is stated at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, func(o *agent.Options) { o.StartupGrace = 0; o.Random = func() float64 { return 0.5 } })
			w.answers(down())
			w.after(interval)
			w.wants(t, identity.Unavailable)
		})
	})
	t.Run("contradictions to the end of the grace are no answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, func(o *agent.Options) { o.Random = func() float64 { return 0.5 } })
			turn := 0
			w.answersBy(func(bool) identity.Observation {
				turn++
				return []identity.Observation{vm(customSA), down()}[turn%2]
			})
			w.after(50 * time.Second)
			w.wants(t, identity.Starting)
			w.after(30 * time.Second)
			w.wants(t, identity.Unavailable)
		})
	})
}

func TestAHangingProbeMakesTheStateStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		release := make(chan struct{})
		w.answersBy(func(bool) identity.Observation { <-release; return gke(app) })
		w.after(3*interval - 2*time.Second)
		w.wants(t, identity.Match)
		if !w.Alive() {
			t.Error("the loop is called dead before three intervals have passed")
		}
		w.after(interval + 2*time.Second)
		w.wants(t, identity.Stale)
		if w.Alive() {
			t.Error("the loop hangs and is called alive")
		}
		if _, at := w.Snapshot().State(); time.Since(at) > 2*interval || time.Since(at) < 0 {
			t.Errorf("stale since %s, want a moment ago", at)
		}
		close(release)
		w.after(0)
		w.wants(t, identity.Match)
	})
}

// A server that answers nothing takes each probe to its deadline, and a change of
// the state several probes. The loop does not hang meanwhile.
func TestSlowProbesAreNotStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(o *agent.Options) { o.Timeout = interval })
		w.after(2 * time.Minute)
		w.answersBy(func(bool) identity.Observation {
			time.Sleep(interval)
			return down()
		})
		for range 600 {
			w.after(200 * time.Millisecond)
			if state, _ := w.Snapshot().State(); state == identity.Stale || !w.Alive() {
				t.Fatalf("state %s, alive %t while it probes", state, w.Alive())
			}
		}
		w.wants(t, identity.Unavailable)
	})
}

func TestBeforeTheFirstProbeTheStateIsStartingAndThenStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		release := make(chan struct{})
		defer close(release)
		w.answersBy(func(bool) identity.Observation { <-release; return gke(app) })
		w.after(50 * time.Second)
		w.wants(t, identity.Starting)
		if w.Snapshot().Ready() {
			t.Error("ready without a probe")
		}
		w.after(20 * time.Second)
		w.wants(t, identity.Stale)
	})
}

func TestAPanicIsCountedAndTheLoopGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		w.answersBy(func(bool) identity.Observation { panic("a bug") })
		w.after(2 * interval)
		w.wants(t, identity.Match)
		w.after(2 * interval)
		w.wants(t, identity.Stale)
		if !w.Alive() {
			t.Error("a loop that goes on is called dead")
		}
		w.answers(gke(app))
		w.after(interval)
		w.wants(t, identity.Match)
		if w.panics != 4 {
			t.Errorf("%d panics counted, want 4", w.panics)
		}
		if got := strings.Count(w.logs.String(), "panicked"); got != 1 {
			t.Errorf("%d lines about panics, want 1:\n%s", got, w.logs.String())
		}
	})
}

// panicked is what a prober panics with that knows better where the panic began.
type panicked struct{ stack string }

func (p panicked) String() string { return "a bug" }
func (p panicked) Stack() []byte  { return []byte(p.stack) }

func TestTheLogShowsThePlaceThatPanicked(t *testing.T) {
	for _, tt := range []struct {
		name  string
		value any
		want  string
	}{
		{"in the loop", "a bug", "TestTheLogShowsThePlaceThatPanicked"},
		{"in a goroutine of the prober", panicked{"goroutine 7 of the prober"}, `stack="goroutine 7 of the prober"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, nil)
				w.answersBy(func(bool) identity.Observation { panic(tt.value) })
				w.after(time.Second)
				if got := w.logs.String(); !strings.Contains(got, `panic="a bug"`) || !strings.Contains(got, tt.want) {
					t.Errorf("the log is %s, want the panic and %q", got, tt.want)
				}
			})
		})
	}
}

// What ran into its deadline because the process did not run says nothing about the
// server, however often it happens.
func TestAVoidProbeIsMadeAgainAndNeitherCountedNorStated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		left := 12
		void := down()
		void.Void = true
		w.answersBy(func(bool) identity.Observation {
			if left == 0 {
				return gke(app)
			}
			left--
			time.Sleep(3 * time.Second)
			return void
		})
		w.after(time.Minute + interval)
		w.wants(t, identity.Match)
		if got := w.changes(); !slices.Equal(got, []identity.State{identity.Match}) {
			t.Errorf("stated %v, want match alone", got)
		}
		if n := w.judged[identity.Unavailable]; n != 0 {
			t.Errorf("%d void probes were counted", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		void := down()
		void.Void = true
		w.answersBy(func(bool) identity.Observation { time.Sleep(3 * time.Second); return void })
		w.after(3*interval + 10*time.Second)
		w.wants(t, identity.Stale) // the last verdict is old, whoever is to blame
	})
}

// A process that is stopped and continued finds its requests past their deadline.
func TestASuspendedProcessAccusesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		suspended := false
		w.answersBy(func(bool) identity.Observation {
			if !suspended {
				suspended = true
				time.Sleep(10 * time.Minute)
				return down()
			}
			return gke(app)
		})
		w.after(10*time.Minute + interval)
		w.wants(t, identity.Match)
		w.after(interval)
		if got := w.changes(); !slices.Equal(got, []identity.State{identity.Match}) {
			t.Errorf("stated %v, want match alone", got)
		}
	})
}

func TestAStepOfTheWallClockChangesNothing(t *testing.T) {
	for _, step := range []time.Duration{-100 * time.Hour, 100 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var jumped atomic.Int64
			w := start(t, func(o *agent.Options) {
				o.Wall = func() time.Time { return time.Now().Round(0).Add(time.Duration(jumped.Load())) }
			})
			w.after(25 * time.Second)
			probes, tokens, reads := len(w.probes), len(w.tokenProbes), len(w.reads)
			jumped.Store(int64(step))
			w.after(25 * time.Second)
			w.wants(t, identity.Match)
			if len(w.probes)-probes != 3 && len(w.probes)-probes != 2 {
				t.Errorf("%d probes in 25 s after a step of %s", len(w.probes)-probes, step)
			}
			if len(w.tokenProbes) != tokens || len(w.reads) != reads {
				t.Errorf("a step of %s caused %d requests for tokens and %d reads", step, len(w.tokenProbes)-tokens, len(w.reads)-reads)
			}
			s := w.Snapshot()
			if want := time.Now().Add(step); s.LastProbe.Sub(want).Abs() > interval {
				t.Errorf("last probe at %s, want about %s: timestamps are the wall clock's", s.LastProbe, want)
			}
			w.answers(down())
			w.after(2 * interval)
			if state, at := w.Snapshot().State(); state != identity.Unavailable || at.Sub(time.Now().Add(step)).Abs() > 2*interval {
				t.Errorf("%s since %s, want unavailable since a moment ago by the wall clock", state, at)
			}
		})
	}
}

func TestAStopInterruptsTheProbeAndStatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		before, judged := w.Snapshot(), w.judged[identity.Unavailable]
		inProbe := make(chan struct{})
		w.answersBy(func(bool) identity.Observation { <-inProbe; return down() })
		w.after(interval)
		began := time.Now()
		go func() { time.Sleep(time.Millisecond); close(inProbe) }()
		w.stop()
		if took := time.Since(began); took > time.Second {
			t.Errorf("the stop took %s", took)
		}
		if w.Snapshot() != before || w.judged[identity.Unavailable] != judged {
			t.Error("a probe that was cut off was counted or stated")
		}
	})
}

func TestAWordForEachChangeAndNoneForAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changes := 0
		w := start(t, func(o *agent.Options) { o.Changed = func(identity.State, *agent.Snapshot) { changes++ } })
		w.after(time.Hour)
		w.answers(vm(customSA))
		w.after(time.Hour)
		w.stop()
		if lines := strings.Count(w.logs.String(), "\n"); lines != 1 || changes != 2 { // the expectation; match, node_fallback
			t.Errorf("%d lines and %d changes in two hours, want 1 and 2:\n%s", lines, changes, w.logs.String())
		}
	})
}

func TestTheHistoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		for range 30 {
			w.answers(down())
			w.after(2 * interval)
			w.answers(gke(app))
			w.after(2 * interval)
		}
		changes := w.Snapshot().Changes
		if len(changes) != 20 || changes[0].To.State != identity.Match || !changes[0].At.After(changes[19].At) {
			t.Errorf("%d changes, the newest %+v; want the last 20, the newest first", len(changes), changes[0])
		}
	})
}
