package page

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

// BenchmarkAllNodesFail tells how long it takes from the moment in which the agents of all
// nodes state a wrong identity to the page, and how many pages there are. Prometheus gets
// by remote write what it would scrape for the rules that page, each node at its time.
func BenchmarkAllNodesFail(b *testing.B) {
	for _, nodes := range []int{1_000, 15_000, 65_000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			for b.Loop() {
				allFail(b, nodes)
			}
		})
	}
}

func allFail(b *testing.B, nodes int) {
	b.Helper()
	const right, lasts = 90 * time.Second, 3 * time.Minute
	m, err := startMonitoring(filepath.Join(b.TempDir(), "many"), shippedRules)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := m.stop(); err != nil {
			b.Error(err)
		}
	}()
	const scraped = 15 // seconds
	due := make([][]fedNode, scraped)
	for i := range nodes {
		due[i%scraped] = append(due[i%scraped], newFedNode(i))
	}
	began := time.Now().Truncate(time.Second)
	failed := began.Add(right)
	longest, late := group{}, time.Duration(0)
	for at := began; at.Before(failed.Add(lasts)); at = at.Add(time.Second) {
		time.Sleep(time.Until(at))
		var w prompb.WriteRequest
		for _, n := range due[at.Unix()%scraped] {
			n.says(&w, at, failed)
		}
		text, err := w.Marshal()
		if err != nil {
			b.Fatal(err)
		}
		if err := (evaluator{m: m}).post(b.Context(), m.prometheusAddress, "/api/v1/write", "application/x-protobuf", snappy.Encode(nil, text), nil); err != nil {
			b.Fatal(err)
		}
		late = max(late, time.Since(at))
		if at.After(failed) && at.Unix()%5 == 0 {
			if g := pagingGroup(b, m); g.Took > longest.Took {
				longest = g
			}
		}
	}

	pages := m.receiver.of(manyNodes)
	if len(pages) == 0 {
		b.Fatal("no page")
	}
	for _, n := range pages {
		fmt.Printf("%s after %s, of %d alerts\n", n, n.at.Sub(failed).Round(10*time.Millisecond), len(n.Alerts))
	}
	alerts := 0.0
	for series, v := range metricsOf(b, m.alertmanagerAddress) {
		if hasName(series, "alertmanager_alerts") {
			alerts += v
		}
	}
	resident := "process_resident_memory_bytes"
	fmt.Printf("Prometheus %.0f MiB, Alertmanager %.0f MiB, %.0f alerts in it; the feed was %s late at most\n", metricsOf(b, m.prometheusAddress)[resident]/(1<<20),
		metricsOf(b, m.alertmanagerAddress)[resident]/(1<<20), alerts, late.Round(time.Millisecond))
	b.ReportMetric(pages[0].at.Sub(failed).Seconds(), "s/page")
	b.ReportMetric(float64(len(pages)), "pages")
	slices.SortFunc(longest.Rules, func(a, b rule) int { return cmp.Compare(b.Took, a.Took) })
	for _, r := range longest.Rules[:3] {
		fmt.Printf("at most %.2f s for %s\n", r.Took, r.Name)
	}
	b.ReportMetric(longest.Took, "s/group")
}

const manyNodes = "large" // the cluster

// fedNode has the series of one node that the rules which page ask for.
type fedNode struct{ match, fallback, cause []prompb.Label }

func newFedNode(i int) fedNode {
	of := func(name string, more ...string) []prompb.Label {
		return prompb.FromLabels(labels.FromStrings(append(more, "__name__", name, "cluster", manyNodes, "job", agentJob, "namespace", agentJob,
			"node", fmt.Sprintf("gke-large-pool-1-0a1b2c3d-%05d", i), "instance", fmt.Sprintf("10.%d.%d.7:8080", i/250, i%250))...), nil)
	}
	const said, app = "workload_identity_verdict_timestamp_seconds", "exporter@demo-project.iam.gserviceaccount.com"
	return fedNode{
		match:    of(said, "state", "match", "expected", app, "observed", app, "metadata_server", "gke"),
		fallback: of(said, "state", "node_fallback", "expected", app, "observed", "nodes@demo-project.iam.gserviceaccount.com", "metadata_server", "vm"),
		cause:    of("workload_identity_suspected_cause", "cause", "cilium_bpf_host_routing"),
	}
}

// says adds what the agent says at a scrape.
func (n fedNode) says(w *prompb.WriteRequest, at, failed time.Time) {
	add := func(l []prompb.Label, v float64) {
		w.Timeseries = append(w.Timeseries, prompb.TimeSeries{Labels: l, Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: v}}})
	}
	now := float64(at.Unix())
	if at.Before(failed) {
		add(n.match, now)
		return
	}
	if at.Sub(failed) < 15*time.Second {
		add(n.match, math.Float64frombits(value.StaleNaN)) // it is in no scrape any more
	}
	add(n.fallback, now)
	add(n.cause, 1)
}

// group is the group that pages, with how many seconds its last evaluation took.
type group struct {
	Took  float64 `json:"evaluationTime"`
	Rules []rule  `json:"rules"`
}

type rule struct {
	Name string  `json:"name"`
	Took float64 `json:"evaluationTime"`
}

func pagingGroup(b *testing.B, m *monitoring) group {
	b.Helper()
	page, err := program.Get(b.Context(), "http://"+m.prometheusAddress+"/api/v1/rules?rule_group[]=workload-identity&exclude_alerts=true")
	if err != nil {
		b.Fatal(err)
	}
	var answer struct {
		Data struct {
			Groups []group `json:"groups"`
		} `json:"data"`
	}
	if err := json.Unmarshal(page, &answer); err != nil || len(answer.Data.Groups) != 1 {
		b.Fatalf("%v: %s", err, page)
	}
	return answer.Data.Groups[0]
}

func metricsOf(b *testing.B, address string) map[string]float64 {
	b.Helper()
	page, err := program.Get(b.Context(), "http://"+address+"/metrics")
	if err != nil {
		b.Fatal(err)
	}
	return samples(page)
}
