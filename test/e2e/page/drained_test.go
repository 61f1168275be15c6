package page

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// kubeState plays kube-state-metrics, with what the rules ask of it.
type kubeState struct {
	mu       sync.Mutex
	nodes    []string
	cordoned map[string]bool
	pods     map[string]string // by node
}

func (k *kubeState) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	for _, node := range k.nodes {
		unschedulable := 0
		if k.cordoned[node] {
			unschedulable = 1
		}
		fmt.Fprintf(w, "kube_node_labels{node=%q,label_iam_gke_io_gke_metadata_server_enabled=\"true\"} 1\n", node)
		fmt.Fprintf(w, "kube_node_spec_unschedulable{node=%q} %d\n", node, unschedulable)
		if pod := k.pods[node]; pod != "" {
			fmt.Fprintf(w, "kube_pod_info{namespace=\"workload-identity-exporter\",pod=%q,node=%q,created_by_kind=\"DaemonSet\",created_by_name=\"workload-identity-exporter\"} 1\n", pod, node)
		}
	}
}

func (k *kubeState) change(what func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	what()
}

func TestADeletedNodeEndsItsPage(t *testing.T) {
	t.Parallel()
	c := newCluster(t, shared, "10 a paged node is drained and deleted", "drained", 6)
	state := &kubeState{cordoned: map[string]bool{}, pods: map[string]string{}}
	for _, n := range c.nodes {
		state.nodes = append(state.nodes, n.name)
		state.pods[n.name] = n.pod
	}
	server := httptest.NewServer(state)
	t.Cleanup(server.Close)
	err := shared.scrape(kubeStateJob, c.name, []target{{Targets: []string{server.Listener.Addr().String()}, Labels: map[string]string{"cluster": c.name}}})
	if err != nil {
		t.Fatal(err)
	}

	broken := c.nodes[0]
	c.awaitsPage(t, nodeFallback, suffer(t, "bypass", broken), promised)
	state.change(func() { state.cordoned[broken.name] = true })
	time.Sleep(20 * time.Second) // the drain
	drained := time.Now()
	if err := broken.agent.Stop(); err != nil {
		t.Error(err)
	}
	broken.agent = nil
	c.scraped(t)
	state.change(func() {
		state.nodes = slices.DeleteFunc(state.nodes, func(n string) bool { return n == broken.name })
		delete(state.pods, broken.name)
	})
	c.awaitsValue(t, fmt.Sprintf(`count(workload_identity:node:verdict{cluster=%q,node=%q})`, c.name, broken.name), 0) // its last word is forgotten
	c.awaits(t, "page "+nodeFallback+" resolved", drained)
	c.heard(t, "page "+nodeFallback+" firing", "page "+nodeFallback+" resolved")
	// The ticket for a missing agent would take ten minutes, so ask for what would become one.
	pending, err := shared.query(t.Context(), fmt.Sprintf(`count(max_over_time(ALERTS{cluster=%q,alertname=~"WorkloadIdentityAgent.*"}[10m]))`, c.name))
	if err != nil || pending > 0 {
		t.Errorf("%v alerts about missing agents were at least pending (%v), want none", pending, err)
	}
}
