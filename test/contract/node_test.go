package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

const (
	app = "app@demo-project.iam.gserviceaccount.com"

	interval = time.Second
	timeout  = time.Second
	// patience is how long a test waits for what a busy machine may delay.
	patience = time.Minute
)

// node is an agent with all that it lives on, in this process.
type node struct {
	*agent.Agent
	servers *simulator.Simulator
	cluster *kubetest.Server
	logs    *lines
	events  chan event
	judged  chan struct{}
	stop    func()

	mu  sync.Mutex
	pod simulator.Pod
}

// event is one about the Node, as the API server got it.
type event struct{ reason, message string }

// start runs an agent on a healthy node whose cluster has the settings by which
// Cilium bypasses the node's rule, until the test ends. adjust may change its options.
func start(t *testing.T, adjust func(*agent.Options)) *node {
	t.Helper()
	n := &node{
		logs: &lines{}, events: make(chan event, 100), judged: make(chan struct{}, 10000),
		pod: simulator.Pod{Namespace: kubetest.Namespace, ServiceAccount: kubetest.ServiceAccount, GSA: app},
	}
	var err error
	if n.cluster, err = kubetest.Start(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.cluster.Close)
	n.cluster.Annotate(map[string]string{identity.AnnotationServiceAccount: app})
	n.configure(map[string]string{"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true"})
	n.cluster.Put("/api/v1/nodes/"+kubetest.Node, map[string]any{
		"metadata": map[string]any{"labels": map[string]string{diagnose.LabelMetadataServer: "true"}},
	})
	n.cluster.Tell(n.written)
	if n.servers, err = simulator.New(simulator.Options{Lookup: n.lookup}); err != nil {
		t.Fatal(err)
	}
	reporter := n.assemble(t, adjust)

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = n.servers.Run(ctx) }) // its listener was opened already
	running.Go(func() { reporter.Run(ctx) })
	running.Go(func() { n.Run(ctx) })
	n.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(n.stop)
	return n
}

// assemble puts the parts together as the program does.
func (n *node) assemble(t *testing.T, adjust func(*agent.Options)) *kube.Reporter {
	t.Helper()
	environment := map[string]string{}
	for _, e := range n.cluster.Environment() {
		name, value, _ := strings.Cut(e, "=")
		environment[name] = value
	}
	client, err := kube.NewClient(&rest.Config{
		Host: "https://" + net.JoinHostPort(
			environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]),
		BearerTokenFile: filepath.Join(n.cluster.Directory, "token"),
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(n.cluster.Directory, "ca.crt")},
	}, "contract", func(kube.Resource, kube.Reason) {})
	if err != nil {
		t.Fatal(err)
	}
	self, err := kube.SelfFromToken(n.cluster.Directory)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(n.logs, nil))
	prober := metadata.New(n.servers.MetadataAddr().String(), timeout, "contract")
	reporter := kube.NewReporter(client, func() kube.Self { return self }, true, false, func() kube.Report {
		r := report.New(n.Snapshot(), report.About{})
		return kube.Report{State: r.State, Message: r.Summary()}
	}, log)
	o := agent.Options{
		Prober: prober, Recorder: n, Logger: log, Nodes: identity.DefaultNodeAccounts(),
		Interval: interval, Timeout: timeout, TokenInterval: time.Minute,
		ExpectationInterval: 10 * time.Minute, StartupGrace: time.Minute,
		Expect: func(ctx context.Context) (identity.Reading, error) { return client.Expectation(ctx, self) },
		ClusterSettings: func(ctx context.Context, scope diagnose.Scope, before diagnose.Settings) diagnose.Settings {
			return client.ClusterSettings(ctx, self, "kube-system", scope, before)
		},
		Claims: prober.Claims,
		Changed: func(_ identity.State, s *agent.Snapshot) {
			log.Info("State changed", "summary", report.New(s, report.About{}).Summary())
			reporter.Wake()
		},
		Process: diagnose.Process{HostNetwork: diagnose.No},
	}
	if adjust != nil {
		adjust(&o)
	}
	n.Agent = agent.New(o)
	return reporter
}

// lookup tells the simulator who asks: there is one Pod.
func (n *node) lookup(netip.Addr) (simulator.Pod, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pod, true
}

// configure changes the settings of Cilium.
func (n *node) configure(settings map[string]string) {
	n.cluster.Put("/api/v1/namespaces/kube-system/configmaps/cilium-config", map[string]any{"data": settings})
}

// annotate changes the annotation of the Pod's ServiceAccount, of which both the API
// server and the metadata server know at once.
func (n *node) annotate(email string) {
	n.cluster.Annotate(map[string]string{identity.AnnotationServiceAccount: email})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pod.GSA = email
}

func (n *node) written(w kubetest.Written) {
	if w.Method == http.MethodPost && w.Path == "/api/v1/namespaces/default/events" {
		n.events <- event{fmt.Sprint(w.Object["reason"]), fmt.Sprint(w.Object["message"])}
	}
}

// Probed, Judged and Panicked make the node the agent's recorder.
func (n *node) Probed(identity.Observation) {}

// Judged wakes who waits for verdicts.
func (n *node) Judged(identity.State) { n.judged <- struct{}{} }

// Panicked is written to the log, and read there.
func (n *node) Panicked() {}

// verdicts waits for so many.
func (n *node) verdicts(t *testing.T, number int) {
	t.Helper()
	late := time.After(patience)
	for range number {
		select {
		case <-n.judged:
		case <-late:
			t.Fatalf("fewer than %d verdicts in %s\n%s", number, patience, n.logs)
		}
	}
}

// until waits for a state.
func (n *node) until(t *testing.T, want identity.State) {
	t.Helper()
	for late := time.Now().Add(patience); n.Snapshot().Verdict.State != want; n.verdicts(t, 1) {
		if time.Now().After(late) {
			t.Fatalf("no %s in %s\n%s", want, patience, n.logs)
		}
	}
}

// nextEvent waits for one.
func (n *node) nextEvent(t *testing.T) event {
	t.Helper()
	select {
	case e := <-n.events:
		return e
	case <-time.After(patience):
		t.Fatalf("no Event in %s\n%s", patience, n.logs)
		return event{}
	}
}

// names fails unless the Event, and the line in the log, name these causes and no others.
func (n *node) names(t *testing.T, e event, want []diagnose.Cause) {
	t.Helper()
	slices.Sort(want)
	if got := named(e); !slices.Equal(got, want) {
		t.Errorf("got the causes %q, want %q\n%s: %s", got, want, e.reason, e.message)
	}
	if !slices.Contains(n.logs.summaries(), e.message) {
		t.Errorf("the log does not say the same as the Event: %s\n%s", e.message, n.logs)
	}
}

// named are the causes of which the Event has the name, sorted.
func named(e event) []diagnose.Cause {
	causes := slices.DeleteFunc(diagnose.SuspectedCauses(), func(c diagnose.Cause) bool {
		return !strings.Contains(e.message, string(c))
	})
	slices.Sort(causes)
	return causes
}

// switchTo has another fault played from the next request on, and forgets the verdicts
// of before.
func (n *node) switchTo(t *testing.T, f simulator.Fault) {
	t.Helper()
	if err := n.servers.SetFault(f); err != nil {
		t.Fatal(err)
	}
	for len(n.judged) > 0 {
		<-n.judged
	}
}

// lines are a log in JSON that is written and read at the same time.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// summaries are the texts of the changes of state.
func (l *lines) summaries() []string {
	var all []string
	for line := range strings.Lines(l.String()) {
		var entry struct{ Summary string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Summary != "" {
			all = append(all, entry.Summary)
		}
	}
	return all
}
