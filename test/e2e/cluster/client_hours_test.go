package cluster

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	hours = 6
	// mostAnHour is what an agent may ask of the API server: 15,000 of them are
	// then 21 requests a second.
	mostAnHour = 5
)

func TestAnHourIsAtMostFiveRequests(t *testing.T) {
	c := newNamespace(t)
	c.readablePod(t, bound(app))
	always := func(x float64) func() float64 { return func() float64 { return x } }
	for _, tt := range []struct {
		name   string
		random func() float64
	}{
		{"always 0", always(0)},
		{"always a quarter", always(0.25)},
		{"always a half", always(0.5)},
		{"always three quarters", always(0.75)},
		{"always almost 1", always(1 - 1e-9)},
		{"any", rand.Float64},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := c.pod(t, "app")
			probes := healthyProber(0)
			var log bytes.Buffer
			now := time.Now()
			synctest.Test(t, func(t *testing.T) {
				toThePresent(now)
				a := agent.New(agent.Options{
					Prober: &probes, Recorder: nobody{}, Logger: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
					Expect: func(ctx context.Context) (identity.Reading, error) {
						r := p.readBy(ctx, t, p.self)
						return r.expectation, r.err
					},
					Nodes:    identity.DefaultNodeAccounts(),
					Interval: 10 * time.Second, Timeout: 3 * time.Second, TokenInterval: time.Minute,
					ExpectationInterval: 15 * time.Minute, AnnotationGrace: 2 * time.Minute, StartupGrace: time.Minute,
					Random: tt.random,
				})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); a.Run(ctx) }()
				time.Sleep(hours * time.Hour)
				cancel()
				<-done
				if state, _ := a.Snapshot().State(); state != identity.Match {
					t.Errorf("the state is %s, want %s", state, identity.Match)
				}
			})
			p.withoutSecrets(t, log.String())

			var most int
			requests := p.requestsFrom(0)
			for i, first := range requests {
				n := 0
				for _, r := range requests[i:] {
					if r.at.Sub(first.at) < time.Hour {
						n++
					}
				}
				most = max(most, n)
			}
			t.Logf("%d probes, %d requests in %d hours, at most %d in an hour", probes, len(requests), hours, most)
			if most > mostAnHour || len(requests) < 4*hours {
				t.Errorf("at most %d requests in any hour and %d in %d hours, want at most %d and one every quarter of an hour", most, len(requests), hours, mostAnHour)
			}
			if probes < hours*360 {
				t.Errorf("%d probes, so the agent did not live for %d hours", probes, hours)
			}
			if n := p.link.accepted(); n != len(requests) {
				t.Errorf("%d connections for %d requests, want as many", n, len(requests))
			}
			p.link.becomesQuiet(t, patience)
		})
	}
}

// healthyProber is a metadata server that is always right, and counts the probes.
type healthyProber int

func (h *healthyProber) Probe(_ context.Context, withToken bool) identity.Observation {
	*h++
	asked := identity.Request{Origin: identity.Asked, Took: time.Millisecond}
	o := identity.Observation{
		Email:  identity.Email{Request: asked, Identity: app},
		Server: identity.Responder{Request: asked, Server: identity.ServerGKE},
	}
	if withToken {
		o.Token = identity.Token{Request: asked, Type: "Bearer", Lifetime: time.Hour}
	}
	return o
}

// nobody records nothing.
type nobody struct{}

func (nobody) Probed(identity.Observation) {}
func (nobody) Judged(identity.State)       {}
func (nobody) Panicked()                   {}
