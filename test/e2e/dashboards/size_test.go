package dashboards

import (
	"cmp"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// atMost is how long a query may take that was asked before.
const atMost = time.Second

func TestEveryQueryIsQuickOnFifteenThousandNodes(t *testing.T) {
	folder := t.TempDir()
	f := &fleet{t: t, end: time.Now().Truncate(time.Minute)}
	began := time.Now()
	// Two million series at once: what is no longer needed is given back early.
	usual := debug.SetGCPercent(25)
	f.write(folder, f.fifteenThousand)
	debug.SetGCPercent(usual)
	debug.FreeOSMemory()
	t.Logf("%d series with %d samples, written in %.0f s", f.series, f.samples, time.Since(began).Seconds())
	address := startPrometheus(t, folder, map[string]any{}, "--storage.tsdb.retention.time=10y")
	g := grafana{prometheus: address, end: f.end, span: hour, scrape: scraped}

	var table strings.Builder
	table.WriteString("\n| page | shown | panel | query | kind | series | ms |\n|---|---|---|---|---|---|---|\n")
	for _, d := range g.dashboards(t) {
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
			for _, a := range g.queries(t, d, shown.choices) {
				r := g.measure(t, a)
				fmt.Fprintf(&table, "| %s | %s | %s | %s | %s | %d | %d |\n", strings.TrimPrefix(d.UID, "workload-identity-"), shown.what, a.panel, cmp.Or(a.ref, "–"), a.kind, r.count(), r.took.Milliseconds())
				if r.took > atMost {
					t.Errorf("%s of %s takes %s, want at most %s:\n%s", a, shown.what, r.took, atMost, a.expression)
				}
				if r.count() == 0 && a.panel != "mark Alerts end" { // none ends
					t.Errorf("%s of %s has no data:\n%s", a, shown.what, a.expression)
				}
			}
		}
	}
	table.WriteString("\n| rule | series | ms |\n|---|---|---|\n")
	for _, r := range rules(t) {
		found := g.measure(t, asked{page: "rules", panel: r.Record + r.Alert, kind: "instant", expression: r.Expr})
		fmt.Fprintf(&table, "| %s%s | %d | %d |\n", r.Record, r.Alert, found.count(), found.took.Milliseconds())
	}
	fmt.Println(table.String())
}

// measure asks once to have the data in memory, and takes the middle of three.
func (g grafana) measure(t *testing.T, a asked) result {
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

type rule struct{ Record, Alert, Expr string }

func rules(t *testing.T) []rule {
	t.Helper()
	text, err := os.ReadFile(repository + "alerts/workload-identity.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}
