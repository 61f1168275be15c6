package dashboards

import (
	"cmp"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkQueries has a Prometheus answer every query of the dashboards on 15,000 nodes.
func BenchmarkQueries(b *testing.B) {
	for b.Loop() {
		folder := b.TempDir()
		f := &fleet{t: b, end: time.Now().Truncate(time.Minute)}
		began := time.Now()
		// Two million series at once: what is no longer needed is given back early.
		usual := debug.SetGCPercent(25)
		f.write(folder, f.fifteenThousand)
		debug.SetGCPercent(usual)
		debug.FreeOSMemory()
		fmt.Printf("%d series with %d samples, written in %.0f s\n", f.series, f.samples, time.Since(began).Seconds())
		address := startPrometheus(b, folder, map[string]any{}, "--storage.tsdb.retention.time=10y")
		g := grafana{prometheus: address, end: f.end, span: hour, scrape: scraped}

		slowest := time.Duration(0)
		fmt.Print("\n| page | shown | panel | query | kind | series | ms |\n|---|---|---|---|---|---|---|\n")
		for _, d := range g.dashboards(b) {
			for _, shown := range []struct {
				what    string
				choices map[string]string
			}{
				{"all", nil},
				{"10,000 nodes", map[string]string{"cluster": "large"}},
				{"one node", map[string]string{"cluster": "large", "node": large}},
			} {
				if (d.UID == "workload-identity-fleet" && shown.choices != nil) || (d.UID == "workload-identity-cluster" && shown.choices["node"] != "") {
					continue
				}
				for _, a := range g.queries(b, d, shown.choices) {
					r := g.measure(b, a)
					slowest = max(slowest, r.took)
					fmt.Printf("| %s | %s | %s | %s | %s | %d | %d |\n", strings.TrimPrefix(d.UID, "workload-identity-"), shown.what, a.panel, cmp.Or(a.ref, "–"), a.kind, r.count(), r.took.Milliseconds())
					if r.count() == 0 && a.panel != "mark Alerts end" { // none ends
						b.Errorf("%s of %s has no data:\n%s", a, shown.what, a.expression)
					}
				}
			}
		}
		b.ReportMetric(slowest.Seconds(), "s/slowest")
	}
}

// measure asks once to have the data in memory, and takes the middle of three.
func (g grafana) measure(t testing.TB, a asked) result {
	t.Helper()
	results := make([]result, 4)
	for i := range results {
		var err error
		if results[i], err = g.ask(t.Context(), a); err != nil {
			t.Fatalf("%s: %v\n%s", a, err, a.expression)
		}
	}
	warm := results[1:]
	slices.SortFunc(warm, func(a, b result) int { return cmp.Compare(a.took, b.took) })
	return warm[1]
}
