package agent_test

import (
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const keptProbes, newestProbes = 100, 50

// diary is a recorder that writes down all verdicts.
type diary struct {
	agent.Recorder
	states []identity.State
}

func (d *diary) Judged(s identity.State) { d.states = append(d.states, s); d.Recorder.Judged(s) }

// keeping is a world with a diary.
func keeping(t *testing.T) (*world, *diary) {
	t.Helper()
	d := new(diary)
	w := start(t, func(o *agent.Options) {
		d.Recorder = o.Recorder
		o.Recorder = d
	})
	return w, d
}

func states(probes []agent.Probe) []identity.State {
	var s []identity.State
	for _, p := range probes {
		s = append(s, p.State)
	}
	return s
}

// wantsOf checks what holds for the kept probes at any time: there are not too
// many, in the order of time, the newest of all are there, and no other is lost
// without a mark.
func wantsOf(t *testing.T, probes []agent.Probe, all []identity.State) {
	t.Helper()
	if len(probes) != min(len(all), keptProbes) {
		t.Fatalf("%d probes are kept of %d", len(probes), len(all))
	}
	newest := min(len(all), newestProbes)
	if got, want := states(probes[len(probes)-newest:]), all[len(all)-newest:]; !slices.Equal(got, want) {
		t.Fatalf("the newest probes are\n%v, want\n%v", got, want)
	}
	at := -1 // where the probe is in the diary
	for i, p := range probes {
		at += 1 + p.Dropped
		if at >= len(all) || all[at] != p.State {
			t.Fatalf("probe %d is %s, %d after the one before: the diary says %v", i, p.State, 1+p.Dropped, all)
		}
		if i > 0 && p.At.Before(probes[i-1].At) {
			t.Fatalf("probe %d is older than the one before", i)
		}
	}
	if at != len(all)-1 {
		t.Fatalf("the probes and the marks of those that were dropped are %d, want %d", at+1, len(all))
	}
}

func TestFailuresOutliveMatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := keeping(t)
		w.after(20 * interval)
		w.thenAnswers(down(), gke(app))
		w.after(10 * interval)
		w.thenAnswers(gke(other), gke(app))
		w.after(500 * interval)
		w.wants(t, identity.Match)
		probes := w.Snapshot().Probes
		wantsOf(t, probes, d.states)
		var bad []identity.State
		for _, p := range probes {
			if p.State != identity.Match {
				bad = append(bad, p.State)
			}
		}
		if want := []identity.State{identity.Unavailable, identity.Mismatch}; !slices.Equal(bad, want) {
			t.Errorf("the failures %v are kept after %d probes, want %v", bad, len(d.states), want)
		}
		// Of the matches the oldest go first, so that the strip has one hole and not many.
		if holes := len(probes) - len(slices.DeleteFunc(slices.Clone(probes), func(p agent.Probe) bool { return p.Dropped > 0 })); holes > 3 {
			t.Errorf("%d holes in %+v, want at most one before, between and after the two failures", holes, probes)
		}
	})
}

// A long outage must not hide that it is over, and a new one not that it is there.
func TestOldFailuresDoNotHideWhatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := keeping(t)
		w.after(interval)
		w.answers(down())
		w.after(300 * interval)
		w.answers(gke(app))
		w.after(300 * interval)
		probes := w.Snapshot().Probes
		wantsOf(t, probes, d.states)
		count := func(s identity.State) (n int) {
			for _, p := range w.Snapshot().Probes {
				if p.State == s {
					n++
				}
			}
			return n
		}
		if got := count(identity.Match); got != newestProbes {
			t.Errorf("%d of the probes are matches, want the newest %d and no older one", got, newestProbes)
		}
		w.thenAnswers(gke(other), gke(app))
		w.after(200 * interval)
		wantsOf(t, w.Snapshot().Probes, d.states)
		if count(identity.Mismatch) != 1 {
			t.Errorf("the new failure has gone before older ones: %v", states(w.Snapshot().Probes))
		}
	})
}

func TestProbesAreKeptInOrderWhateverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := keeping(t)
		random := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // repeatable
		answers := []identity.Observation{gke(app), gke(app), gke(app), gke(app), down(), vm(customSA), denied()}
		w.answersBy(func(bool) identity.Observation { return answers[random.IntN(len(answers))] })
		for range 200 {
			w.after(interval)
			wantsOf(t, w.Snapshot().Probes, d.states)
		}
	})
}

// Readers share a snapshot, for as long as they like.
func TestLaterProbesDoNotChangeAnOlderSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := keeping(t)
		var snapshots []*agent.Snapshot
		var copies [][]agent.Probe
		for i := range 400 {
			if i%7 == 0 {
				w.thenAnswers(down(), gke(app))
			}
			w.after(interval)
			snapshots = append(snapshots, w.Snapshot())
			copies = append(copies, slices.Clone(w.Snapshot().Probes))
		}
		for i, s := range snapshots {
			if !reflect.DeepEqual(s.Probes, copies[i]) {
				t.Fatalf("the snapshot after %d intervals was changed to\n%v, it was\n%v", i, s.Probes, copies[i])
			}
		}
	})
}

func TestAProbeTellsWhatFailedAndConfirmingOnesAreKeptToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := keeping(t)
		w.after(time.Second)
		began := time.Now()
		partly := vm(customSA)
		partly.Server.Failure = &identity.Failure{Reason: identity.ServerError, Status: 500, Detail: "<script>"}
		w.thenAnswers(partly, vm(customSA))
		w.after(interval)
		probes := w.Snapshot().Probes
		wantsOf(t, probes, d.states)
		if want := []identity.State{identity.Match, identity.NodeFallback, identity.NodeFallback, identity.NodeFallback}; !slices.Equal(states(probes), want) {
			t.Fatalf("probes %v, want %v: each of them, the confirming ones too", states(probes), want)
		}
		if want := map[identity.Endpoint]identity.Reason{identity.EndpointServer: identity.ServerError}; !maps.Equal(probes[1].Failures, want) {
			t.Errorf("failures %v, want %v", probes[1].Failures, want)
		}
		if gap := probes[3].At.Sub(probes[1].At); gap != 600*time.Millisecond || probes[1].At.Before(began) {
			t.Errorf("the probes were at %v, want them 300 ms apart", probes)
		}
	})
}
