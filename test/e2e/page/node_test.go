package page

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
	var err error
	n.simulator, err = simulator.New(simulator.Options{Lookup: n.lookup})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- n.simulator.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the metadata servers of %s: %v", name, err)
		}
	})
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

// started is the exporter's log line that tells its address.
const started = `"address":"`

// schedule runs an exporter in a new Pod of the node.
func (n *node) schedule(t *testing.T) {
	t.Helper()
	n.pods++
	n.pod = fmt.Sprintf("exporter-%s-%d", n.name, n.pods)
	environment := append([]string{
		"WI_METADATA_HOST=" + n.simulator.MetadataAddr().String(), "WI_LISTEN_ADDRESS=127.0.0.1:0", "WI_NODE_NAME=" + n.name, "WI_POD_NAME=" + n.pod,
	}, n.settings...)
	var err error
	if n.agent, err = program.Start(n.pod, exporterBinary, environment); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) { // another process
		if _, after, ok := strings.Cut(n.agent.Log.String(), started); ok {
			n.address, _, _ = strings.Cut(after, `"`)
			return
		}
	}
	t.Fatalf("%s does not tell its address: %s", n.pod, &n.agent.Log)
}
