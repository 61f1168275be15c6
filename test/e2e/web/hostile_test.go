package web

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	observer "github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
	server "github.com/workload-identity-exporter/workload-identity-exporter/internal/web"
)

// script is what others would like to have in the page.
const script = `"'><script>alert(1);document.title='gone'</script><img src=x onerror=alert(1)><a href=javascript:alert(1)>x</a>`

// A metadata server, an API server and a setting can say what they like.
func TestWhatOthersSayIsText(t *testing.T) {
	n, chrome := newNode(t), browser(t)
	n.api.Annotate(map[string]string{identity.AnnotationServiceAccount: script})
	for name, body := range map[string]string{
		"a script as email": script + "x", "the annotation as email": script, "an email": "app@demo-project.iam.gserviceaccount.com",
	} {
		t.Run(name, func(t *testing.T) {
			metadata := httptest.NewServer(impostor{serverHeader: script, body: body})
			t.Cleanup(metadata.Close)
			a := start(t, n.api, "127.0.0.1", "WI_METADATA_HOST="+metadata.Listener.Addr().String(), "WI_NODE_NAME="+script, "WI_STARTUP_GRACE=0s")
			state := identity.UnknownExpectation
			if strings.HasSuffix(body, "x") { // else the server repeats the annotation, or is right about an email
				state = identity.Unavailable
			}
			a.await(t, state)
			b := examine(chrome, t, a.base, state)
			if n := evaluate[int](t, b, `document.querySelectorAll('script, img, a[href^=javascript]').length`); n != 0 {
				t.Errorf("%d elements of somebody else are in the page", n)
			}
			text := evaluate[string](t, b, `document.body.innerText`)
			// The headers of three answers, the node, and the annotation as Go quotes it.
			if n := strings.Count(text, script); n < 5 || !strings.Contains(text, `"\"'><script>alert(1);`) {
				t.Errorf("the page has it %d times, want it as text where it was said:\n%s", n, text)
			}
		})
	}
}

// The worst that the strip, the names and the tables can be. It takes hours to
// bring about, so the server of the page gets it as it is.
func TestTheFullestPageFitsOnAPhone(t *testing.T) {
	states, word := identity.VerdictStates(), strings.Repeat("x", 1024)
	snapshot := &observer.Snapshot{
		Verdict:     identity.Verdict{State: identity.NodeFallback, Identity: identity.Identity(word), Server: identity.ServerVM, Why: word},
		Expectation: identity.Expect(identity.Identity(word)),
		LastProbe:   time.Now(),
	}
	// Every cause there is, three times.
	for _, g := range diagnose.Guides() {
		f := diagnose.Finding{Cause: g.Cause, Title: g.Title, Confidence: diagnose.Suggests, Why: word, Remedy: diagnose.Remedy{Text: word, Commands: []string{word}}, Runbook: g.Runbook}
		snapshot.Diagnosis.Suspects = append(snapshot.Diagnosis.Suspects, f)
		snapshot.Diagnosis.RuledOut = append(snapshot.Diagnosis.RuledOut, f)
		snapshot.Diagnosis.Missing = append(snapshot.Diagnosis.Missing, diagnose.Gap{Fact: word, Remedy: f.Remedy})
	}
	asked := identity.Request{Origin: identity.Asked, ServerHeader: word, Failure: &identity.Failure{Reason: identity.NoServiceAccount, Status: 404, Detail: word}}
	snapshot.Observation = identity.Observation{Email: identity.Email{Request: asked}, Token: identity.Token{Request: asked}, Server: identity.Responder{Request: asked}}
	for i := range 100 {
		reasons := map[identity.Endpoint]identity.Reason{}
		for _, e := range identity.Endpoints() {
			reasons[e] = identity.NoServiceAccount
		}
		snapshot.Probes = append(snapshot.Probes, observer.Probe{At: time.Now().Add(time.Duration(i) * time.Hour), State: states[i%len(states)], Failures: reasons, Dropped: i % 2})
	}
	for range 20 {
		snapshot.Changes = append(snapshot.Changes, observer.Change{At: time.Now(), From: identity.UnknownExpectation, To: identity.Verdict{State: identity.UnknownExpectation, Why: word}})
	}
	s, err := server.New(server.Options{
		Address: "127.0.0.1:0", Gatherer: prometheus.NewRegistry(), Snapshot: func() *observer.Snapshot { return snapshot },
		Alive: func() bool { return true }, Logger: slog.New(slog.DiscardHandler), About: func() report.About {
			return report.About{Node: strings.Repeat("n", 253), Pod: word, Warnings: []string{word}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	chrome := browser(t)
	base := fmt.Sprintf("http://%s", s.Addr())
	b := examine(chrome, t, base, identity.Stale)
	// Chromium knows by itself what they are, when they are no columns; others do not.
	if n := evaluate[int](t, b, `document.querySelectorAll(':is(table, thead, tbody, tr, th, td):not([role])').length`); n != 0 {
		t.Errorf("%d parts of tables have no role", n)
	}
	for _, s := range screens {
		b.resize(t, s)
		thinnest := evaluate[float64](t, b, `Math.min(...[...document.querySelectorAll('.strip i')].map(m => m.getBoundingClientRect().width))`)
		if n := evaluate[int](t, b, `document.querySelectorAll('.strip i').length`); n != 150 || thinnest < 1 {
			t.Errorf("%s: %d marks, the thinnest of %g pixels, want 150 that can be seen", s.name, n, thinnest)
		}
		// Who sees no colours tells them by their height.
		heights := evaluate[[]float64](t, b, `['good', 'unsure', 'bad'].map(c => document.querySelector('.strip .' + c).getBoundingClientRect().height)`)
		if !slices.IsSorted(heights) || heights[0]*1.5 > heights[1] || heights[1]*1.25 > heights[2] {
			t.Errorf("%s: the marks are %v pixels high, want heights that differ", s.name, heights)
		}
	}
}
