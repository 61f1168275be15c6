package web

import (
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/pages"
	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

const (
	metadataHost = "169.254.169.254"
	appEmail     = "app@demo-project.iam.gserviceaccount.com"
	// patience is for machines that do many things at once.
	patience = time.Minute
)

// node is a machine with both metadata servers, and an API server.
type node struct {
	*simulator.Simulator
	api *kubetest.Server
}

// newNode is one on which Cilium is set to route by eBPF.
func newNode(t *testing.T) *node {
	t.Helper()
	s := program.Simulate(t, simulator.Options{
		MetadataAddress: metadataHost + ":80",
		Lookup: func(netip.Addr) (simulator.Pod, bool) {
			return simulator.Pod{Namespace: kubetest.Namespace, ServiceAccount: kubetest.ServiceAccount, GSA: appEmail}, true
		},
	})
	return &node{Simulator: s, api: apiServer(t)}
}

func apiServer(t *testing.T) *kubetest.Server {
	t.Helper()
	api, err := kubetest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	api.Annotate(map[string]string{identity.AnnotationServiceAccount: appEmail})
	api.Put("/api/v1/namespaces/kube-system/configmaps/cilium-config", map[string]any{
		"data": map[string]string{"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true"},
	})
	api.Put("/api/v1/nodes/"+kubetest.Node, map[string]any{
		"metadata": map[string]any{"labels": map[string]string{"iam.gke.io/gke-metadata-server-enabled": "true"}},
	})
	return api
}

// agent is an exporter in a Pod of the node.
type agent struct {
	*program.Program
	base string
}

// start runs one that listens on the loopback address.
func start(t *testing.T, api *kubetest.Server, address string, settings ...string) *agent {
	t.Helper()
	environment := append(append(api.Environment(), "WI_LISTEN_ADDRESS="+address+":10988", "WI_POD_ADDRESS=10.4.0.7", "WI_NODE_ADDRESS=10.128.0.3",
		"WI_PROBE_INTERVAL=1s", "WI_PROBE_TIMEOUT=1s", "WI_TOKEN_INTERVAL=1s"), settings...)
	p, err := program.Start("the agent on "+address, exporter, environment)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Signal(syscall.SIGCONT) // or it would never end
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	a := &agent{Program: p, base: "http://" + address + ":10988"}
	if err := p.Ready(a.base + "/healthz"); err != nil {
		t.Fatal(err)
	}
	return a
}

// await waits for the state, and for a probe.
func (a *agent) await(t *testing.T, state identity.State) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) { // another process
		page, err := program.Get(t.Context(), a.base+"/status.json")
		if err != nil {
			t.Fatal(err)
		}
		last = string(page)
		if s, err := pages.ParseStatus(last); err == nil && s.State == string(state) && strings.Contains(last, `"last_probe"`) {
			return
		}
	}
	t.Fatalf("the state is not %s: %s\n%s", state, last, &a.Log)
}

// fault is what is wrong with the metadata servers from now on.
func (n *node) fault(t *testing.T, name string) {
	t.Helper()
	if err := n.SetFault(simulator.Fault{Name: name}); err != nil {
		t.Fatal(err)
	}
}

// impostor is a metadata server that is not one.
type impostor struct{ serverHeader, body string }

func (i impostor) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	w.Header().Set("Server", i.serverHeader)
	_, _ = w.Write([]byte(i.body))
}
