package agent_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// withCilium runs an agent where Cilium may be set to route by eBPF, and records
// which settings it reads.
func withCilium(t *testing.T, masquerade string, adjust ...func(*agent.Options)) (*world, *[]diagnose.Scope) {
	var reads []diagnose.Scope
	w := start(t, func(o *agent.Options) {
		for _, a := range adjust {
			a(o)
		}
		o.Process.HostNetwork = diagnose.No
		changed := time.Now()
		o.ClusterSettings = func(_ context.Context, scope diagnose.Scope, _ diagnose.Settings) diagnose.Settings {
			reads = append(reads, scope)
			return diagnose.Settings{
				Cilium: diagnose.ConfigMap{State: diagnose.Read, Changed: changed, Data: map[string]string{
					"enable-bpf-masquerade": masquerade, "kube-proxy-replacement": "true",
				}},
				NodeConfigs: diagnose.NodeConfigs{State: diagnose.Absent},
				CiliumAgent: diagnose.CiliumAgent{State: diagnose.Read, Started: changed.Add(time.Second)},
				DataplaneV2: diagnose.No, NodeLabels: map[string]string{diagnose.LabelMetadataServer: "true"},
			}
		}
	})
	return w, &reads
}

func (w *world) suspects() string { return named(w.Snapshot().Diagnosis.Suspects) }
func (w *world) risks() string    { return named(w.Snapshot().Diagnosis.Risks) }

// named lists findings as "confidence cause, ...".
func named(findings []diagnose.Finding) string {
	var names []string
	for _, f := range findings {
		names = append(names, string(f.Confidence)+" "+string(f.Cause))
	}
	return strings.Join(names, ", ")
}

// Who is told of a change can say why, for which the agent looks around first.
func TestAChangeIsToldWithItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		tell := func(previous identity.State, s *agent.Snapshot) {
			told = append(told, string(previous)+" -> "+string(s.Verdict.State)+": "+named(s.Diagnosis.Suspects))
		}
		w, _ := withCilium(t, "true", func(o *agent.Options) { o.Changed = tell })
		w.after(20 * time.Second)
		w.answers(vm(customSA))
		w.after(interval + time.Second)
		if want := []string{"starting -> match: ", "match -> node_fallback: proves cilium_bpf_host_routing"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}

func TestTheCauseIsToldWithTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, reads := withCilium(t, "true")
		w.after(20 * time.Second)
		if len(*reads) != 0 {
			t.Error("read the settings at once, as all agents of a cluster would")
		}
		w.answers(vm(customSA))
		w.after(interval + time.Second)
		w.wants(t, identity.NodeFallback)
		if got, want := w.suspects(), "proves cilium_bpf_host_routing"; got != want || len(*reads) != 1 {
			t.Errorf("suspects %v after %d reads, want %v after one", got, len(*reads), want)
		}
		w.answers(gke(app))
		w.after(interval + time.Second)
		w.wants(t, identity.Match)
		want := "suggests cilium_bpf_host_routing, suggests pooled_connections"
		if got := w.risks(); got != want || w.suspects() != "" {
			t.Errorf("risks %v, suspects %v after the repair, want %v and none", got, w.suspects(), want)
		}
	})
}

// Who signed for another verdict is no witness of this one.
func TestAWitnessSpeaksOfItsVerdictOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		w := start(t, func(o *agent.Options) {
			o.Process.HostNetwork = diagnose.No
			o.ClusterSettings = func(context.Context, diagnose.Scope, diagnose.Settings) diagnose.Settings {
				reads++
				return diagnose.Settings{DataplaneV2: diagnose.No, NodeLabels: map[string]string{}}
			}
			o.Claims = func(context.Context) identity.Claims { return identity.Claims{Server: identity.ServerGKE} }
		})
		w.after(5 * time.Minute)
		if reads != 1 {
			t.Fatalf("%d reads, want one while all is well", reads)
		}
		w.answers(vm(customSA))
		w.after(interval + time.Second)
		if got, want := w.suspects(), "suggests node_pool_gce_metadata"; got != want || reads != 2 {
			t.Errorf("suspects %v after %d reads, want %v: a token of GKE's server contradicts", got, reads, want)
		}
		// More states than it may read them for: it read them last for another one.
		for range 8 {
			w.answers(vm(other))
			w.after(interval)
			w.answers(vm(customSA))
			w.after(interval)
		}
		before := reads
		w.answers(vm(other))
		w.after(interval + time.Second)
		if got, want := w.suspects(), "proves node_pool_gce_metadata"; got != want || reads != before {
			t.Errorf("suspects %v after %d more reads, want %v without any", got, reads-before, want)
		}
	})
}

// What was read before may have changed with the verdict.
func TestSettingsOfBeforeTheVerdictExcludeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, reads := withCilium(t, "true")
		w.after(20 * time.Second)
		excludes := func(c diagnose.Cause) bool {
			return strings.Contains(named(w.Snapshot().Diagnosis.RuledOut), string(c))
		}
		// The same verdict again and again, for which it may not read them each time.
		for fresh := true; fresh; {
			before := len(*reads)
			w.answers(vm(customSA))
			w.after(interval)
			w.wants(t, identity.NodeFallback)
			if fresh = len(*reads) > before; excludes(diagnose.NodePoolGCEMetadata) != fresh {
				t.Errorf("after %d reads the label excludes the node pool: %t, want %t", len(*reads), !fresh, fresh)
			}
			if !excludes(diagnose.HostNetwork) {
				t.Error("hostNetwork is not excluded, which the Pod's own address does")
			}
			w.answers(gke(app))
			w.after(interval)
		}
		if n := len(*reads); n < 3 || n > 5 {
			t.Errorf("%d reads, want three and then one a minute", n)
		}
	})
}

// The API server's cache may know of a changed annotation later than the metadata
// server. The expectation waits for it, and so does what explains WI_EXPECTED_EMAILS.
func TestAChangedAnnotationHasTimeToGetToTheCache(t *testing.T) {
	for _, tt := range []struct {
		observed identity.Observation
		want     time.Duration
	}{
		{gke(other), 2 * time.Second},
		{gke("project.svc.id.goog"), 2 * time.Second},
		{vm(customSA), 0}, // which no annotation explains
		{down(), 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			var read time.Time
			w := start(t, func(o *agent.Options) {
				o.ClusterSettings = func(context.Context, diagnose.Scope, diagnose.Settings) diagnose.Settings {
					read = time.Now()
					return diagnose.Settings{}
				}
			})
			w.expects(identity.Expect(app), nil)
			w.after(time.Second)
			w.answers(tt.observed)
			w.after(2 * interval)
			if got := read.Sub(w.Snapshot().Since); got != tt.want {
				t.Errorf("%s: the settings are read %s later, want %s", w.Snapshot().Verdict.State, got, tt.want)
			}
		})
	}
}

func TestPooledConnectionsAreARiskForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := withCilium(t, "false")
		w.answers(vm(customSA))
		w.after(interval)
		w.answers(gke(app))
		w.after(time.Hour - time.Minute)
		if got, want := w.risks(), "suggests pooled_connections"; got != want {
			t.Errorf("risks %v, want %v", got, want)
		}
		w.after(3 * time.Minute)
		if got := w.risks(); got != "" {
			t.Errorf("risks %v, want none", got)
		}
	})
}

func TestTheSettingsAreReadEveryTwoHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, reads := withCilium(t, "false")
		w.after(30 * time.Minute)
		if want := []diagnose.Scope{diagnose.Everything}; w.risks() != "" || !slices.Equal(*reads, want) {
			t.Errorf("risks %v, and %v were read, want none and %v", w.risks(), *reads, want)
		}
		w.after(12 * time.Hour)
		if n := count(*reads, diagnose.Routine); n < 6 || n > 7 || len(*reads) != n+1 {
			t.Errorf("%v were read in twelve hours, want what is routine each two hours", *reads)
		}
	})
}

// Somebody corrects the setting, and looks at the page.
func TestWhatIsSuspectedIsLookedAtSoonAndThenEachTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, reads := withCilium(t, "true")
		w.after(time.Second)
		w.answers(vm(customSA))
		w.after(10 * time.Minute)
		if n := count(*reads, diagnose.Refresh); n < 3 || n > 4 {
			t.Errorf("%v were read in ten minutes, want Cilium's settings after 2, 4 and 8", *reads)
		}
		*reads = nil
		w.after(2 * time.Hour)
		if n := count(*reads, diagnose.Refresh); n < 10 || n > 12 || count(*reads, diagnose.Everything) > 2 {
			t.Errorf("%v were read in two hours, want Cilium's settings each ten minutes, and all each hour", *reads)
		}
	})
}

// A risk may be shown for months by each of 15,000 agents.
func TestARiskIsLookedAtLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, reads := withCilium(t, "true")
		w.after(time.Minute)
		if got, want := w.risks(), "suggests cilium_bpf_host_routing"; got != want {
			t.Errorf("risks %v, want %v", got, want)
		}
		w.after(time.Hour)
		if n := count(*reads, diagnose.Refresh); n < 5 || n > 6 {
			t.Errorf("%v were read in the first hour, want Cilium's settings after 2, 4, 8, 16 and 32 minutes", *reads)
		}
		*reads = nil
		w.after(24 * time.Hour)
		if n := len(*reads); n < 24 || n > 36 {
			t.Errorf("%v were read in a day, want Cilium's settings once an hour", *reads)
		}
	})
}

// Somebody tries a correction on one node first.
func TestACorrectionOfANodeConfigIsLookedAtSoonAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var node atomic.Pointer[diagnose.NodeConfig]
		var reads []time.Time
		w := start(t, func(o *agent.Options) {
			o.ClusterSettings = func(context.Context, diagnose.Scope, diagnose.Settings) diagnose.Settings {
				reads = append(reads, time.Now())
				s := diagnose.Settings{
					Cilium:      diagnose.ConfigMap{State: diagnose.Read, Data: map[string]string{"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true"}},
					NodeConfigs: diagnose.NodeConfigs{State: diagnose.Read}, DataplaneV2: diagnose.No,
				}
				if n := node.Load(); n != nil {
					s.NodeConfigs.Items = []diagnose.NodeConfig{*n}
				}
				return s
			}
		})
		w.after(12 * time.Hour)
		node.Store(&diagnose.NodeConfig{Name: "one", Selects: diagnose.Unknown, Defaults: map[string]string{"enable-bpf-masquerade": "false"}})
		reads = nil
		w.after(70 * time.Minute)
		if n := len(reads); n < 2 || reads[1].Sub(reads[0]) > 2*time.Minute+interval {
			t.Errorf("reads at %v, want one two minutes after that which found the change", reads)
		}
	})
}

// An API server that has too much to do is asked again by each agent at another moment,
// and less and less often, until there are all answers.
func TestWhatWasNotAnsweredIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := false
		var reads []time.Duration
		began := time.Now()
		w := start(t, func(o *agent.Options) {
			o.Random = func() float64 { return 0.5 }
			o.ClusterSettings = func(context.Context, diagnose.Scope, diagnose.Settings) diagnose.Settings {
				reads = append(reads, time.Since(began))
				s := diagnose.Settings{DataplaneV2: diagnose.No, Cilium: diagnose.ConfigMap{State: diagnose.Absent}}
				if !answers {
					s.Unanswered = []diagnose.Object{diagnose.ObjectNode}
				}
				return s
			}
		})
		w.after(time.Second)
		w.answers(vm(customSA))
		w.after(10 * time.Minute)
		if len(reads) < 5 || len(reads) > 6 {
			t.Fatalf("reads at %v, want after half of 1, 2, 4, 8 and 16 minutes", reads)
		}
		for i := 2; i < len(reads); i++ {
			if gap, before := reads[i]-reads[i-1], reads[i-1]-reads[i-2]; gap < before*3/2 {
				t.Errorf("reads at %v, want gaps that double", reads)
			}
		}
		answers = true
		w.after(10 * time.Minute)
		n := len(reads)
		w.after(9 * time.Minute)
		if len(reads) > n {
			t.Errorf("reads at %v, want none soon after one with all answers", reads)
		}
	})
}

func count(scopes []diagnose.Scope, one diagnose.Scope) int {
	return len(slices.DeleteFunc(slices.Clone(scopes), func(s diagnose.Scope) bool { return s != one }))
}

// After a repair the page must not go on warning of what has been corrected; and what
// was missing a key before has been changed, though the object does not know when.
func TestTheSettingsAreReadWhenAllIsWellAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		legacy := map[string]string{"kube-proxy-replacement": "true", "enable-bpf-masquerade": "true", "enable-host-legacy-routing": "true"}
		routes := map[string]string{"kube-proxy-replacement": "true", "enable-bpf-masquerade": "true"}
		data, changed := legacy, time.Now()
		w := start(t, func(o *agent.Options) {
			o.Process.HostNetwork = diagnose.No
			o.ClusterSettings = func(context.Context, diagnose.Scope, diagnose.Settings) diagnose.Settings {
				return diagnose.Settings{
					Cilium:      diagnose.ConfigMap{State: diagnose.Read, Changed: changed, Data: data},
					NodeConfigs: diagnose.NodeConfigs{State: diagnose.Absent},
					CiliumAgent: diagnose.CiliumAgent{State: diagnose.Read, Started: changed.Add(time.Second)},
					DataplaneV2: diagnose.No, NodeLabels: map[string]string{diagnose.LabelMetadataServer: "true"},
				}
			}
		})
		w.after(5 * time.Minute)
		data = routes
		w.answers(vm(customSA))
		w.after(interval + time.Second)
		if got, want := w.suspects(), "suggests cilium_bpf_host_routing"; got != want {
			t.Errorf("suspects %v, want %v: the key was removed after Cilium had started", got, want)
		}
		data = legacy
		w.answers(gke(app))
		w.after(interval + time.Second)
		if got, want := w.risks(), "suggests pooled_connections"; got != want {
			t.Errorf("risks %v, want %v", got, want)
		}
	})
}

// A policy held the match up, and is the first suspect.
func TestWhatThreatenedTheMatchIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(o *agent.Options) {
			o.ClusterSettings = func(context.Context, diagnose.Scope, diagnose.Settings) diagnose.Settings {
				return diagnose.Settings{DataplaneV2: diagnose.No, Cilium: diagnose.ConfigMap{State: diagnose.Read, Data: map[string]string{
					"kube-proxy-replacement": "true", "enable-bpf-masquerade": "true", "enable-local-redirect-policy": "true",
				}}}
			}
		})
		w.after(5 * time.Minute)
		w.answers(vm(customSA))
		w.after(10 * time.Minute)
		if got, want := w.suspects(), "suggests local_redirect_dormant, suggests cilium_bpf_host_routing"; got != want {
			t.Errorf("suspects %v, want %v", got, want)
		}
	})
}

func TestAStateThatComesAndGoesDoesNotMakeItReadThemEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, reads := withCilium(t, "true")
		w.after(time.Second)
		for range 30 {
			w.answers(vm(customSA))
			w.after(interval)
			w.answers(gke(app))
			w.after(interval)
		}
		if n := len(*reads); n < 10 || n > 14 {
			t.Errorf("%d reads in ten minutes, want three and then one a minute", n)
		}
	})
}

func TestAChangedAnnotationIsACause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(o *agent.Options) { o.ExpectationInterval = time.Minute })
		w.after(time.Second)
		w.expects(annotated(other), nil)
		w.after(3*time.Minute + 2*interval)
		w.wants(t, identity.Mismatch)
		if got, want := w.suspects(), "proves annotation_changed"; got != want {
			t.Errorf("suspects %v, want %v", got, want)
		}
	})
}
