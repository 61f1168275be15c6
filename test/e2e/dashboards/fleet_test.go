package dashboards

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// A fleet of 15,000 nodes: a cluster as large as they get, and ten of usual size.
const (
	largeCluster, smallCluster = 10_000, 500
	smallClusters              = 10
	oneOf                      = 100 // nodes is not right
	podsOfNode                 = 20
	namespaces                 = 200
)

// Intervals: those that are shipped. Over the whole hour the series of agents
// that are well have one value a minute, to keep the data small; rules look back
// at most ten minutes, and graphs ask for nodes that are not well.
const (
	hour      = time.Hour
	scraped   = 15 * time.Second
	evaluated = 10 * time.Second
	seldom    = time.Minute
	recent    = 10 * time.Minute
)

// fleet writes what Prometheus would have of an hour of these nodes.
type fleet struct {
	t   testing.TB
	end time.Time
	// feed gets the series instead, if there is one, to send them as time goes by.
	feed     *feed
	appender storage.Appender
	// where are labels that clusters have beside their name.
	where   []string
	writer  *tsdb.BlockWriter
	pending int
	series  int
	samples int
}

// large is the node of the large cluster that is shown alone.
const large = "gke-large-pool-00000"

// ills are the states of the nodes that are not right, in turns, since half an hour.
var ills = []string{"node_fallback", "mismatch", "unbound", "token_denied", "unavailable", "unknown_expectation", "stale", "node_fallback"}

func states() []string {
	return []string{"node_fallback", "mismatch", "unbound", "token_denied", "unavailable", "unknown_expectation", "stale", "starting", "match"}
}

// write puts what clusters writes into the folder, as one block.
func (f *fleet) write(folder string, clusters func()) {
	f.t.Helper()
	var err error
	// Samples may be as old as half the length of the block.
	if f.writer, err = tsdb.NewBlockWriter(slog.New(slog.DiscardHandler), folder, 4*hour.Milliseconds()); err != nil {
		f.t.Fatal(err)
	}
	defer f.writer.Close()
	f.appender = f.writer.Appender(context.Background())
	clusters()
	if err := f.appender.Commit(); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.writer.Flush(context.Background()); err != nil {
		f.t.Fatal(err)
	}
}

// fifteenThousand are the nodes of all clusters.
func (f *fleet) fifteenThousand() {
	few := func(i int) string {
		if i%oneOf == 0 {
			return ills[i/oneOf%len(ills)]
		}
		return ""
	}
	f.cluster("large", largeCluster, few)
	for i := range smallClusters {
		f.cluster(fmt.Sprintf("small-%02d", i), smallCluster, few)
	}
}

// cluster writes nodes that are in the state that ill gives, or right.
func (f *fleet) cluster(name string, size int, ill func(i int) string) {
	count := map[string]int{}
	for i := range size {
		ill := ill(i)
		if ill != "" {
			count[ill]++
		}
		f.node(name, fmt.Sprintf("gke-%s-pool-%05d", name, i), i, ill)
	}
	f.recorded(name, size, count)
	for n := range namespaces {
		for _, account := range []string{"app", "plain"} {
			own := []string{"__name__", "kube_serviceaccount_annotations", "cluster", name, "namespace", namespace(n), "serviceaccount", account}
			if account == "app" {
				own = append(own, "annotation_iam_gke_io_gcp_service_account", appEmail)
			}
			f.add(own, recent, seldom, one)
		}
	}
}

func namespace(n int) string { return fmt.Sprintf("team-%03d", n%namespaces) }

// one is the value of what is there.
func one(time.Duration) float64 { return 1 }

// while is a value that holds until the nodes fell ill, and one after it.
func while(before, after float64) func(age time.Duration) float64 {
	return func(age time.Duration) float64 {
		if age > hour/2 {
			return before
		}
		return after
	}
}

// rising is a counter.
func rising(perSecond float64) func(age time.Duration) float64 {
	return func(age time.Duration) float64 { return float64(int((2*hour - age).Seconds() * perSecond)) }
}

// node writes the series of its agent, its verdicts, its alert and its Pods.
func (f *fleet) node(cluster, name string, number int, ill string) {
	target := []string{"cluster", cluster, "node", name, "job", "workload-identity-exporter", "instance", fmt.Sprintf("10.%d.%d.%d:10988", len(cluster), number/250, number%250), "namespace", "workload-identity-exporter", "pod", "agent-" + name}
	of := func(metric string, own ...string) []string {
		return append(append([]string{"__name__", "workload_identity_" + metric}, own...), target...)
	}
	agent := func(value func(time.Duration) float64, metric string, own ...string) {
		if ill != "" {
			f.add(of(metric, own...), hour, scraped, value)
			return
		}
		f.thin(of(metric, own...), value)
	}

	for _, s := range states() {
		v := 0.0
		if s == ill || (ill == "" && s == "match") {
			v = 1
		}
		before := 0.0
		if s == "match" {
			before = 1
		}
		agent(while(before, v), "state", "state", s)
		if s != "stale" && s != "starting" {
			agent(rising(v/10), "verdicts_total", "state", s)
		}
	}
	entered := f.seconds(24 * hour)
	if ill != "" {
		agent(while(entered, f.seconds(hour/2)), "state_entered_timestamp_seconds")
	} else {
		agent(func(time.Duration) float64 { return entered + float64(number) }, "state_entered_timestamp_seconds")
	}
	if ill != "" {
		f.add(of("suspected_cause", "cause", "cilium_bpf_host_routing"), hour/2, scraped, one)
	} else {
		agent(one, "risk", "cause", "cilium_bpf_host_routing")
	}
	observed, server := appEmail, "gke"
	if ill == "node_fallback" {
		observed, server = "123456789012-compute@developer.gserviceaccount.com", "vm"
	}
	agent(one, "expected_info", "email", appEmail, "source", "annotation")
	agent(one, "observed_info", "email", observed, "metadata_server", server)
	agent(f.seconds, "verdict_timestamp_seconds", "state", cmp.Or(ill, "match"), "expected", appEmail, "observed", observed, "metadata_server", server)
	read := f.seconds // of the expectation: now
	if ill == "unknown_expectation" {
		read = while(f.seconds(2*hour), f.seconds(2*hour))
	}
	agent(read, "expectation_timestamp_seconds")
	if ill != "" { // that of others is asked for by nobody
		for _, reason := range []string{"forbidden", "not_found", "throttled", "timeout", "unavailable"} {
			agent(rising(0.01), "kubernetes_request_failures_total", "resource", "serviceaccounts", "reason", reason)
		}
	}
	agent(func(age time.Duration) float64 { return f.seconds(age) + 3000 - float64(number%600) }, "token_expiry_timestamp_seconds")
	agent(func(time.Duration) float64 { return 1.5 }, "time_to_first_token_seconds")
	version := "v1.0.0"
	if number%10 == 0 {
		version = "v1.1.0"
	}
	agent(one, "exporter_build_info", "version", version, "revision", "abc", "goversion", "go1.26")
	for _, endpoint := range []string{"email", "token", "server"} {
		agent(one, "probe_success", "endpoint", endpoint)
		for _, reason := range []string{"timeout", "unreachable", "throttled", "server_error", "denied", "redirect", "malformed", "not_found"} {
			failures := 0.0
			if ill != "" {
				failures = 0.1
			}
			agent(rising(failures), "probe_failures_total", "endpoint", endpoint, "reason", reason)
		}
		if cluster == "small-00" { // it scrapes classic histograms
			for _, le := range []string{"0.01", "0.1", "1.0", "+Inf"} {
				agent(rising(0.1), "probe_duration_seconds_bucket", "endpoint", endpoint, "le", le)
			}
			continue
		}
		f.histogram(of("probe_duration_seconds", "endpoint", endpoint), ill == "")
	}

	recorded := func(metric, state, observed, server string) []string {
		return []string{"__name__", metric, "cluster", cluster, "node", name, "state", state, "expected", appEmail, "observed", observed, "metadata_server", server}
	}
	const verdict = "workload_identity:node:verdict"
	if ill == "" {
		f.add(recorded(verdict, "match", appEmail, "gke"), hour, evaluated, one)
	} else {
		f.between(recorded(verdict, "match", appEmail, "gke"), hour, hour/2+evaluated, evaluated, one)
		f.add(recorded(verdict, ill, observed, server), hour/2, evaluated, one)
		f.add([]string{"__name__", "ALERTS", "alertname", "WorkloadIdentity" + ill, "alertstate", "firing", "severity", "critical", "cluster", cluster, "node", name}, hour/2, evaluated, one)
	}
	f.pods(cluster, name, number, ill)
}

func (f *fleet) pods(cluster, node string, number int, ill string) {
	wrong := slices.Contains([]string{"node_fallback", "mismatch", "unbound"}, ill)
	for p := range podsOfNode {
		in, pod, account := namespace(number+p), fmt.Sprintf("pod-%d-of-%s", p, node), "app"
		if p%2 == 0 {
			account = "plain"
		}
		network := "false"
		if p < 2 {
			network = "true"
		}
		own := func(metric string, more ...string) []string {
			return append([]string{"__name__", metric, "cluster", cluster, "namespace", in, "pod", pod, "uid", pod, "job", "kube-state-metrics", "instance", cluster}, more...)
		}
		f.add(own("kube_pod_info", "node", node, "host_network", network, "created_by_kind", "ReplicaSet", "created_by_name", in), recent, seldom, one)
		f.add(own("kube_pod_service_account", "service_account", account), recent, seldom, one)
		f.add(own("kube_pod_status_phase", "phase", "Running"), recent, seldom, one)
		f.add(own("kube_pod_start_time"), recent, seldom, func(time.Duration) float64 { return f.seconds(24 * hour) })
		if wrong && account == "app" && network == "false" {
			f.add([]string{"__name__", "workload_identity:pod:affected", "cluster", cluster, "namespace", in, "pod", pod, "node", node, "service_account", account}, hour/2, seldom, one)
		}
	}
	f.add([]string{"__name__", "kube_pod_info", "cluster", cluster, "namespace", "workload-identity-exporter", "pod", "agent-" + node, "node", node, "host_network", "false", "created_by_kind", "DaemonSet", "created_by_name", "workload-identity-exporter"}, recent, seldom, one)
	f.add([]string{"__name__", "kube_node_spec_unschedulable", "cluster", cluster, "node", node}, recent, seldom, func(time.Duration) float64 { return 0 })
	f.add([]string{"__name__", "kube_node_labels", "cluster", cluster, "node", node, "label_iam_gke_io_gke_metadata_server_enabled", "true"}, recent, seldom, one)
	f.add([]string{"__name__", "workload_identity:node:wants_agent", "cluster", cluster, "node", node}, recent, evaluated, one)
	f.add([]string{"__name__", "up", "cluster", cluster, "node", node, "job", "workload-identity-exporter", "instance", node}, recent, seldom, one)
}

// recorded writes what the rules would have recorded of a cluster.
func (f *fleet) recorded(cluster string, size int, ill map[string]int) {
	rule := func(value func(time.Duration) float64, interval time.Duration, name string, own ...string) {
		f.add(append([]string{"__name__", "workload_identity:" + name, "cluster", cluster}, own...), hour+2*time.Minute, interval, value)
	}
	all, failing := float64(size), 0
	for state, n := range ill {
		failing += n
		f.add([]string{"__name__", "workload_identity:cluster_state:nodes", "cluster", cluster, "state", state}, hour/2, evaluated, func(time.Duration) float64 { return float64(n) })
	}
	rule(while(all, all-float64(failing)), evaluated, "cluster_state:nodes", "state", "match")
	rule(func(time.Duration) float64 { return all }, evaluated, "cluster:nodes")
	rule(while(0, float64(failing)), evaluated, "cluster:nodes_failing")
	rule(while(0, 0), evaluated, "cluster:agents_missing")
	rule(while(0, 0), seldom, "cluster:agents_blind")
	rule(while(f.seconds(24*hour), f.seconds(24*hour)), seldom, "cluster_state:entered_timestamp_seconds:min", "state", "match")
	for state := range ill {
		f.add([]string{"__name__", "workload_identity:cluster_state:entered_timestamp_seconds:min", "cluster", cluster, "state", state}, hour/2, seldom, func(time.Duration) float64 { return f.seconds(hour / 2) })
	}
	for _, cause := range []string{"cilium_bpf_host_routing", "node_pool_gce_metadata"} {
		f.add([]string{"__name__", "workload_identity:cluster_cause:nodes", "cluster", cluster, "cause", cause}, hour/2, seldom, func(time.Duration) float64 { return float64(failing) })
		rule(while(all, all), seldom, "cluster_cause:nodes_at_risk", "cause", cause)
	}
	rule(func(age time.Duration) float64 { return f.seconds(age) + 2400 }, seldom, "cluster:token_expiry_timestamp_seconds:min")
	rule(while(0, 0), seldom, "cluster:tokens_expired")
	rule(func(time.Duration) float64 { return all * 0.9 }, seldom, "cluster_version:agents", "version", "v1.0.0")
	f.add([]string{"__name__", "workload_identity:cluster_version:agents", "cluster", cluster, "version", "v1.1.0"}, hour/4, seldom, func(time.Duration) float64 { return all / 10 })
	for n := range namespaces {
		f.add([]string{"__name__", "workload_identity:cluster_namespace:pods_affected", "cluster", cluster, "namespace", namespace(n)}, hour/2, seldom, func(time.Duration) float64 { return float64(n%7 + 1) })
	}
	for _, endpoint := range []string{"email", "token", "server"} {
		for _, reason := range []string{"timeout", "unreachable", "throttled", "server_error", "denied", "redirect", "malformed", "not_found"} {
			rule(while(0, 0.5), seldom, "cluster_endpoint_reason:probe_failures:rate5m", "endpoint", endpoint, "reason", reason)
		}
		if cluster == "small-00" {
			for _, le := range []string{"0.01", "0.1", "1.0", "+Inf"} {
				rule(func(time.Duration) float64 { return all / 10 }, seldom, "cluster_endpoint:probe_duration_seconds_bucket:rate5m", "endpoint", endpoint, "le", le)
			}
			continue
		}
		if f.feed != nil {
			continue
		}
		own := []string{"__name__", "workload_identity:cluster_endpoint:probe_duration_seconds:rate5m", "cluster", cluster, "endpoint", endpoint}
		l, ref := f.labels(own), storage.SeriesRef(0)
		for age := hour; age >= 0; age -= seldom {
			ref = f.sample(ref, func(ref storage.SeriesRef) (storage.SeriesRef, error) {
				return f.appender.AppendHistogram(ref, l, f.at(age), nil, observations(int64(1000)).ToFloat(nil))
			})
		}
		f.series++
	}
}

// histogram is a native one of an agent, as thin as the rest of the agent.
func (f *fleet) histogram(own []string, thin bool) {
	if f.feed != nil {
		f.feed.add(f.labels(own), scraped, nil, func(age time.Duration) *histogram.Histogram {
			return observations(int64((2*hour - age).Seconds() / 10))
		})
		return
	}
	l, ref := f.labels(own), storage.SeriesRef(0)
	for age := hour; age >= 0; age -= scraped {
		if thin && age > recent && age%seldom != 0 {
			continue
		}
		ref = f.sample(ref, func(ref storage.SeriesRef) (storage.SeriesRef, error) {
			return f.appender.AppendHistogram(ref, l, f.at(age), observations(int64((2*hour-age).Seconds()/10)), nil)
		})
	}
	f.series++
}

// observations are this many in each of twelve buckets of the agent's resolution,
// from some milliseconds on.
func observations(each int64) *histogram.Histogram {
	const buckets = 12
	deltas := make([]int64, buckets)
	deltas[0] = each
	return &histogram.Histogram{
		Schema: 3, ZeroThreshold: 2.938735877055719e-39, Count: uint64(each * buckets), Sum: float64(each) * 0.05, //nolint:gosec // positive
		PositiveSpans: []histogram.Span{{Offset: -60, Length: buckets}}, PositiveBuckets: deltas,
	}
}

func (f *fleet) labels(own []string) labels.Labels {
	return labels.FromStrings(append(slices.Clone(own), f.where...)...)
}

// add writes a series from an age until now.
func (f *fleet) add(own []string, oldest, interval time.Duration, value func(age time.Duration) float64) {
	f.between(own, oldest, 0, interval, value)
}

func (f *fleet) between(own []string, oldest, youngest, interval time.Duration, value func(age time.Duration) float64) {
	if f.feed != nil {
		f.feed.add(f.labels(own), interval, value, nil)
		return
	}
	l, ref := f.labels(own), storage.SeriesRef(0)
	for age := oldest; age >= youngest; age -= interval {
		ref = f.sample(ref, func(ref storage.SeriesRef) (storage.SeriesRef, error) {
			return f.appender.Append(ref, l, f.at(age), value(age))
		})
	}
	f.series++
}

// thin has a value a minute, and all of them where rules look.
func (f *fleet) thin(own []string, value func(age time.Duration) float64) {
	if f.feed != nil {
		f.feed.add(f.labels(own), scraped, value, nil)
		return
	}
	l, ref := f.labels(own), storage.SeriesRef(0)
	for age := hour; age >= 0; age -= scraped {
		if age > recent && age%seldom != 0 {
			continue
		}
		ref = f.sample(ref, func(ref storage.SeriesRef) (storage.SeriesRef, error) {
			return f.appender.Append(ref, l, f.at(age), value(age))
		})
	}
	f.series++
}

func (f *fleet) sample(ref storage.SeriesRef, write func(storage.SeriesRef) (storage.SeriesRef, error)) storage.SeriesRef {
	ref, err := write(ref)
	if err != nil {
		f.t.Fatal(err)
	}
	f.samples++
	if f.pending++; f.pending == 200_000 {
		f.pending = 0
		if err := f.appender.Commit(); err != nil {
			f.t.Fatal(err)
		}
		f.appender = f.writer.Appender(context.Background())
	}
	return ref
}

func (f *fleet) at(age time.Duration) int64 { return f.end.Add(-age).UnixMilli() }

func (f *fleet) seconds(age time.Duration) float64 { return float64(f.end.Add(-age).Unix()) }
