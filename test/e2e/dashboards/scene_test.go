package dashboards

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

const appEmail = "app@demo-project.iam.gserviceaccount.com"

// node has an agent that asks a simulator with the fault, and so is in the state.
type node struct {
	state, fault string
	settings     []string
	version      int // of the exporters

	name, address string
	agent         *program.Program
}

// everyState is a node for each state of an agent.
func everyState() []*node {
	expected := []string{"WI_EXPECTED_EMAILS=" + appEmail, "WI_STARTUP_GRACE=0s"}
	return []*node{
		{state: "match", settings: expected},
		{state: "node_fallback", fault: "bypass", settings: expected},
		{state: "mismatch", fault: "stranger", settings: expected},
		{state: "unbound", fault: "unannotated", settings: expected, version: 1},
		{state: "token_denied", fault: "no-binding", settings: expected},
		{state: "unavailable", fault: "refused", settings: expected},
		{state: "unknown_expectation", settings: []string{"WI_STARTUP_GRACE=0s"}},
		{state: "starting", fault: "refused", settings: []string{"WI_EXPECTED_EMAILS=" + appEmail, "WI_STARTUP_GRACE=1h"}},
		{state: "stale", settings: expected},
	}
}

// healthy are nodes on which nothing is wrong.
func healthy(count int) []*node {
	var nodes []*node
	for range count {
		nodes = append(nodes, &node{state: "match", settings: []string{"WI_EXPECTED_EMAILS=" + appEmail}})
	}
	return nodes
}

// start runs the agent and its metadata servers.
func (n *node) start(t *testing.T, name string) {
	t.Helper()
	n.name = name
	if n.state == "absent" {
		return
	}
	s := program.Simulate(t, simulator.Options{
		Fault: simulator.Fault{Name: n.fault},
		Lookup: func(netip.Addr) (simulator.Pod, bool) {
			return simulator.Pod{Namespace: "demo", ServiceAccount: "app", GSA: appEmail}, true
		},
	})
	n.agent, n.address = program.StartAgent(t, "the agent of "+name, exporters[n.version], s, append([]string{
		"WI_NODE_NAME=" + name, "WI_PROBE_INTERVAL=1s", "WI_TOKEN_INTERVAL=1s",
	}, n.settings...)...)
	t.Cleanup(func() {
		if err := n.agent.Stop(); err != nil {
			t.Error(err)
		}
	})
	if n.state == "stale" {
		n.stall(t)
	}
}

// stall serves the page of the agent as if its loop hung, which no simulator can
// bring about.
func (n *node) stall(t *testing.T) {
	t.Helper()
	agent := "http://" + n.address + "/metrics"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, err := program.Get(r.Context(), agent)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		text := strings.Replace(string(page), `workload_identity_state{state="match"} 1`, `workload_identity_state{state="match"} 0`, 1)
		text = strings.Replace(text, `workload_identity_state{state="stale"} 0`, `workload_identity_state{state="stale"} 1`, 1)
		fmt.Fprint(w, strings.Replace(text, `",state="match"} `, `",state="stale"} `, 1))
	}))
	t.Cleanup(s.Close)
	n.address = s.Listener.Addr().String()
}

// cluster has nodes whose names begin with its own, and three Pods on each: one
// with an annotated ServiceAccount, one without, and one in the node's network.
type cluster struct {
	name  string
	nodes []*node
	// annotations tells whether its kube-state-metrics exports those of
	// ServiceAccounts, native whether Prometheus scrapes native histograms.
	annotations, native bool
}

func (c *cluster) start(t *testing.T) {
	t.Helper()
	for i, n := range c.nodes {
		n.start(t, fmt.Sprintf("%s-%d-%s", c.name, i, strings.ReplaceAll(n.state, "_", "-")))
	}
}

// kubeState plays kube-state-metrics in its own text format, with what the
// rules ask of it: it needs an API server that has Pods, and no image of it can
// be had everywhere.
func (c *cluster) kubeState(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	for _, n := range c.nodes {
		fmt.Fprintf(w, "kube_node_labels{node=%q,label_iam_gke_io_gke_metadata_server_enabled=\"true\"} 1\n", n.name)
		fmt.Fprintf(w, "kube_node_spec_unschedulable{node=%q} 0\n", n.name)
		for _, kind := range []struct{ pod, account, network string }{{"app", "app", "false"}, {"plain", "plain", "false"}, {"proxy", "app", "true"}, {"done", "app", "false"}} {
			pod := fmt.Sprintf("namespace=\"shop\",pod=\"%s-%s\",uid=\"%s-%s\"", kind.pod, n.name, kind.pod, n.name)
			fmt.Fprintf(w, "kube_pod_info{%s,node=%q,host_network=%q,host_ip=\"10.0.0.1\",pod_ip=\"10.1.0.1\",created_by_kind=\"ReplicaSet\",created_by_name=\"app\"} 1\n", pod, n.name, kind.network)
			fmt.Fprintf(w, "kube_pod_service_account{%s,service_account=%q} 1\n", pod, kind.account)
			running := 1
			if kind.pod == "done" {
				running = 0
			}
			fmt.Fprintf(w, "kube_pod_status_phase{%s,phase=\"Running\"} %d\n", pod, running)
			fmt.Fprintf(w, "kube_pod_status_phase{%s,phase=\"Succeeded\"} %d\n", pod, 1-running)
		}
	}
	if c.annotations {
		fmt.Fprintf(w, "kube_serviceaccount_annotations{namespace=\"shop\",serviceaccount=\"app\",uid=\"1\",annotation_iam_gke_io_gcp_service_account=%q} 1\n", appEmail)
		fmt.Fprintf(w, "kube_serviceaccount_annotations{namespace=\"shop\",serviceaccount=\"plain\",uid=\"2\"} 1\n")
	}
}

// scrapes are the jobs that Prometheus has for the clusters. One without a name
// has no label, as where a Prometheus sees one cluster.
func scrapes(t *testing.T, clusters ...*cluster) []any {
	t.Helper()
	var jobs []any
	for _, c := range clusters {
		var targets []any
		for _, n := range c.nodes {
			if n.agent == nil {
				continue
			}
			targets = append(targets, target(n.address, map[string]string{"cluster": c.name, "node": n.name, "pod": "agent-" + n.name, "namespace": "workload-identity-exporter"}))
		}
		state := httptest.NewServer(http.HandlerFunc(c.kubeState))
		t.Cleanup(state.Close)
		jobs = append(
			jobs,
			map[string]any{"job_name": "workload-identity-exporter" + c.name, "scrape_native_histograms": c.native, "static_configs": targets},
			map[string]any{"job_name": "kube-state-metrics" + c.name, "honor_labels": true, "static_configs": []any{target(state.Listener.Addr().String(), map[string]string{"cluster": c.name})}},
		)
	}
	return jobs
}

func target(address string, labels map[string]string) any {
	for name, value := range labels {
		if value == "" {
			delete(labels, name)
		}
	}
	return map[string]any{"targets": []string{address}, "labels": labels}
}
