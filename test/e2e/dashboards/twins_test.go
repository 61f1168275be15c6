package dashboards

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// Two clusters of one name in two locations, whose nodes have the same names, too: of
// one all three nodes are broken, of the other none of forty.
func TestClustersOfOneNameAreTwo(t *testing.T) {
	t.Parallel()
	const broken, well = "europe-west1", "us-east1"
	folder := t.TempDir()
	f := &fleet{t: t, end: time.Now().Truncate(time.Minute)}
	f.write(folder, func() {
		f.where = []string{"project_id", "shop", "location", broken}
		f.cluster("prod", 3, func(int) string { return "node_fallback" })
		f.where = []string{"project_id", "shop", "location", well}
		f.cluster("prod", 40, func(int) string { return "" })
	})
	address := startPrometheus(t, folder, map[string]any{}, "--storage.tsdb.retention.time=10y")
	g := grafana{prometheus: address, folder: "deploy/dashboards-gmp", end: f.end, span: hour, scrape: scraped}

	t.Run("every query has data", func(t *testing.T) {
		g.hasData(t, nil, nil)
		g.hasData(t, map[string]string{"location": broken, "node": "gke-prod-pool-00001"}, nil)
	})
	number := func(page, panel, ref string, choices map[string]string, want float64) {
		t.Helper()
		rows := g.rows(t, "workload-identity-"+page, panel, ref, choices)
		if len(rows) != 1 || !slices.Equal(rows[0].numbers(), []float64{want}) {
			t.Errorf("%s of %v: %v, want %v", panel, choices, rows, want)
		}
	}
	for location, want := range map[string]struct{ right, failing, all, state float64 }{broken: {0, 3, 3, 9}, well: {1, 0, 40, 1}} {
		chosen := map[string]string{"project_id": "shop", "location": location, "cluster": "prod"}
		number("cluster", "Right identity", "A", chosen, want.right)
		number("cluster", "Nodes not right", "A", chosen, want.failing)
		number("fleet", "Clusters, worst first", "A", chosen, 1-want.right)
		number("fleet", "Clusters, worst first", "B", chosen, want.failing)
		number("fleet", "Clusters, worst first", "C", chosen, want.all)
		node := maps.Clone(chosen)
		node["node"] = "gke-prod-pool-00001"
		number("node", "Now", "A", node, want.state)
	}

	for _, all := range []struct {
		page, panel, ref string
		labels           []string
		want             []string
	}{
		{"fleet", "Clusters, worst first", "A", []string{"cluster", "location", "project_id"}, []string{"prod europe-west1 shop: 1", "prod us-east1 shop: 0"}},
		{"fleet", "Clusters, worst first", "C", []string{"cluster", "location", "project_id"}, []string{"prod europe-west1 shop: 3", "prod us-east1 shop: 40"}},
		{"fleet", "Alerts that fire", "A", []string{"location", "cluster"}, []string{"europe-west1 prod: 3"}},
		{"fleet", "Nodes by state, in the worst clusters", "A", []string{"where", "state"}, []string{
			"prod / europe-west1 / shop match: 0", "prod / europe-west1 / shop node_fallback: 3", "prod / us-east1 / shop match: 40",
		}},
		{"node", "Now", "A", []string{"location", "node"}, []string{
			"europe-west1 gke-prod-pool-00001: 9", "us-east1 gke-prod-pool-00001: 1",
		}},
	} {
		var got []string
		for _, r := range g.rows(t, "workload-identity-"+all.page, all.panel, all.ref, map[string]string{"node": "gke-prod-pool-00001"}) {
			var row []string
			for _, l := range all.labels {
				row = append(row, r.Metric[l])
			}
			got = append(got, fmt.Sprintf("%s: %v", strings.Join(row, " "), r.numbers()[0]))
		}
		slices.Sort(got)
		if !slices.Equal(got, all.want) {
			t.Errorf("%s: %q, want %q", all.panel, got, all.want)
		}
	}
}
