package datapath

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/pages"
)

// The same identity of the node, by what really makes it in this kernel, beside the
// settings of Cilium that an API server shows. What is not in effect proves nothing.
func TestTheCauseIsTheOneThatWasMade(t *testing.T) {
	untracked := func(c *cluster) { c.noTrack() }
	redirectGone := func(c *cluster) { c.rules.remove("redirect") }
	const before, after = -time.Minute, time.Minute
	tests := []struct {
		name string
		fail func(*cluster)
		// settings are what differs from those of legacy host routing.
		settings map[string]string
		// agent is when Cilium's on this node started, after the settings were changed;
		// zero: its Pod may not be read.
		agent             time.Duration
		cause, confidence string
		// why is part of what is said of it.
		why string
	}{
		{
			name: "packets are not tracked", fail: untracked,
			settings: map[string]string{noConntrack: "true"}, agent: after,
			cause: "cilium_no_conntrack", confidence: "proves", why: "Cilium's agent on this node started after that was set",
		},
		{
			name: "packets are not tracked, and it is not known since when the agent runs", fail: untracked,
			settings: map[string]string{noConntrack: "true"},
			cause:    "cilium_no_conntrack", confidence: "suggests", why: `install-no-conntrack-iptables-rules is "true"`,
		},
		{
			name: "the redirection is gone, and Cilium leaves the way to it alone", fail: redirectGone, agent: after,
			cause: "redirect_missing", confidence: "suggests", why: "the node's rule for metadata requests may be missing",
		},
		{
			name: "the redirection is gone, and settings of eBPF host routing are not in effect", fail: redirectGone,
			settings: map[string]string{legacyRouting: "false"}, agent: before,
			cause: "cilium_bpf_host_routing", confidence: "suggests", why: "Cilium's agent on this node started before that was set",
		},
		{
			name: "the redirection is gone, and those of no tracking are not in effect", fail: redirectGone,
			settings: map[string]string{noConntrack: "true"}, agent: before,
			cause: "cilium_no_conntrack", confidence: "suggests", why: "Cilium's agent on this node started before that was set",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, setup{})
			e := start(t, c.pods[0], c.explained(tt.settings, tt.agent)...)
			e.awaits(t, "match", time.Now())
			tt.fail(c)
			e.awaits(t, "node_fallback", time.Now())
			for _, named := range e.explains(t, tt.cause) {
				switch {
				case named.Cause != tt.cause && named.Confidence == "proves":
					t.Errorf("proves %s, which is not what was made: %s", named.Cause, named.Why)
				case named.Cause == tt.cause && (named.Confidence != tt.confidence || !strings.Contains(named.Why, tt.why)):
					t.Errorf("%s %s: %s, want that it %s that: %s", named.Confidence, named.Cause, named.Why, tt.confidence, tt.why)
				}
			}
		})
	}
}

// Keys of cilium-config.
const (
	legacyRouting = "enable-host-legacy-routing"
	noConntrack   = "install-no-conntrack-iptables-rules"
)

// explained runs an API server in the exporter's Pod that knows all that may explain
// an identity of the node, and returns by which variables the exporter finds it there.
// There is no DaemonSet anetd, and the cluster has no CiliumNodeConfigs.
func (c *cluster) explained(settings map[string]string, agent time.Duration) []string {
	c.t.Helper()
	var api *kubetest.Server
	folder := c.t.TempDir()
	err := c.pods[0].do(func() (err error) { api, err = kubetest.Start(folder); return err })
	if err != nil {
		c.t.Fatalf("play the API server: %v", err)
	}
	c.t.Cleanup(api.Close)
	data := map[string]string{
		"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true", "routing-mode": "native",
		"ipv4-native-routing-cidr": podNetwork, legacyRouting: "true",
	}
	maps.Copy(data, settings)
	changed := time.Now().Add(-time.Hour)
	api.Put("/api/v1/namespaces/kube-system/configmaps/cilium-config", kubetest.ConfigMap(data, changed))
	api.Put("/api/v1/nodes/"+kubetest.Node, map[string]any{
		"metadata": map[string]any{"labels": map[string]string{"iam.gke.io/gke-metadata-server-enabled": "true"}},
	})
	const pods = "/api/v1/namespaces/kube-system/pods"
	if api.Put(pods, http.StatusForbidden); agent != 0 {
		api.Put(pods, kubetest.CiliumPods("cilium/cilium:v1.20.2", changed.Add(agent)))
	}
	return append(api.Environment(), "WI_POD_ADDRESS=10.1.0.2", "WI_NODE_ADDRESS="+nodeAddress)
}

// explains waits until the cause is suspected, and returns all that are named: the
// settings are read when the state is stated, a moment later.
func (e *exporter) explains(t *testing.T, cause string) []pages.Cause {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // another process
		causes := e.status(t).Causes
		if slices.ContainsFunc(causes, func(c pages.Cause) bool { return c.Cause == cause && c.Confidence != "possible" }) {
			return causes
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not suspected after %s: %+v", cause, patience, causes)
		}
	}
}
