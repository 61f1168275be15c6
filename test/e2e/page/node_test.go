package page

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

// node is one of a cluster, with its metadata servers and the exporter's Pod.
type node struct {
	name      string
	simulator *simulator.Simulator
	// linked is the account that the annotation names, by what the metadata server knows.
	linked atomic.Pointer[string]

	settings []string
	agent    *program.Program // nil without one
	address  string
	pod      string
	pods     int
}

func newNode(t *testing.T, name string, settings []string) *node {
	t.Helper()
	n := &node{name: name, settings: settings}
	n.link(appEmail)
	n.simulator = program.Simulate(t, simulator.Options{Lookup: n.lookup})
	t.Cleanup(func() {
		if n.agent == nil {
			return
		}
		if err := n.agent.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", n.agent.Name, &n.agent.Log)
		}
	})
	n.schedule(t)
	return n
}

// link changes the annotation, as far as the metadata server knows.
func (n *node) link(email string) { n.linked.Store(&email) }

// lookup finds the Pod of a request: every one runs as demo/app.
func (n *node) lookup(netip.Addr) (simulator.Pod, bool) {
	return simulator.Pod{Namespace: kubetest.Namespace, ServiceAccount: kubetest.ServiceAccount, GSA: *n.linked.Load()}, true
}

// schedule runs an exporter in a new Pod of the node.
func (n *node) schedule(t *testing.T) {
	t.Helper()
	n.pods++
	n.pod = fmt.Sprintf("exporter-%s-%d", n.name, n.pods)
	n.agent, n.address = program.StartAgent(t, n.pod, exporterBinary, n.simulator, append([]string{"WI_NODE_NAME=" + n.name, "WI_POD_NAME=" + n.pod}, n.settings...)...)
}
