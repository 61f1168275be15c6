package exporter_test

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

var update = flag.Bool("update", false, "write the golden files again")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	app  = identity.Identity("app@project.iam.gserviceaccount.com")
	node = identity.Identity("1-compute@developer.gserviceaccount.com")
)

// world is an agent with its metrics, in the time of a synctest bubble.
type world struct {
	registry *prometheus.Registry
	counters *exporter.Counters

	mu       sync.Mutex
	observed identity.Observation
	block    chan struct{}
}

func start(t *testing.T, expect func(context.Context) (identity.Expectation, error)) *world {
	t.Helper()
	read := func(ctx context.Context) (identity.Reading, error) {
		e, err := expect(ctx)
		return identity.Reading{Expectation: e}, err
	}
	w := &world{registry: prometheus.NewPedanticRegistry(), counters: exporter.NewCounters()}
	w.observe(from(identity.ServerGKE, app))
	a := agent.New(agent.Options{
		Prober: w, Recorder: w.counters, Expect: read, Logger: slog.New(slog.DiscardHandler),
		Nodes:    identity.DefaultNodeAccounts(),
		Interval: 10 * time.Second, Timeout: 3 * time.Second, TokenInterval: time.Minute, ExpectationInterval: 15 * time.Minute,
		ClusterSettings: func(context.Context, diagnose.Scope, diagnose.Settings) diagnose.Settings {
			bypass := map[string]string{"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true"}
			return diagnose.Settings{Cilium: diagnose.ConfigMap{State: diagnose.Read, Data: bypass}, DataplaneV2: diagnose.No}
		},
		Process: diagnose.Process{HostNetwork: diagnose.No},
		Random:  func() float64 { return 0.5 },
	})
	build := exporter.Build{Version: "v1.2.3", Revision: "abcdef", GoVersion: "go1.26"}
	w.registry.MustRegister(w.counters, exporter.NewGauges(a.Snapshot, build, "169.254.169.254", nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if w.block != nil {
			close(w.block)
		}
		<-done
	})
	return w
}

func expected(context.Context) (identity.Expectation, error) { return identity.Expect(app), nil }

func (w *world) observe(o identity.Observation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.observed = o
}

func (w *world) Probe(_ context.Context, withToken bool) identity.Observation {
	w.mu.Lock()
	o, block := w.observed, w.block
	w.mu.Unlock()
	if block != nil {
		<-block
	}
	if !withToken {
		o.Token = identity.Token{}
	}
	return o
}

// text is what a scrape returns.
func (w *world) text(t *testing.T) string {
	t.Helper()
	r := httptest.NewRecorder()
	promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{}).ServeHTTP(r, httptest.NewRequest("GET", "/metrics", nil))
	return r.Body.String()
}

// series are the sample lines of a text.
func series(text string) []string {
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(text), "\n"), func(l string) bool { return strings.HasPrefix(l, "#") })
}

func from(s identity.Server, id identity.Identity) identity.Observation {
	asked := identity.Request{Origin: identity.Asked, Took: 5 * time.Millisecond}
	return identity.Observation{
		Email:  identity.Email{Request: asked, Identity: id},
		Token:  identity.Token{Request: asked, Type: "Bearer", Lifetime: time.Hour},
		Server: identity.Responder{Request: asked, Server: s},
	}
}

func TestScrapes(t *testing.T) {
	tests := []struct {
		name   string
		expect func(context.Context) (identity.Expectation, error)
		live   func(w *world)
	}{
		{"start", expected, func(*world) {}},
		{"match", expected, func(*world) { time.Sleep(30 * time.Minute) }},
		{"node_fallback", expected, func(w *world) {
			time.Sleep(time.Minute)
			w.observe(from(identity.ServerVM, node))
			w.counters.KubernetesRequest(kube.ServiceAccounts, "")
			w.counters.KubernetesRequest(kube.ServiceAccounts, kube.Forbidden)
			w.counters.Panicked()
			time.Sleep(time.Minute)
		}},
		{"unavailable", expected, func(w *world) {
			time.Sleep(time.Minute)
			f := identity.Request{Origin: identity.Asked, Took: 3 * time.Second, Failure: &identity.Failure{Reason: identity.Timeout}}
			w.observe(identity.Observation{Email: identity.Email{Request: f}, Token: identity.Token{Request: f}, Server: identity.Responder{Request: f, Server: identity.ServerUnknown}})
			time.Sleep(time.Minute)
		}},
		{"unknown_expectation", func(context.Context) (identity.Expectation, error) {
			return identity.Expectation{}, errors.New("forbidden")
		}, func(*world) { time.Sleep(2 * time.Minute) }},
		{"stale", expected, func(w *world) {
			time.Sleep(time.Minute)
			w.mu.Lock()
			w.block = make(chan struct{})
			w.mu.Unlock()
			time.Sleep(2 * time.Minute)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, tt.expect)
				tt.live(w)
				synctest.Wait()
				problems, err := testutil.GatherAndLint(w.registry)
				if err != nil || len(problems) > 0 {
					t.Errorf("lint: %v %v", problems, err)
				}
				got := w.text(t)
				golden(t, filepath.Join("testdata", tt.name+".txt"), got)
				if n := len(series(got)); n > 96 {
					t.Errorf("%d series, want at most 96", n)
				}
				one := regexp.MustCompile(`(?m)^workload_identity_state\{state="(\w+)"\} 1$`).FindAllString(got, -1)
				if len(one) != 1 {
					t.Errorf("the states that are 1: %q, want exactly one", one)
				}
			})
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (`go test ./internal/exporter -update` accepts it):\n%s", file, firstDifference(string(want), got))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return "want " + w[i] + "\ngot  " + g[i]
		}
	}
	return "the lengths differ"
}

// A counter that first appears at 1 is no increase: alerts would miss the first
// event of each kind.
func TestEveryCounterIsThereFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, expected)
		names := func() []string {
			var names []string
			for _, s := range series(w.text(t)) {
				name, _, _ := strings.Cut(s, " ")
				if !strings.Contains(name, "_timestamp_") && !strings.Contains(name, "_info{") && !strings.Contains(name, "time_to_first") && !strings.Contains(name, "{cause=") {
					names = append(names, name)
				}
			}
			return names
		}
		before := names()
		for _, reason := range identity.Reasons(identity.EndpointToken) {
			o := from(identity.ServerVM, node)
			o.Token = identity.Token{Request: identity.Request{Origin: identity.Asked, Failure: &identity.Failure{Reason: reason}}}
			w.counters.Probed(o)
		}
		for _, s := range identity.VerdictStates() {
			w.counters.Judged(s)
		}
		for _, r := range kube.Reasons() {
			w.counters.KubernetesRequest(kube.ServiceAccounts, r)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if after := names(); !slices.Equal(before, after) {
			t.Errorf("series at the start %q\nand later %q", before, after)
		}
	})
}

// The reference lists what is exported, with the labels it has, and nothing else.
func TestTheReferenceIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, expected)
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		families, err := w.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		w.observe(from(identity.ServerVM, node)) // what is there only while something is wrong
		time.Sleep(time.Minute)
		synctest.Wait()
		wrong, err := w.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range wrong {
			if f.GetName() == "workload_identity_suspected_cause" {
				families = append(families, f)
			}
		}
		documented := map[string]exporter.Metric{}
		for _, m := range exporter.Metrics() {
			documented[m.FullName()] = m
		}
		for _, f := range families {
			m, ok := documented[f.GetName()]
			if !ok {
				t.Errorf("%s is exported and not documented", f.GetName())
				continue
			}
			delete(documented, f.GetName())
			if got := strings.ToLower(f.GetType().String()); got != m.Type || f.GetHelp() != m.Help {
				t.Errorf("%s is a %s %q, documented as a %s %q", f.GetName(), got, f.GetHelp(), m.Type, m.Help)
			}
			for _, sample := range f.GetMetric() {
				for _, l := range sample.GetLabel() {
					values := m.LabelValues(l.GetName())
					if !slices.Contains(m.Labels, l.GetName()) || (values != nil && !slices.Contains(values, l.GetValue())) {
						t.Errorf("%s has the label %s=%q, documented are %v with %v", f.GetName(), l.GetName(), l.GetValue(), m.Labels, values)
					}
				}
			}
		}
		for name := range documented {
			t.Errorf("%s is documented and not exported", name)
		}
	})
}

// Native histograms are in the protobuf format only.
func TestTheHistogramIsNativeToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, expected)
		time.Sleep(time.Minute)
		synctest.Wait()
		families, err := w.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "workload_identity_probe_duration_seconds" {
				continue
			}
			if h := f.GetMetric()[0].GetHistogram(); h.GetSchema() == 0 || len(h.GetPositiveSpan()) == 0 || len(h.GetBucket()) == 0 {
				t.Errorf("histogram %v, want native and classic buckets", h)
			}
			return
		}
		t.Error("no histogram")
	})
}
