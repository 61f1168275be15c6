package app_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/app"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	gsa    = "app@demo-project.iam.gserviceaccount.com"
	nodeSA = "123456789012-compute@developer.gserviceaccount.com"

	// patience is for what takes about two seconds.
	patience = 30 * time.Second
)

// node runs the metadata servers of a node.
func node(t *testing.T) *simulator.Simulator {
	t.Helper()
	s, err := simulator.New(simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	return s
}

func fault(t *testing.T, s *simulator.Simulator, name string) {
	t.Helper()
	if err := s.SetFault(simulator.Fault{Name: name}); err != nil {
		t.Fatal(err)
	}
}

// cluster runs an API server with the annotated ServiceAccount.
func cluster(t *testing.T) *kubetest.Server {
	t.Helper()
	api, err := kubetest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	api.Annotate(map[string]string{identity.AnnotationServiceAccount: gsa})
	return api
}

// options are those of a process with these variables, which probes each second.
func options(t *testing.T, s *simulator.Simulator, variables ...string) app.Options {
	t.Helper()
	for _, v := range append([]string{
		"WI_LISTEN_ADDRESS=127.0.0.1:0", "WI_METADATA_HOST=" + s.MetadataAddr().String(),
		"WI_PROBE_INTERVAL=1s", "WI_TOKEN_INTERVAL=1s", "WI_STARTUP_GRACE=0s",
	}, variables...) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	c, err := config.Load()
	if err != nil {
		t.Fatal(err)
	}
	return app.Options{
		Config: c, Environment: config.EnvironmentOf(os.Environ()), Build: exporter.Build{Version: "v1.2.3"},
		Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewPedanticRegistry(),
	}
}

// lines are those of a log, each of which can be waited for.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// until is the next line that has the part.
func (l lines) until(t *testing.T, part string) string {
	t.Helper()
	var before strings.Builder
	for late := time.After(patience); ; {
		select {
		case line := <-l:
			if strings.Contains(line, part) {
				return line
			}
			before.WriteString(line)
		case <-late:
			t.Fatalf("no line with %q in %s:\n%s", part, patience, before.String())
		}
	}
}

// process is an App that runs.
type process struct {
	*app.App
	log  lines
	stop func() error // once
}

func run(t *testing.T, o app.Options) *process {
	t.Helper()
	p := &process{log: make(lines, 1000)}
	o.Logger = slog.New(slog.NewTextHandler(p.log, nil))
	a, err := app.New(o)
	if err != nil {
		t.Fatal(err)
	}
	p.App = a
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- a.Run(ctx); close(stopped) }()
	p.stop = func() error { cancel(); return <-stopped }
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return p
}

func (p *process) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	r, err := http.Get("http://" + p.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(text)
}

func (p *process) report(t *testing.T) report.Report {
	t.Helper()
	_, body := p.get(t, "/status.json")
	var r report.Report
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAnAppServesWhatItFindsOut(t *testing.T) {
	s, api := node(t), cluster(t)
	p := run(t, options(t, s, api.Environment()...))
	p.log.until(t, "previous_state=starting")
	if r := p.report(t); r.State != identity.Match || r.ExpectedSource != identity.SourceAnnotation || r.About.Version != "v1.2.3" || r.About.Node != kubetest.Node {
		t.Errorf("report %+v, want a match with the annotation, on %s", r, kubetest.Node)
	}
	for path, says := range map[string]string{
		"/": "match</h1>", "/healthz": "ok", "/readyz": "ok",
		"/metrics": `workload_identity_expected_info{email="` + gsa + `",source="annotation"} 1`,
	} {
		if status, body := p.get(t, path); status != http.StatusOK || !strings.Contains(body, says) {
			t.Errorf("GET %s: %d %s, want %q", path, status, body, says)
		}
	}

	events := make(chan kubetest.Written, 100)
	api.Tell(func(w kubetest.Written) { events <- w })
	fault(t, s, "bypass")
	line := strings.ReplaceAll(p.log.until(t, "State changed"), `\"`, `"`)
	r := p.report(t)
	for _, part := range []string{
		"level=WARN", "state=node_fallback", "previous_state=match", "observed=" + nodeSA, "expected=" + gsa, "metadata_server=vm", `why="` + r.Why + `"`, `summary="` + r.Summary() + `"`,
	} {
		if !strings.Contains(line, part) {
			t.Errorf("line %q lacks %q", line, part)
		}
	}
	if _, metrics := p.get(t, "/metrics"); r.State != identity.NodeFallback || !strings.Contains(metrics, `workload_identity_state{state="node_fallback"} 1`) {
		t.Errorf("the report says %s, and the metrics are\n%s", r.State, metrics)
	}
	select {
	case e := <-events:
		if e.Object["reason"] != "WorkloadIdentityNodeFallback" || e.Object["message"] != r.Summary() {
			t.Errorf("Event %v, want one with the summary %q", e.Object, r.Summary())
		}
	case <-time.After(patience):
		t.Errorf("no Event in %s", patience)
	}
}

func TestNobodyIsNamedInWhatKubernetesKeeps(t *testing.T) {
	s, api := node(t), cluster(t)
	o := options(t, s, append(api.Environment(), "WI_REDACT_IDENTITIES=true", "WI_NODE_CONDITION=true")...)
	var err error
	if o.Redactor, err = o.Config.Redactor(); err != nil {
		t.Fatal(err)
	}
	p := run(t, o)
	p.log.until(t, "state=match")
	written := make(chan kubetest.Written, 100)
	api.Tell(func(w kubetest.Written) { written <- w })
	fault(t, s, "bypass")
	hash := o.Redactor.Text(nodeSA)
	for events, conditions := 0, 0; events == 0 || conditions == 0; {
		select {
		case w := <-written:
			text, err := json.Marshal(w.Object)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), "gserviceaccount") {
				t.Errorf("somebody is named in %s", text)
			}
			switch {
			case !strings.Contains(string(text), "NodeFallback"):
			case !strings.Contains(string(text), hash):
				t.Errorf("there is no %s in %s", hash, text)
			case w.Object["kind"] == "Event":
				events++
			default:
				conditions++
			}
		case <-time.After(patience):
			t.Fatalf("%d Events and %d conditions in %s", events, conditions, patience)
		}
	}
}

func TestItStopsAtOnceAndLeavesNothing(t *testing.T) {
	s, api := node(t), cluster(t)
	fault(t, s, "silent")
	p := run(t, options(t, s, append(api.Environment(), "WI_PROBE_TIMEOUT=1m")...))
	p.log.until(t, "Expected identity") // a probe hangs from now on
	address := p.Addr().String()
	began := time.Now()
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the stop took %s, want less than a second", took)
	}
	p.log.until(t, "Stopped")
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the address is still in use: %v", err)
	}
	again.Close()
}

func TestTwoAppsShareNothing(t *testing.T) {
	well, broken := node(t), node(t)
	fault(t, broken, "no-binding")
	p := run(t, options(t, well, "WI_EXPECTED_EMAILS="+gsa))
	q := run(t, options(t, broken, "WI_EXPECTED_EMAILS="+gsa))
	p.log.until(t, "state=match")
	q.log.until(t, "state=token_denied")
	if a, b := p.report(t).State, q.report(t).State; a != identity.Match || b != identity.TokenDenied {
		t.Errorf("states %s and %s, want %s and %s", a, b, identity.Match, identity.TokenDenied)
	}
}

func TestAnAddressInUseIsAnError(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if _, err := app.New(options(t, node(t), "WI_LISTEN_ADDRESS="+busy.Addr().String())); err == nil || !strings.Contains(err.Error(), "WI_LISTEN_ADDRESS") {
		t.Errorf("error %v, want one that names WI_LISTEN_ADDRESS", err)
	}
}

// The client library reads GCE_METADATA_HOST, so whoever starts the process takes
// it away. What is said about it must not depend on when.
func TestTheEnvironmentIsTheOneThatWasPassedIn(t *testing.T) {
	o := options(t, node(t), "WI_EXPECTED_EMAILS="+gsa, "GCE_METADATA_HOST=metadata.example", "WI_PROBE_INTERVALL=1s")
	os.Unsetenv("GCE_METADATA_HOST") // t.Setenv restores it
	t.Setenv("WI_COLOUR", "red")
	p := run(t, o)
	p.log.until(t, "state=match")
	warnings := p.report(t).About.Warnings
	if len(warnings) != 3 || !strings.HasPrefix(warnings[0], "WI_METADATA_HOST=") || !strings.HasPrefix(warnings[1], `GCE_METADATA_HOST="metadata.example" is ignored`) ||
		warnings[2] != "Unknown variable WI_PROBE_INTERVALL (did you mean WI_PROBE_INTERVAL?): it has no effect" {
		t.Errorf("warnings %q", warnings)
	}
}

func TestACheckTriesAgainUntilItMatches(t *testing.T) {
	s, api := node(t), cluster(t)
	fault(t, s, "bypass")
	c, err := app.NewCheck(options(t, s, api.Environment()...))
	if err != nil {
		t.Fatal(err)
	}
	var seen []identity.State
	r := c.Run(t.Context(), patience, func(r report.Report) {
		seen = append(seen, r.State)
		fault(t, s, "healthy")
	})
	if r.State != identity.Match || r.ExitCode != report.ExitMatch || r.ExpectedSource != identity.SourceAnnotation || r.About.Version != "v1.2.3" {
		t.Errorf("report %+v, want a match", r)
	}
	if len(seen) != 1 || seen[0] != identity.NodeFallback {
		t.Errorf("%v before, want one %s", seen, identity.NodeFallback)
	}
	if w := c.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], "WI_METADATA_HOST=") {
		t.Errorf("warnings %q, want that about the metadata server", w)
	}
}

// Who may not read in the cluster can check, too.
func TestACheckWithoutKubernetesAsksTheMetadataServerAlone(t *testing.T) {
	s, api := node(t), cluster(t)
	fault(t, s, "swap")
	o := options(t, s, append(api.Environment(), "WI_EXPECTED_EMAILS="+gsa)...)
	o.WithoutKubernetes = true
	c, err := app.NewCheck(o)
	if err != nil {
		t.Fatal(err)
	}
	r := c.Run(t.Context(), 0, func(report.Report) { t.Error("tried again") })
	if r.State != identity.Mismatch || r.ExitCode != report.ExitWrong {
		t.Errorf("%s, exit code %d, want %s and 1", r.State, r.ExitCode, identity.Mismatch)
	}
	if asked := api.Requests(); len(asked) != 0 {
		t.Errorf("%d requests to the API server, want none", len(asked))
	}
}

// A projected volume may be filled after the start. The token also tells who the
// process is.
func TestATokenThatIsMountedLaterIsUsed(t *testing.T) {
	s, api := node(t), cluster(t)
	token := filepath.Join(api.Directory, "token")
	content, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := run(t, options(t, s, api.Environment()...))
	p.log.until(t, "state=unknown_expectation")
	if n := len(api.Requests()); n != 0 {
		t.Errorf("%d requests without a token, want none", n)
	}
	if err := os.WriteFile(token, content, 0o600); err != nil {
		t.Fatal(err)
	}
	p.log.until(t, "state=match")
	if got := p.report(t).About.Node; got != kubetest.Node {
		t.Errorf("the page is about the node %q, want %q", got, kubetest.Node)
	}
	events := make(chan kubetest.Written, 100)
	api.Tell(func(w kubetest.Written) { events <- w })
	fault(t, s, "bypass")
	// There is one about the Pod as well, in either order.
	for late := time.After(patience); ; {
		select {
		case e := <-events:
			about, _ := e.Object["involvedObject"].(map[string]any)
			if about["kind"] != "Node" {
				continue
			}
			if about["name"] != kubetest.Node {
				t.Errorf("an Event about %v, want %s", about, kubetest.Node)
			}
			return
		case <-late:
			t.Fatalf("no Event about the Node in %s", patience)
		}
	}
}
