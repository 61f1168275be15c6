package exporter

import (
	"fmt"
	"io"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

// namespace is the prefix of every metric.
const namespace = "workload_identity"

// Metric is a metric of the reference.
type Metric struct {
	Name, Type, Help string
	Labels           []string
}

// Metrics that are taken from the agent's snapshot at each scrape.
var (
	state = Metric{"state", "gauge", "The verdict on the identity that Pods on this node get: 1 for the state that holds, 0 for all others.", []string{"state"}}

	stateEntered = Metric{"state_entered_timestamp_seconds", "gauge", "When the current state was entered, in Unix time.", nil}
	expectedInfo = Metric{"expected_info", "gauge", "The expected identity (several accepted ones separated by commas, empty if unknown) and where it is from. Always 1.", []string{"email", "source"}}
	observedInfo = Metric{"observed_info", "gauge", "The identity that the state rests on (empty if the metadata server gave none) and the metadata server that answered. Always 1.", []string{"email", "metadata_server"}}
	verdict      = Metric{"verdict_timestamp_seconds", "gauge", "The state with the identities that it rests on, in one series, as rules need it. The value is when it was scraped, in Unix time: of several verdicts on a node the newest holds.", []string{"state", "expected", "observed", "metadata_server"}}
	probeSuccess = Metric{"probe_success", "gauge", "Whether the last request to the endpoint of the metadata server got a usable answer.", []string{"endpoint"}}
	lastProbe    = Metric{"last_probe_timestamp_seconds", "gauge", "When the last probe finished, in Unix time.", nil}
	tokenExpiry  = Metric{"token_expiry_timestamp_seconds", "gauge", "When the last token that the metadata server gave expires, in Unix time.", nil}
	firstToken   = Metric{"time_to_first_token_seconds", "gauge", "Time from the start of the process to the first token.", nil}
	expectation  = Metric{"expectation_timestamp_seconds", "gauge", "When the expected identity was last read without an error, in Unix time.", nil}
	suspected    = Metric{"suspected_cause", "gauge", "What may explain a state other than match. 1 while it does, and absent otherwise.", []string{"cause"}}
	risk         = Metric{"risk", "gauge", "What may break a match, or makes it worth less than it seems. 1 while it does, and absent otherwise.", []string{"cause"}}
	configInfo   = Metric{"config_info", "gauge", "The metadata server that is probed. Any other than 169.254.169.254 says nothing about what Pods get. Always 1.", []string{"metadata_host"}}
	buildInfo    = Metric{"exporter_build_info", "gauge", "The version of the exporter. Always 1.", []string{"version", "revision", "goversion"}}
)

// Metrics that count what happens between two scrapes.
var (
	verdicts      = Metric{"verdicts_total", "counter", "Verdicts on single probes, before confirmation: what passes between two scrapes shows here.", []string{"state"}}
	probes        = Metric{"probes_total", "counter", "Requests to the endpoint of the metadata server.", []string{"endpoint"}}
	probeFailures = Metric{"probe_failures_total", "counter", "Requests to the endpoint of the metadata server without a usable answer, by reason.", []string{"endpoint", "reason"}}
	probeDuration = Metric{"probe_duration_seconds", "histogram", "Duration of requests to the endpoint of the metadata server, from dialing to the end of the answer.", []string{"endpoint"}}
	probePanics   = Metric{"probe_panics_total", "counter", "Probes that panicked. Anything but 0 is a bug of the exporter.", nil}
	httpPanics    = Metric{"http_panics_total", "counter", "Requests to the agent that made it panic. Anything but 0 is a bug of the exporter.", nil}
	kubeRequests  = Metric{"kubernetes_requests_total", "counter", "Requests to the Kubernetes API server.", []string{"resource"}}
	kubeFailures  = Metric{"kubernetes_request_failures_total", "counter", "Requests to the Kubernetes API server that failed, by reason.", []string{"resource", "reason"}}
)

// Metrics lists all metrics of the exporter, as in the reference.
func Metrics() []Metric {
	return []Metric{
		state, stateEntered, verdicts, expectedInfo, observedInfo, verdict,
		probeSuccess, probes, probeFailures, probeDuration, lastProbe, tokenExpiry, firstToken,
		suspected, risk,
		expectation, kubeRequests, kubeFailures, configInfo, buildInfo, probePanics, httpPanics,
	}
}

// FullName is the name with the prefix.
func (m Metric) FullName() string { return prometheus.BuildFQName(namespace, "", m.Name) }

// desc is the metric as the client library wants it.
func (m Metric) desc() *prometheus.Desc {
	return prometheus.NewDesc(m.FullName(), m.Help, m.Labels, nil)
}

func (m Metric) counter() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.FullName(), Help: m.Help}, m.Labels)
}

// LabelValues are the values that the label of the metric can have, nil if the
// set is open.
func (m Metric) LabelValues(label string) []string {
	switch {
	case label == "state" && m.Name == verdicts.Name:
		return texts(identity.VerdictStates())
	case label == "state":
		return texts(identity.States())
	case label == "endpoint":
		return texts(identity.Endpoints())
	case label == "metadata_server":
		return texts([]identity.Server{identity.ServerGKE, identity.ServerVM, identity.ServerUnknown})
	case label == "cause" && m.Name == risk.Name:
		return texts(diagnose.RiskCauses())
	case label == "cause":
		return texts(diagnose.SuspectedCauses())
	case label == "source":
		return texts([]identity.Source{identity.SourceConfig, identity.SourceAnnotation, identity.SourceWorkloadPool, identity.SourceNone})
	case label == "resource":
		return texts(kube.Resources())
	case label == "reason" && m.Name == kubeFailures.Name:
		return texts(kube.Reasons())
	case label == "reason":
		return texts(identity.Reasons(identity.EndpointToken))
	}
	return nil
}

func texts[T ~string](values []T) []string {
	s := make([]string, len(values))
	for i, v := range values {
		s[i] = string(v)
	}
	return s
}

// WriteMarkdown writes the table of metrics for docs/metrics.md and the README.
func WriteMarkdown(w io.Writer) {
	fmt.Fprintln(w, "| metric | type | labels | meaning |\n|---|---|---|---|")
	for _, m := range Metrics() {
		var labels []string
		for _, l := range m.Labels {
			text := "`" + l + "`"
			if values := m.LabelValues(l); values != nil {
				text += " (" + strings.Join(values, ", ") + ")"
			}
			labels = append(labels, text)
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", m.FullName(), m.Type, strings.Join(labels, ", "), m.Help)
	}
}
