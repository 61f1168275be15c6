package web_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	app  = identity.Identity("app@project.iam.gserviceaccount.com")
	node = identity.Identity("1-compute@developer.gserviceaccount.com")
)

// always is a prober that observes the same each time.
type always identity.Observation

func (a always) Probe(context.Context, bool) identity.Observation { return identity.Observation(a) }

func from(s identity.Server, id identity.Identity, serverHeader string) identity.Observation {
	asked := identity.Request{Origin: identity.Asked, Took: 5 * time.Millisecond, ServerHeader: serverHeader}
	return identity.Observation{
		Email:  identity.Email{Request: asked, Identity: id},
		Token:  identity.Token{Request: asked, Type: "Bearer", Lifetime: time.Hour},
		Server: identity.Responder{Request: asked, Server: s},
	}
}

// site is a running server.
type site struct {
	base string
	stop func() error
	logs *bytes.Buffer
}

func about() report.About {
	return report.About{Version: "v1.2.3", Node: "node-1", Settings: []report.Setting{{Name: "WI_PROBE_INTERVAL", Value: "1s"}, {Name: "WI_LOG_LEVEL", Value: "INFO", Default: true}}}
}

// serve runs a server over an agent, which is alive and has probed if o is not
// nil; adjust may change the options.
func serve(t testing.TB, o *identity.Observation, adjust func(*web.Options)) *site {
	t.Helper()
	logs := new(bytes.Buffer)
	counters := exporter.NewCounters()
	options := agent.Options{
		Recorder: counters, Logger: slog.New(slog.DiscardHandler), Interval: time.Second, Timeout: time.Second, TokenInterval: time.Minute,
		ExpectationInterval: time.Hour, Random: func() float64 { return 0 }, Nodes: identity.DefaultNodeAccounts(),
		Expect: func(context.Context) (identity.Reading, error) {
			return identity.Reading{Expectation: identity.Expect(app)}, nil
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	if o != nil {
		options.Prober = always(*o)
	}
	a := agent.New(options)
	if o != nil {
		running.Go(func() { a.Run(ctx) })
		for deadline := time.Now().Add(10 * time.Second); !a.Snapshot().Ready(); {
			if time.Now().After(deadline) {
				t.Fatal("the agent has not probed in 10 s")
			}
			time.Sleep(time.Millisecond) // the agent has no signal for it
		}
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(counters, exporter.NewGauges(a.Snapshot, exporter.Build{Version: "v1.2.3"}, "169.254.169.254", nil))
	opts := web.Options{
		Address: "127.0.0.1:0", Gatherer: registry, Snapshot: a.Snapshot, Alive: a.Alive, Logger: slog.New(slog.NewTextHandler(logs, nil)),
		About: about,
	}
	if adjust != nil {
		adjust(&opts)
	}
	s, err := web.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	running.Go(func() { result <- s.Run(ctx) })
	stop := sync.OnceValue(func() error { cancel(); running.Wait(); return <-result })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return &site{base: "http://" + s.Addr().String(), stop: stop, logs: logs}
}

func (s *site) get(t testing.TB, path, accept string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestPaths(t *testing.T) {
	match := from(identity.ServerGKE, app, "GKE Metadata Server")
	s := serve(t, &match, nil)
	for _, tt := range []struct {
		path, accept string
		status       int
		contentType  string
		says         string
	}{
		{"/metrics", "", 200, "text/plain; version=0.0.4", `workload_identity_state{state="match"} 1`},
		{"/metrics", "application/openmetrics-text;version=1.0.0", 200, "application/openmetrics-text; version=1.0.0", "# EOF"},
		{"/healthz", "", 200, "text/plain", "ok"},
		{"/-/healthy", "", 200, "text/plain", "ok"},
		{"/readyz", "", 200, "text/plain", "ok"},
		{"/-/ready", "", 200, "text/plain", "ok"},
		{"/status.json", "", 200, "application/json", `"state": "match"`},
		{"/", "", 200, "text/html", "<h1"},
		{"/nothing", "", 404, "text/plain", "not found"},
	} {
		res, body := s.get(t, tt.path, tt.accept)
		if res.StatusCode != tt.status || !strings.HasPrefix(res.Header.Get("Content-Type"), tt.contentType) || !strings.Contains(body, tt.says) {
			t.Errorf("GET %s: %d %q %.200q, want %d %q with %q", tt.path, res.StatusCode, res.Header.Get("Content-Type"), body, tt.status, tt.contentType, tt.says)
		}
	}
	res, err := http.Post(s.base+"/metrics", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /metrics: %d, want 405", res.StatusCode)
	}
}

func TestBeforeTheFirstProbeItIsHealthyAndNotReady(t *testing.T) {
	s := serve(t, nil, nil)
	for path, want := range map[string]int{"/healthz": 200, "/-/healthy": 200, "/readyz": 503, "/-/ready": 503, "/": 200, "/metrics": 200, "/status.json": 200} {
		if res, body := s.get(t, path, ""); res.StatusCode != want {
			t.Errorf("GET %s: %d %q, want %d", path, res.StatusCode, body, want)
		}
	}
}

// A broken node must not make the kubelet restart the agent that reports it.
func TestHealthIsTheLoopsAndNotTheMetadataServers(t *testing.T) {
	down := identity.Request{Origin: identity.Asked, Failure: &identity.Failure{Reason: identity.Timeout, Detail: "because"}}
	s := serve(t, &identity.Observation{Email: identity.Email{Request: down}, Token: identity.Token{Request: down}}, nil)
	for _, path := range []string{"/healthz", "/readyz"} {
		if res, _ := s.get(t, path, ""); res.StatusCode != 200 {
			t.Errorf("GET %s: %d with the metadata server down, want 200", path, res.StatusCode)
		}
	}
	dead := serve(t, nil, func(o *web.Options) { o.Alive = func() bool { return false } })
	for _, path := range []string{"/healthz", "/-/healthy"} {
		if res, _ := dead.get(t, path, ""); res.StatusCode != 503 {
			t.Errorf("GET %s: %d with a loop that hangs, want 503", path, res.StatusCode)
		}
	}
}

func TestThePageSaysWhatMatters(t *testing.T) {
	fallback := from(identity.ServerVM, node, "Metadata Server for VM")
	s := serve(t, &fallback, func(o *web.Options) {
		o.About = func() report.About {
			a := about()
			a.Warnings = []string{"mind the gap"}
			return a
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // confirm probes
		if _, body := s.get(t, "/status.json", ""); strings.Contains(body, `"state": "node_fallback"`) || time.Now().After(deadline) {
			break
		}
	}
	res, body := s.get(t, "/", "")
	for _, part := range []string{
		"node_fallback</h1>", identity.NodeFallback.Meaning()[:20], string(app), string(node), "vm metadata server",
		"Metadata Server for VM", "mind the gap", "node-1", "v1.2.3", "WI_PROBE_INTERVAL", `<html lang="en">`, "node_fallback on node-1",
		`href="metrics"`, `href="status.json"`, `href="` + diagnose.Runbooks + `WorkloadIdentityNodeFallback.md"`,
	} {
		if !strings.Contains(body, part) {
			t.Errorf("the page lacks %q:\n%s", part, body)
		}
	}
	if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
		t.Errorf("Content-Security-Policy %q", csp)
	}
	if strings.Contains(body, "WI_LOG_LEVEL") {
		t.Error("the page shows a setting that has its default")
	}
	res, body = s.get(t, "/status.json", "")
	if h := res.Header; h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("status.json has the headers %v", h)
	}
	var status map[string]any
	if err := json.Unmarshal([]byte(body), &status); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"state": "node_fallback", "expected": string(app), "observed": string(node), "metadata_server": "vm", "expected_source": "config"} {
		if status[key] != want {
			t.Errorf("status.json has %s=%v, want %v", key, status[key], want)
		}
	}
	if requests := status["requests"].([]any); len(requests) != 3 {
		t.Errorf("status.json has the requests %v, want three", requests)
	}
}

func TestWrongSettingsAreToldInOneLine(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	broken := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(broken, []byte("tls_server_config:\n  cert_file: /does/not/exist\n  key_file: /does/not/exist\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	unknown := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(unknown, []byte("tls_config: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	many := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(many, []byte(strings.Repeat("é: 1\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    web.Options
		says []string
	}{
		{"a thousand unknown fields", web.Options{Address: "127.0.0.1:0", ConfigFile: many}, []string{"WI_WEB_CONFIG_FILE", "..."}},
		{"the port is busy", web.Options{Address: busy.Addr().String()}, []string{"address already in use", "WI_LISTEN_ADDRESS", busy.Addr().String()}},
		{"no such address", web.Options{Address: "192.0.2.1:1"}, []string{"WI_LISTEN_ADDRESS"}},
		{"an unknown field", web.Options{Address: "127.0.0.1:0", ConfigFile: unknown}, []string{"WI_WEB_CONFIG_FILE", "tls_config"}},
		{"no certificate", web.Options{Address: "127.0.0.1:0", ConfigFile: broken}, []string{"WI_WEB_CONFIG_FILE", "/does/not/exist"}},
	} {
		_, err := web.New(tt.o)
		if err == nil {
			t.Errorf("%s: no error", tt.name)
			continue
		}
		for _, part := range tt.says {
			if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: error %q lacks %q, or is not one line", tt.name, err, part)
			}
		}
		if n := len(err.Error()); n > 1000 || !utf8.ValidString(err.Error()) {
			t.Errorf("%s: an error of %d bytes, want a short one of valid UTF-8: %.100q", tt.name, n, err)
		}
	}
}

func TestAScrapeInFlightIsAnswered(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := serve(t, nil, func(o *web.Options) {
		o.Gatherer = prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			close(entered)
			<-release
			return nil, nil
		})
	})
	answered := make(chan int, 1)
	go func() {
		res, err := http.Get(s.base + "/metrics")
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		res.Body.Close()
		answered <- res.StatusCode
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	time.Sleep(50 * time.Millisecond) // the stop has begun, for which there is no signal
	close(release)
	if status := <-answered; status != 200 {
		t.Errorf("the scrape in flight got %d, want 200", status)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestAHangingClientDoesNotDelayTheStop(t *testing.T) {
	s := serve(t, nil, nil)
	c, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET /metrics HTTP/1.1\r\nHost: x\r\n")); err != nil { // and nothing more
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if _, err := bufio.NewReader(c).ReadByte(); err == nil {
		t.Error("the connection is still served")
	}
}

// It is what a scrape by Prometheus costs both ends.
func BenchmarkScrape(b *testing.B) {
	match := from(identity.ServerGKE, app, "GKE Metadata Server")
	s := serve(b, &match, nil)
	b.ReportAllocs()
	for b.Loop() {
		if res, _ := s.get(b, "/metrics", ""); res.StatusCode != http.StatusOK {
			b.Fatal(res.Status)
		}
	}
}
