// Package exporter shows what the agent knows as Prometheus metrics.
//
// A scrape takes what has been published, and never waits for a probe.
package exporter

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

// Counters count what happens between two scrapes. They are the agent's
// Recorder, and a collector.
type Counters struct {
	verdicts      *prometheus.CounterVec
	probes        *prometheus.CounterVec
	probeFailures *prometheus.CounterVec
	probeDuration *prometheus.HistogramVec
	probePanics   prometheus.Counter
	httpPanics    prometheus.Counter
	kubeRequests  *prometheus.CounterVec
	kubeFailures  *prometheus.CounterVec
}

// NewCounters returns counters that all stand at 0, and not only those that were
// counted once: the first event must be an increase that rate() can see.
func NewCounters() *Counters {
	c := &Counters{
		verdicts:      verdicts.counter(),
		probes:        probes.counter(),
		probeFailures: probeFailures.counter(),
		probePanics:   probePanics.counter().WithLabelValues(),
		httpPanics:    httpPanics.counter().WithLabelValues(),
		kubeRequests:  kubeRequests.counter(),
		kubeFailures:  kubeFailures.counter(),
		probeDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: probeDuration.FullName(), Help: probeDuration.Help,
			// The classic buckets are for servers without native histograms, and each
			// costs a series for each endpoint: an answer from the cache, one that
			// went to IAM, a slow one.
			Buckets:                         []float64{0.01, 0.1, 1},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, probeDuration.Labels),
	}
	for _, s := range identity.VerdictStates() {
		c.verdicts.WithLabelValues(string(s))
	}
	for _, e := range identity.Endpoints() {
		c.probes.WithLabelValues(string(e))
		c.probeDuration.WithLabelValues(string(e))
		for _, r := range identity.Reasons(e) {
			c.probeFailures.WithLabelValues(string(e), string(r))
		}
	}
	for _, resource := range kube.Resources() {
		c.kubeRequests.WithLabelValues(string(resource))
	}
	// The others are read now and then, and may be left out of a Role on purpose.
	for _, reason := range kube.Reasons() {
		c.kubeFailures.WithLabelValues(string(kube.ServiceAccounts), string(reason))
	}
	return c
}

// Probed counts the requests that a probe made.
func (c *Counters) Probed(o identity.Observation) {
	for endpoint, r := range o.Requests() {
		if !r.Live() {
			continue
		}
		e := string(endpoint)
		c.probes.WithLabelValues(e).Inc()
		c.probeDuration.WithLabelValues(e).Observe(r.Took.Seconds())
		if r.Failure != nil {
			c.probeFailures.WithLabelValues(e, string(r.Failure.Reason)).Inc()
		}
	}
}

// Judged counts the verdict on a single probe.
func (c *Counters) Judged(s identity.State) { c.verdicts.WithLabelValues(string(s)).Inc() }

// Panicked counts a probe that panicked.
func (c *Counters) Panicked() { c.probePanics.Inc() }

// PanickedServing counts a request to the agent that made it panic.
func (c *Counters) PanickedServing() { c.httpPanics.Inc() }

// KubernetesRequest counts a request to the API server, and its failure unless
// the reason is empty.
func (c *Counters) KubernetesRequest(resource kube.Resource, reason kube.Reason) {
	c.kubeRequests.WithLabelValues(string(resource)).Inc()
	if reason != "" {
		c.kubeFailures.WithLabelValues(string(resource), string(reason)).Inc()
	}
}

func (c *Counters) collectors() []prometheus.Collector {
	return []prometheus.Collector{c.verdicts, c.probes, c.probeFailures, c.probeDuration, c.probePanics, c.httpPanics, c.kubeRequests, c.kubeFailures}
}

// Describe implements prometheus.Collector.
func (c *Counters) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.collectors() {
		m.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c *Counters) Collect(ch chan<- prometheus.Metric) {
	for _, m := range c.collectors() {
		m.Collect(ch)
	}
}
