package dashboards

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// Queries that have no data where all is well, by page, panel and query, with
// the reason. Elsewhere all have some.
var emptyWhenHealthy = map[string]string{
	"workload-identity-cluster: mark Alerts begin":             "no alert fires",
	"workload-identity-fleet: mark Alerts begin":               "no alert fires",
	"workload-identity-node: mark Alerts begin":                "no alert fires",
	"workload-identity-cluster: Nodes, worst first C":          "nothing is suspected; a table without this column stays",
	"workload-identity-fleet: Clusters, worst first F":         "nothing is suspected; a table without this column stays",
	"workload-identity-cluster: Refused tokens by reason A":    "no request fails",
	"workload-identity-cluster: Failures by reason A":          "no request fails",
	"workload-identity-node: Failures by reason A":             "no request fails",
	"workload-identity-node: Failing requests to Kubernetes A": noKubernetes,
	"workload-identity-fleet: Wrong for A":                     "nothing is wrong",
	"workload-identity-cluster: Wrong for A":                   "nothing is wrong",
	"workload-identity-cluster: What is wrong C":               "nothing is wrong",
	"workload-identity-cluster: What is wrong B":               "nothing is wrong",
	"workload-identity-fleet: Clusters, worst first E":         "nothing is wrong; a table without this column stays",
}

const noKubernetes = "the agents ask no API server"

const scrapeInterval = time.Second

// monitor runs Prometheus with the rules on the clusters, until it has seen
// alerts fire if there is a reason for them.
func monitor(t *testing.T, clusters ...*cluster) grafana {
	t.Helper()
	for _, c := range clusters {
		c.start(t)
	}
	address := startPrometheus(t, t.TempDir(), map[string]any{
		"global":         map[string]any{"scrape_interval": scrapeInterval.String(), "scrape_timeout": "1s", "evaluation_interval": "1s"},
		"rule_files":     []string{hurriedRules(t)},
		"scrape_configs": scrapes(t, clusters...),
	})
	return grafana{prometheus: address, span: 5 * time.Minute, scrape: scrapeInterval}
}

// await asks until the expression has as many series.
func (g grafana) await(t *testing.T, expression string, want int) {
	t.Helper()
	var got int
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) { // another process
		g.end = time.Now()
		r, err := g.ask(t.Context(), asked{kind: "instant", expression: expression})
		if err != nil {
			t.Fatal(err)
		}
		if got = r.count(); got == want {
			return
		}
	}
	t.Fatalf("%s has %d series, want %d", expression, got, want)
}

// awaitRates waits until every node has the scrapes that a rate needs, also where
// the machine is too busy for one each second.
func (g grafana) awaitRates(t *testing.T, nodes int) {
	t.Helper()
	g.await(t, `count_over_time(workload_identity_exporter_build_info[4s]) >= 3`, nodes)
}

func TestEveryQueryHasDataInEveryState(t *testing.T) {
	t.Parallel()
	alpha := &cluster{name: "alpha", nodes: everyState(), annotations: true, native: true}
	beta := &cluster{name: "beta", nodes: everyState()}
	g := monitor(t, alpha, beta)
	g.await(t, `count by (state) (workload_identity:node:verdict)`, 8) // starting is none
	g.await(t, `ALERTS{alertname="WorkloadIdentityNodeFallback",alertstate="firing"}`, 2)
	g.await(t, `workload_identity:pod:affected`, 3*(1+2))
	g.await(t, `sum by (cluster, endpoint) (workload_identity:cluster_endpoint_reason:probe_failures:rate5m > 0)`, 2*3)
	g.awaitRates(t, len(alpha.nodes)+len(beta.nodes))
	g.end = time.Now()

	none := map[string]string{"workload-identity-node: Failing requests to Kubernetes A": noKubernetes}
	t.Run("all", func(t *testing.T) { g.hasData(t, nil, none) })
	t.Run("tables", g.tablesAreClean)
	t.Run("native histograms", func(t *testing.T) { g.hasData(t, map[string]string{"cluster": "alpha"}, none) })
	t.Run("classic histograms", func(t *testing.T) { g.hasData(t, map[string]string{"cluster": "beta"}, none) })

	t.Run("the heat map has the histogram that there is", func(t *testing.T) {
		heat := func(cluster string) []series {
			return g.rows(t, "workload-identity-cluster", "Latency of the metadata servers", "A", map[string]string{"cluster": cluster})
		}
		native := func(s series) bool { return len(s.Histograms) > 0 }
		if rows := heat("alpha"); !slices.ContainsFunc(rows, native) {
			t.Errorf("alpha: %v, want a native histogram", rows)
		}
		if rows := heat("beta"); len(rows) != 4 || rows[0].Metric["le"] == "" || slices.ContainsFunc(rows, native) {
			t.Errorf("beta: %v, want four classic buckets", rows)
		}
	})
	t.Run("agents that have read no expectation are counted", func(t *testing.T) {
		rows := g.rows(t, "workload-identity-cluster", "Blind agents", "A", nil)
		if len(rows) != 1 || !slices.Equal(rows[0].numbers(), []float64{2}) { // those in unknown_expectation
			t.Errorf("%v, want 2", rows)
		}
	})
	t.Run("wrong answers are shares", func(t *testing.T) {
		for state, want := range map[string]float64{"match": 0, "token_denied": 0, "node_fallback": 1, "mismatch": 1, "unbound": 1} {
			for _, n := range alpha.nodes {
				if n.state != state {
					continue
				}
				rows := g.rows(t, "workload-identity-node", "Share of wrong answers", "A", map[string]string{"node": n.name})
				if len(rows) != 1 || rows[0].numbers()[len(rows[0].numbers())-1] != want {
					t.Errorf("%s: %v, want %v", n.name, rows, want)
				}
			}
		}
	})
	t.Run("the states are those of all nodes, the worst first, with their runbooks", func(t *testing.T) {
		var states []string
		for _, r := range g.rows(t, "workload-identity-cluster", "What is wrong", "A", nil) {
			states = append(states, r.Metric["state"])
			if r.Metric["runbook"] == "" {
				t.Errorf("%s has no runbook", r.Metric["state"])
			}
		}
		want := []string{"node_fallback", "mismatch", "unbound", "token_denied", "unavailable", "unknown_expectation", "stale"}
		if !slices.Equal(states, want) {
			t.Errorf("states %v, want %v", states, want)
		}
		for _, r := range g.rows(t, "workload-identity-fleet", "Clusters, worst first", "G", nil) {
			if r.Metric["state"] != "node_fallback" || r.Metric["runbook"] != "WorkloadIdentityNodeFallback" {
				t.Errorf("worst state %v, want node_fallback with its runbook", r.Metric)
			}
		}
	})
	t.Run("alerts that fire come before those that are pending", func(t *testing.T) {
		rows := g.rows(t, "workload-identity-cluster", "Alerts", "A", nil)
		pending := func(s series) bool { return s.Metric["alertstate"] == "pending" }
		if first := slices.IndexFunc(rows, pending); first >= 0 && !slices.ContainsFunc(rows[first:], func(s series) bool { return !pending(s) }) {
			return
		}
		t.Errorf("%v, want those that fire and then those that are pending", rows)
	})
	t.Run("the table shows the worst first", func(t *testing.T) {
		rows := g.rows(t, "workload-identity-cluster", "Nodes, worst first", "A", map[string]string{"cluster": "alpha"})
		var states []string
		for _, r := range rows {
			states = append(states, r.Metric["state"])
		}
		want := []string{"node_fallback", "mismatch", "unbound", "token_denied", "unavailable", "unknown_expectation", "stale", "match"}
		if !slices.Equal(states, want) {
			t.Errorf("states %v, want %v", states, want)
		}
		if m := rows[0].Metric; m["expected"] != appEmail || m["metadata_server"] != "vm" || !strings.Contains(m["observed"], "-compute@") {
			t.Errorf("first row %v, want both identities and who answered", m)
		}
	})
	t.Run("the timeline has a row for each node in its state", func(t *testing.T) {
		for _, n := range append(slices.Clone(alpha.nodes), beta.nodes...) {
			want := map[string]float64{
				"node_fallback": 9, "mismatch": 8, "unbound": 7, "token_denied": 6, "unavailable": 5, "unknown_expectation": 4, "stale": 3, "starting": 2, "match": 1,
			}[n.state]
			rows := g.rows(t, "workload-identity-node", "History of states", "A", map[string]string{"node": n.name})
			if len(rows) != 1 || !slices.Contains(rows[0].numbers(), want) {
				t.Errorf("%s: %v, want a row with %v", n.name, rows, want)
			}
		}
	})
	t.Run("the blast radius is that of the Pods", func(t *testing.T) {
		var got, want []string
		for _, r := range g.rows(t, "workload-identity-cluster", "Blast radius: Pods with a wrong identity", "A", nil) {
			got = append(got, r.Metric["namespace"]+"/"+r.Metric["pod"]+" on "+r.Metric["node"]+" as "+r.Metric["service_account"])
		}
		for _, n := range append(slices.Clone(alpha.nodes), beta.nodes...) {
			if n.state != "node_fallback" && n.state != "mismatch" && n.state != "unbound" {
				continue
			}
			want = append(want, fmt.Sprintf("shop/app-%[1]s on %[1]s as app", n.name))
			if strings.HasPrefix(n.name, "beta") { // nobody knows which accounts have no annotation
				want = append(want, fmt.Sprintf("shop/plain-%[1]s on %[1]s as plain", n.name))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("Pods\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		rows := g.rows(t, "workload-identity-cluster", "Blast radius by namespace", "A", nil)
		if len(rows) != 1 || rows[0].Metric["namespace"] != "shop" || !slices.Equal(rows[0].numbers(), []float64{9}) {
			t.Errorf("by namespace %v, want 9 in shop", rows)
		}
	})
}

// One cluster whose series have no label cluster, as they are for most people.
func TestEveryQueryHasDataWhereAllIsWell(t *testing.T) {
	t.Parallel()
	g := monitor(t, &cluster{nodes: healthy(3), annotations: true, native: true})
	g.await(t, `count(workload_identity:node:verdict{state="match"}) == 3`, 1)
	g.await(t, `count(workload_identity:cluster_endpoint:probe_duration_seconds:rate5m) == 3`, 1)
	g.awaitRates(t, 3)
	g.end = time.Now()
	none := maps.Clone(emptyWhenHealthy)
	// Their query asks for the values of a label that is not there.
	for _, page := range []string{"fleet", "cluster", "node"} {
		none["workload-identity-"+page+": $cluster"] = "no series has the label"
	}
	t.Run("all", func(t *testing.T) { g.hasData(t, nil, none) })
	t.Run("one node", func(t *testing.T) { g.hasData(t, map[string]string{"node": "-1-match"}, none) })

	for panel, want := range map[string]float64{
		"Right identity": 1, "Nodes not right": 0, "Without an agent": 0,
	} {
		if rows := g.rows(t, "workload-identity-fleet", panel, "A", nil); len(rows) != 1 || !slices.Equal(rows[0].numbers(), []float64{want}) {
			t.Errorf("%s: %v, want %v", panel, rows, want)
		}
	}
	for _, fallback := range []struct{ page, panel, label, want string }{
		{"workload-identity-cluster", "What is wrong", "state", "all nodes are right"},
		{"workload-identity-cluster", "Which nodes have no agent", "node", "every node has one"},
		{"workload-identity-fleet", "Alerts that fire", "severity", "no alert fires"},
		{"workload-identity-fleet", "What changed in the last hour", "what", "not known: nothing was recorded an hour ago"},
		{"workload-identity-cluster", "Blast radius: Pods with a wrong identity", "namespace", "no Pod runs with a wrong identity"},
	} {
		rows := g.rows(t, fallback.page, fallback.panel, "A", nil)
		if len(rows) != 1 || rows[0].Metric[fallback.label] != fallback.want {
			t.Errorf("%s: %v, want %q", fallback.panel, rows, fallback.want)
		}
	}
	// What the agents ask is not the real metadata server, and they say so.
	for _, r := range g.rows(t, "workload-identity-node", "Suspected causes and remedies", "A", nil) {
		if r.Metric["cause"] != "environment_override" || r.Metric["remedy"] != "environment_override" {
			t.Errorf("cause %v, want environment_override", r.Metric)
		}
	}
}

// An agent that is gone is said to be gone, and nothing about its node looks well.
func TestADeadAgentLooksDead(t *testing.T) {
	t.Parallel()
	nodes := append(healthy(2), &node{state: "absent"})
	g := monitor(t, &cluster{name: "c", nodes: nodes})
	g.await(t, `count(workload_identity:node:verdict{state="match"}) == 2`, 1)
	dead := nodes[1]
	g.await(t, `max_over_time(timestamp(workload_identity_exporter_build_info{node="`+dead.name+`"})[1d:15s])`, 1)
	if err := dead.agent.Stop(); err != nil {
		t.Fatal(err)
	}
	g.await(t, `up{node="`+dead.name+`"} == 0`, 1)
	g.await(t, `workload_identity_state{node="`+dead.name+`"}`, 0)
	g.end = time.Now()
	ask := func(page, panel, ref string) []series {
		return g.rows(t, "workload-identity-"+page, panel, ref, map[string]string{"node": dead.name})
	}
	for _, zero := range [][2]string{{"State", "A"}, {"Now", "A"}, {"Now", "C"}} {
		if rows := ask("node", zero[0], zero[1]); len(rows) != 1 || !slices.Equal(rows[0].numbers(), []float64{0}) {
			t.Errorf("%s: %v, want 0", zero, rows)
		}
	}
	if rows := ask("node", "Now", "A"); len(rows) != 1 || rows[0].Metric["runbook"] != "WorkloadIdentityAgentDown" {
		t.Errorf("Now: %v, want the runbook of an agent that is down", rows)
	}
	history := ask("node", "History of states", "A")
	if len(history) != 1 || !slices.Contains(history[0].numbers(), 1) || history[0].numbers()[len(history[0].numbers())-1] != 0 {
		t.Errorf("History of states: %v, want match and then no agent", history)
	}
	if rows := ask("node", "Now", "B"); len(rows) != 1 || time.Since(time.UnixMilli(int64(rows[0].numbers()[0]))) > time.Minute {
		t.Errorf("Since: %v, want the last sample", rows)
	}
	for _, none := range [][2]string{{"Suspected causes and remedies", "A"}, {"Expected and observed identity", "A"}, {"Now", "D"}, {"Now", "E"}} {
		if rows := ask("node", none[0], none[1]); len(rows) != 0 {
			t.Errorf("%s: %v, want nothing", none, rows)
		}
	}
	absent := nodes[2].name
	if rows := g.rows(t, "workload-identity-node", "Now", "A", map[string]string{"node": absent}); len(rows) != 1 || !slices.Equal(rows[0].numbers(), []float64{0}) || rows[0].Metric["runbook"] != "WorkloadIdentityAgentMissing" {
		t.Errorf("Now: %v, want no agent, and the runbook of one that is missing", rows)
	}
	// Grafana 9.3 calls the state by another name where no other query has a result.
	if rows := g.rows(t, "workload-identity-node", "Now", "C", map[string]string{"node": absent}); len(rows) != 1 || !slices.Equal(rows[0].numbers(), []float64{0}) {
		t.Errorf("Now: %v, want an agent that is not scraped", rows)
	}
	for _, d := range g.dashboards(t) {
		for _, a := range g.queries(t, d, nil) {
			if a.panel != "$node" {
				continue
			}
			if r, err := g.ask(t.Context(), a); err != nil || !slices.Contains(r.values, absent) || !slices.Contains(r.values, dead.name) {
				t.Errorf("nodes to choose from: %v, %v, want also %s and %s, which alerts link to", r.values, err, absent, dead.name)
			}
		}
	}
	if rows := g.rows(t, "workload-identity-cluster", "Which nodes have no agent", "A", nil); len(rows) != 1 || rows[0].Metric["node"] != absent {
		t.Errorf("Which nodes have no agent: %v, want %s", rows, absent)
	}
}

// No result has a label that nobody asked for, such as __name__: Grafana shows it in
// tables, and does not merge rows that differ in it.
func (g grafana) tablesAreClean(t *testing.T) {
	t.Helper()
	for _, d := range g.dashboards(t) {
		for _, a := range g.queries(t, d, nil) {
			if strings.HasPrefix(a.panel, "$") || strings.HasPrefix(a.panel, "mark ") {
				continue
			}
			r, err := g.ask(t.Context(), a)
			if err != nil {
				t.Fatalf("%s: %v", a, err)
			}
			for _, s := range r.series {
				for _, internal := range []string{"__name__", "job", "prometheus"} {
					if s.Metric[internal] != "" {
						t.Errorf("%s: the column %s of %v", a, internal, s.Metric)
					}
				}
			}
		}
	}
}

// hasData asks everything on all pages, and wants data but where the list says why not.
func (g grafana) hasData(t *testing.T, choices map[string]string, none map[string]string) {
	t.Helper()
	for _, d := range g.dashboards(t) {
		for _, a := range g.queries(t, d, choices) {
			r, err := g.ask(context.Background(), a)
			if err != nil {
				t.Errorf("%s: %v\n%s", a, err, a.expression)
				continue
			}
			if a.panel == "mark Alerts end" {
				continue // one may end within the scene, and none need
			}
			reason, listed := none[a.String()]
			switch {
			case r.count() == 0 && !listed:
				t.Errorf("%s has no data:\n%s", a, a.expression)
			case r.count() > 0 && listed:
				t.Errorf("%s has data, and is listed as empty: %s", a, reason)
			}
		}
	}
}

// rows is the result of one query of a panel.
func (g grafana) rows(t *testing.T, page, panel, ref string, choices map[string]string) []series {
	t.Helper()
	for _, d := range g.dashboards(t) {
		if d.UID != page {
			continue
		}
		for _, a := range g.queries(t, d, choices) {
			if a.panel == panel && a.ref == ref {
				r, err := g.ask(t.Context(), a)
				if err != nil {
					t.Fatalf("%s: %v", a, err)
				}
				return r.series
			}
		}
	}
	t.Fatalf("%s has no query %s %s", page, panel, ref)
	return nil
}
