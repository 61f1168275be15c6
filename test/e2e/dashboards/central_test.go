package dashboards

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

const fleetPage = "workload-identity-fleet"

// documented is the first code block of docs/scaling.md in the language that has the word.
func documented(t *testing.T, language, word string) string {
	t.Helper()
	text, err := os.ReadFile(repository + "docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(m[1], word) {
			return m[1]
		}
	}
	t.Fatalf("docs/scaling.md has no %s with %s", language, word)
	return ""
}

// documentedRow is the expression in the second cell of a row of docs/scaling.md.
func documentedRow(t *testing.T, first string) string {
	t.Helper()
	text, err := os.ReadFile(repository + "docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?m)^\\| " + first + " \\| `([^`]+)` \\|").FindSubmatch(text)
	if m == nil {
		t.Fatalf("docs/scaling.md has no row %q", first)
	}
	return strings.ReplaceAll(string(m[1]), `\|`, "|")
}

// One Prometheus for each cluster evaluates the rules, and writes to a central one what
// docs/scaling.md tells to write. One of the clusters has two replicas, and one stops.
func TestTheFleetDashboardOnACentralStore(t *testing.T) {
	t.Parallel()
	const goneAfter = 15 * time.Second
	storage := map[string]any{"tsdb": map[string]any{"out_of_order_time_window": "1m"}}
	central := startPrometheus(t, t.TempDir(), map[string]any{"storage": storage}, "--web.enable-remote-write-receiver", "--query.lookback-delta="+goneAfter.String())
	// Another one pages for all clusters by what their agents export.
	paging := startPrometheus(t, t.TempDir(), map[string]any{"storage": storage, "rule_files": []string{hurriedRules(t)}}, "--web.enable-remote-write-receiver")

	broken, well := &cluster{nodes: everyState(), annotations: true, native: true}, &cluster{nodes: healthy(3), annotations: true}
	broken.start(t)
	well.start(t)
	edge := func(t *testing.T, name, replica string, c *cluster) string {
		var config map[string]any
		if err := yaml.Unmarshal([]byte(documented(t, "yaml", "remote_write:")), &config); err != nil {
			t.Fatal(err)
		}
		global, _ := config["global"].(map[string]any)
		labels, _ := global["external_labels"].(map[string]any)
		writes, _ := config["remote_write"].([]any)
		write, _ := writes[0].(map[string]any)
		labels["cluster"], labels["replica"], write["url"] = name, replica, "http://"+central+"/api/v1/write"
		maps.Copy(global, map[string]any{"scrape_interval": scrapeInterval.String(), "scrape_timeout": "1s", "evaluation_interval": "1s"})
		config["remote_write"] = append(writes, map[string]any{
			"url": "http://" + paging + "/api/v1/write",
			"write_relabel_configs": []any{
				map[string]any{"source_labels": []string{"__name__"}, "regex": documentedRow(t, "what pages"), "action": "keep"},
				map[string]any{"regex": "replica", "action": "labeldrop"},
			},
		})
		config["rule_files"], config["scrape_configs"] = []string{hurriedRules(t)}, scrapes(t, c)
		return startPrometheus(t, t.TempDir(), config)
	}
	first := edge(t, "broken", "0", broken)
	edge(t, "broken", "1", broken)

	g := grafana{prometheus: central, span: 5 * time.Minute, scrape: scrapeInterval}
	t.Run("two clusters", func(t *testing.T) {
		edge(t, "well", "0", well)
		g.await(t, `ALERTS{alertname="WorkloadIdentityNodeFallback",alertstate="firing"}`, 1)
		g.await(t, `workload_identity:cluster_state:nodes{cluster="broken"} > 0`, 8)
		g.await(t, `workload_identity:cluster_state:nodes{cluster="well",state="match"} == 3`, 1)
		g.await(t, `workload_identity:cluster_version:agents{cluster="well"}`, 1)
		g.end = time.Now()
		for _, d := range g.dashboards(t) {
			if d.UID != fleetPage {
				continue
			}
			for _, a := range g.queries(t, d, nil) {
				r, err := g.ask(t.Context(), a)
				if err != nil {
					t.Errorf("%s: %v", a, err)
				} else if r.count() == 0 && a.panel != "mark Alerts end" {
					t.Errorf("%s has no data:\n%s", a, a.expression)
				}
			}
		}
		var nodes []string
		for _, r := range g.rows(t, fleetPage, "Clusters, worst first", "C", nil) {
			nodes = append(nodes, r.text())
		}
		if len(nodes) != 2 {
			t.Errorf("%d clusters, want each once: %v", len(nodes), nodes)
		}
		g.await(t, documented(t, "promql", "unless"), 0)

		// What is written is what the page asks for.
		raw, err := g.ask(t.Context(), asked{kind: "instant", expression: `group by (__name__) ({__name__=~".+",__name__!~"workload_identity:cluster.*|ALERTS"})`})
		if err != nil || raw.count() != 0 {
			t.Errorf("%v was written, too (%v)", raw.series, err)
		}
		count, err := g.ask(t.Context(), asked{kind: "instant", expression: `count by (cluster) ({__name__=~"workload_identity:.+|ALERTS"})`})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range count.series {
			n := s.numbers()[0]
			t.Logf("%s: %.0f series", s.Metric["cluster"], n)
			if n > 150 {
				t.Errorf("%s writes %.0f series, want a few dozen", s.Metric["cluster"], n)
			}
		}
		sent, err := g.ask(t.Context(), asked{kind: "instant", expression: `group by (replica) ({replica!=""})`})
		if err != nil || sent.count() != 0 {
			t.Errorf("%v replicas (%v), want none", sent.series, err)
		}
	})
	t.Run("paged centrally", func(t *testing.T) {
		pages := `count by (cluster, alertname, node) (ALERTS{alertname=~"WorkloadIdentity(NodeFallback|Mismatch)",alertstate="firing"})`
		here, there := grafana{prometheus: first, span: 5 * time.Minute, scrape: scrapeInterval}, grafana{prometheus: paging, span: 5 * time.Minute, scrape: scrapeInterval}
		there.await(t, pages, 2)
		there.await(t, "count(workload_identity_suspected_cause)", 1) // for the texts
		here.end, there.end = time.Now(), time.Now()
		var alerts [2][]string
		for i, g := range []grafana{here, there} {
			r, err := g.ask(t.Context(), asked{kind: "instant", expression: pages})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range r.series {
				alerts[i] = append(alerts[i], s.Metric["alertname"]+" on "+s.Metric["node"])
				if i == 1 && s.Metric["cluster"] != "broken" {
					t.Errorf("%v pages centrally", s.Metric)
				}
			}
			slices.Sort(alerts[i])
		}
		if !slices.Equal(alerts[0], alerts[1]) {
			t.Errorf("centrally there page %v, want %v as in the cluster", alerts[1], alerts[0])
		}
	})

	// The subtest has stopped the Prometheus of the cluster that is well.
	g.await(t, documented(t, "promql", "unless"), 1)
	g.end = time.Now()
	gone, err := g.ask(t.Context(), asked{kind: "instant", expression: documented(t, "promql", "unless")})
	if err != nil || !slices.ContainsFunc(gone.series, func(s series) bool { return s.Metric["cluster"] == "well" }) {
		t.Errorf("silent are %v (%v), want the cluster that has stopped", gone.series, err)
	}
	// A page does not wait for the central store.
	local := grafana{prometheus: first, span: 5 * time.Minute, scrape: scrapeInterval}
	local.await(t, `ALERTS{alertname="WorkloadIdentityNodeFallback",alertstate="firing"}`, 1)
}
