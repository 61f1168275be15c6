package exporter

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/redact"
)

// Build is what the program knows of its own build.
type Build struct{ Version, Revision, GoVersion string }

// String is one line for people.
func (b Build) String() string {
	return fmt.Sprintf("workload-identity-exporter %s (revision %s, %s)", b.Version, b.Revision, b.GoVersion)
}

// Gauges is the collector of what the agent's snapshot says at the moment of
// the scrape.
type Gauges struct {
	snapshot func() *agent.Snapshot
	redactor *redact.Redactor
	constant []prometheus.Metric
	descs    map[string]*prometheus.Desc
}

// NewGauges returns the collector of the snapshots that the function returns, with
// identities as the redactor shows them.
func NewGauges(snapshot func() *agent.Snapshot, build Build, metadataHost string, r *redact.Redactor) *Gauges {
	g := &Gauges{snapshot: snapshot, redactor: r, descs: map[string]*prometheus.Desc{}}
	for _, m := range Metrics() {
		if m.Type == "gauge" {
			g.descs[m.Name] = m.desc()
		}
	}
	g.constant = []prometheus.Metric{
		g.gauge(buildInfo, 1, build.Version, build.Revision, build.GoVersion),
		g.gauge(configInfo, 1, metadataHost),
	}
	return g
}

func (g *Gauges) gauge(m Metric, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(g.descs[m.Name], prometheus.GaugeValue, value, labels...)
}

// Describe implements prometheus.Collector.
func (g *Gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range g.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *Gauges) Collect(ch chan<- prometheus.Metric) {
	s := g.snapshot()
	now, since := s.State()
	for _, one := range identity.States() {
		ch <- g.gauge(state, truth(one == now), string(one))
	}
	ch <- g.gauge(stateEntered, seconds(since))
	// The two infos are there from the start and always, so that a join of an
	// alert with them never loses the alert.
	source := s.Expectation.Source
	if source == "" {
		source = identity.SourceNone
	}
	expected, observed := g.redactor.Text(s.Expectation.String()), g.redactor.Text(string(s.Verdict.Identity))
	ch <- g.gauge(expectedInfo, 1, expected, string(source))
	ch <- g.gauge(observedInfo, 1, observed, string(s.Verdict.Server))
	ch <- g.gauge(verdict, seconds(time.Now()), string(now), expected, observed, string(s.Verdict.Server))
	// Two dozen causes that hardly ever hold would cost as many series on every node.
	for _, f := range s.Diagnosis.Suspects {
		if f.Confidence != diagnose.Possible { // which is said of all for want of anything else
			ch <- g.gauge(suspected, 1, string(f.Cause))
		}
	}
	for _, f := range s.Diagnosis.Risks {
		ch <- g.gauge(risk, 1, string(f.Cause))
	}
	for endpoint, r := range s.Observation.Requests() {
		ch <- g.gauge(probeSuccess, truth(r.OK()), string(endpoint))
	}
	// An event that has not happened has no timestamp. 0 would be the year 1970.
	for _, t := range []struct {
		metric Metric
		at     time.Time
	}{{lastProbe, s.LastProbe}, {tokenExpiry, s.TokenExpiry}, {expectation, s.ExpectationRead}} {
		if !t.at.IsZero() {
			ch <- g.gauge(t.metric, seconds(t.at))
		}
	}
	if s.TimeToFirstToken > 0 {
		ch <- g.gauge(firstToken, s.TimeToFirstToken.Seconds())
	}
	for _, m := range g.constant {
		ch <- m
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// seconds is the time in seconds since the epoch.
func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
