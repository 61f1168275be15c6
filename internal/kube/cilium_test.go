package kube_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
)

const (
	nodeConfigs      = "/apis/cilium.io/v2/namespaces/cilium/ciliumnodeconfigs"
	alphaNodeConfigs = "/apis/cilium.io/v2alpha1/namespaces/cilium/ciliumnodeconfigs"
	ciliumPods       = "/api/v1/namespaces/cilium/pods"
	ciliumDaemonSet  = "/apis/apps/v1/namespaces/cilium/daemonsets/cilium"
)

func items(all ...object) object { return object{"metadata": object{}, "items": all} }

func nodeConfig(name string, selector any) object {
	return object{"metadata": object{"name": name}, "spec": object{"nodeSelector": selector, "defaults": object{"key": name}}}
}

// managed is the metadata of an object of which a field below another was set then.
func managed(field string, at time.Time) object {
	return object{"managedFields": []object{{"manager": "helm", "time": at.Format(time.RFC3339), "fieldsV1": object{field: object{}}}}}
}

func pod(started time.Time, image string) object {
	return object{
		"metadata": object{},
		"spec":     object{"containers": []object{{"name": "sidecar", "image": "x:v9"}, {"name": "cilium-agent", "image": image}}},
		"status":   object{"startTime": started.Format(time.RFC3339)},
	}
}

// In the cluster of cilium/cilium issue 28655 it is in mgmt-cni-cilium, which has to be configured.
func TestCiliumIsLookedForWhereItIsInstalledMostOften(t *testing.T) {
	for _, namespace := range []string{"kube-system", "cilium-system", "d8-cni-cilium"} {
		c := newCluster(t)
		c.Put("/api/v1/namespaces/"+namespace+"/configmaps/cilium-config", configMap("kube-proxy-replacement", "true"))
		s := c.settings(t)
		if s.Cilium.State != diagnose.Read || s.Cilium.Namespace != namespace {
			t.Errorf("cilium-config %+v, want that of %s", s.Cilium, namespace)
		}
		// From then on it is asked for there alone.
		before := len(c.Requests())
		c.client.ClusterSettings(t.Context(), c.self, "cilium", diagnose.Routine, s)
		for _, r := range c.Requests()[before:] {
			if strings.HasSuffix(r.URL.Path, "/cilium-config") && !strings.Contains(r.URL.Path, "/"+namespace+"/") {
				t.Errorf("%s was asked for again", r.URL.Path)
			}
		}
	}
	c := newCluster(t)
	c.Put("/api/v1/namespaces/cilium-system/configmaps/cilium-config", http.StatusForbidden)
	if s := c.settings(t); s.Cilium.State != diagnose.Absent || s.Cilium.Namespace != "cilium" {
		t.Errorf("%+v, want that there is none in the namespace that is configured", s.Cilium)
	}
	c.Put(ciliumConfig, http.StatusForbidden)
	if s := c.settings(t); s.Cilium.State != diagnose.Forbidden {
		t.Errorf("%+v, want that it may not be read", s.Cilium)
	}
}

func TestWhatSaysThatCiliumRunsOnTheNode(t *testing.T) {
	for want, o := range map[string]object{
		"a condition with the reason CiliumIsUp":   {"status": object{"conditions": []object{{"type": "NetworkUnavailable", "reason": "CiliumIsUp"}}}},
		"the taint node.cilium.io/agent-not-ready": {"spec": object{"taints": []object{{"key": "node.cilium.io/agent-not-ready"}}}},
		"annotations of network.cilium.io":         {"metadata": object{"annotations": object{"network.cilium.io/ipv4-pod-cidr": "10.4.0.0/24"}}},
		"":                                         {"metadata": object{"annotations": object{"x": "y"}}, "status": object{"conditions": []object{{"reason": "RouteCreated"}}}},
	} {
		c := newCluster(t)
		c.Put(node, o)
		if s := c.settings(t); s.RunsCilium != want || s.NodeLabels == nil {
			t.Errorf("%q and labels %v, want %q", s.RunsCilium, s.NodeLabels, want)
		}
	}
}

// As Cilium selects (pkg/option/resolver): no selector selects nothing, an empty one
// everything, and the last one by name wins.
func TestNodeConfigsAreThoseOfTheNode(t *testing.T) {
	labelSelector := func(value string) object { return object{"matchLabels": object{"pool": value}} }
	all := items(
		nodeConfig("z-all", object{}), nodeConfig("a-mine", labelSelector("mine")), nodeConfig("b-other", labelSelector("other")),
		nodeConfig("c-none", nil), nodeConfig("d-expression", object{"matchExpressions": []object{{"key": "pool", "operator": "Exists"}}}),
	)
	for _, tt := range []struct {
		node any
		want string
	}{
		{labelled("pool", "mine"), "a-mine 2, d-expression 2, z-all 2"},
		{http.StatusForbidden, "a-mine 0, b-other 0, d-expression 0, z-all 2"},
	} {
		c := newCluster(t)
		c.Put(ciliumConfig, configMap("kube-proxy-replacement", "true"))
		c.Put(node, tt.node)
		c.Put(alphaNodeConfigs, all) // of a Cilium that has no v2
		s := c.settings(t)
		var got []string
		for _, n := range s.NodeConfigs.Items {
			got = append(got, n.Name+" "+string('0'+rune(n.Selects)))
		}
		if strings.Join(got, ", ") != tt.want || s.NodeConfigs.State != diagnose.Read {
			t.Errorf("%v, want %s", got, tt.want)
		}
		if n := s.NodeConfigs.Items; len(n) > 0 && n[0].Defaults["key"] != "a-mine" {
			t.Errorf("defaults %v", n[0].Defaults)
		}
	}
}

func TestWhatIsNotKnownOfNodeConfigs(t *testing.T) {
	more := items()
	more["metadata"] = object{"continue": "token"}
	for _, tt := range []struct {
		answer any
		want   diagnose.ReadState
	}{
		{nil, diagnose.Absent}, // the kind does not exist
		{items(), diagnose.Read},
		{http.StatusForbidden, diagnose.Forbidden},
		{http.StatusInternalServerError, diagnose.NotRead},
		{more, diagnose.NotRead},
		{object{"items": "none"}, diagnose.NotRead},
	} {
		c := newCluster(t)
		c.Put(ciliumConfig, configMap("kube-proxy-replacement", "true"))
		if tt.answer != nil {
			c.Put(nodeConfigs, tt.answer)
		}
		if s := c.settings(t); s.NodeConfigs.State != tt.want || len(s.NodeConfigs.Items) > 0 {
			t.Errorf("%v: %+v, want the state %d", tt.answer, s.NodeConfigs, tt.want)
		}
	}
}

// When somebody set a value last is in the managed fields.
func TestWhenTheSettingsWereChanged(t *testing.T) {
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	c := newCluster(t)
	c.Put(ciliumConfig, object{"metadata": managed("f:data", at), "data": object{}})
	config := nodeConfig("one", object{})
	config["metadata"] = managed("f:spec", at.Add(time.Hour))
	c.Put(nodeConfigs, items(config))
	s := c.settings(t)
	if !s.Cilium.Changed.Equal(at) || len(s.NodeConfigs.Items) != 1 || !s.NodeConfigs.Items[0].Changed.Equal(at.Add(time.Hour)) {
		t.Errorf("changed %s and %+v, want the times of the managed fields", s.Cilium.Changed, s.NodeConfigs.Items)
	}
	c.Put(ciliumConfig, object{"metadata": managed("f:metadata", at), "data": object{}})
	if s := c.settings(t); !s.Cilium.Changed.IsZero() {
		t.Errorf("changed %s, want that it is not known: that was the metadata", s.Cilium.Changed)
	}
}

func TestTheCiliumAgentOfTheNode(t *testing.T) {
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	ending := pod(at.Add(time.Hour), "registry.example:5000/cilium:v1.18.4")
	ending["metadata"] = object{"deletionTimestamp": at.Format(time.RFC3339)}
	c := newCluster(t)
	c.Put(ciliumConfig, configMap("kube-proxy-replacement", "true"))
	c.Put(ciliumPods, items(ending, pod(at, "registry.example:5000/cilium/cilium:v1.20.2@sha256:abc")))
	s := c.settings(t)
	if want := (diagnose.CiliumAgent{State: diagnose.Read, Started: at, Version: "v1.20.2"}); s.CiliumAgent != want {
		t.Errorf("%+v, want %+v", s.CiliumAgent, want)
	}
	asked := c.Requests()[slices.IndexFunc(c.Requests(), func(r http.Request) bool { return r.URL.Path == ciliumPods })].URL.Query()
	for name, want := range map[string]string{
		"fieldSelector": "spec.nodeName=" + kubetest.Node, "labelSelector": "k8s-app=cilium", "resourceVersion": "0", "limit": "10",
	} {
		if got := asked.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	c.Put(ciliumPods, http.StatusForbidden)
	if s := c.settings(t); s.CiliumAgent.State != diagnose.Forbidden || !s.CiliumAgent.Started.IsZero() {
		t.Errorf("%+v, want that it may not be read", s.CiliumAgent)
	}
	c.Put(ciliumPods, items(pod(at, "registry.example:5000/cilium@sha256:abc")))
	if s := c.settings(t); s.CiliumAgent.Version != "" || s.CiliumAgent.State != diagnose.Read {
		t.Errorf("%+v, want no version: a digest is none", s.CiliumAgent)
	}
}

// A request more, for a few settings alone.
func TestTheVersionIsReadWhereItDecides(t *testing.T) {
	at := time.Now()
	daemonSet := object{"spec": object{"template": object{"spec": pod(at, "cilium:v1.17.6")["spec"]}}}
	for key, want := range map[string]string{"enable-ipsec": "v1.17.6", "debug": ""} {
		c := newCluster(t)
		c.Put(ciliumConfig, configMap(key, "true"))
		c.Put(ciliumDaemonSet, daemonSet)
		if s := c.settings(t); s.CiliumAgent.Version != want {
			t.Errorf("%s: version %q, want %q", key, s.CiliumAgent.Version, want)
		}
	}
}

// Cilium is upgraded while the exporter runs, and its defaults may be others then.
func TestAnotherVersionIsNoticed(t *testing.T) {
	c := newCluster(t)
	c.Put(ciliumConfig, configMap("kube-proxy-replacement", "true"))
	c.Put(ciliumPods, items(pod(time.Now(), "cilium:v1.20.2")))
	s := c.settings(t)
	c.Put(ciliumDaemonSet, object{"spec": object{"template": object{"spec": pod(time.Now(), "cilium:v1.21.0")["spec"]}}})
	for scope, want := range map[diagnose.Scope]string{diagnose.Refresh: "v1.20.2", diagnose.Routine: "v1.21.0"} {
		if s := c.client.ClusterSettings(t.Context(), c.self, "cilium", scope, s); s.CiliumAgent.Version != want {
			t.Errorf("scope %d: version %q, want %q", scope, s.CiliumAgent.Version, want)
		}
	}
}

// What does not change, or is wanted for a bad verdict alone, is not read each time.
func TestEachScopeReadsNoMoreThanItNeeds(t *testing.T) {
	c := newCluster(t)
	c.Put(ciliumConfig, configMap("enable-bpf-masquerade", "false"))
	c.Put(node, labelled("pool", "mine"))
	c.Put(nodeConfigs, items(nodeConfig("one", object{})))
	c.Put(ciliumPods, items(pod(time.Now(), "cilium:v1.20.2")))
	var s diagnose.Settings
	read := func(scope diagnose.Scope) int {
		before := len(c.Requests())
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		s = c.client.ClusterSettings(ctx, c.self, "cilium", scope, s)
		return len(c.Requests()) - before
	}
	for _, tt := range []struct {
		scope diagnose.Scope
		want  int
	}{{diagnose.Everything, 8}, {diagnose.Routine, 6}, {diagnose.Refresh, 2}} {
		if n := read(tt.scope); n != tt.want {
			t.Errorf("scope %d: %d requests, want %d", tt.scope, n, tt.want)
		}
		if s.NodeLabels["pool"] != "mine" || s.CiliumAgent.Version != "v1.20.2" || len(s.NodeConfigs.Items) != 1 {
			t.Errorf("scope %d: %+v, want all that was read before", tt.scope, s)
		}
	}
	// Who does not answer ends nothing that is shown.
	c.Answer(http.StatusInternalServerError, 0)
	if read(diagnose.Refresh); s.Cilium.State != diagnose.Read {
		t.Errorf("%+v, want what was read before", s.Cilium)
	}
	if read(diagnose.Everything); s.Cilium.State != diagnose.NotRead || len(s.Unanswered) == 0 {
		t.Errorf("%+v, unanswered %v, want that it is not known", s.Cilium, s.Unanswered)
	}
}
