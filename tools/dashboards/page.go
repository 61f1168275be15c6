package main

import (
	"fmt"
	"strings"
)

// uid of each page. Links of alerts name them.
const (
	fleetUID   = "workload-identity-fleet"
	clusterUID = "workload-identity-cluster"
	nodeUID    = "workload-identity-node"
)

const tag = "workload-identity"

const repository = "https://github.com/workload-identity-exporter/workload-identity-exporter"

// page is what all dashboards have: links to the others that keep the choices
// and the time, and panels in rows of 24. What is written of the cluster in queries and
// legends becomes its labels.
func page(c clusterLabels, uid, title, description string, variables []*Variable, annotations []Annotation, panels ...*Panel) *Dashboard {
	x, y, height := 0, 0, 0
	for i, p := range panels {
		if x+p.GridPos.W > 24 {
			x, y, height = 0, y+height, 0
		}
		p.ID, p.GridPos.X, p.GridPos.Y = i+1, x, y
		x += p.GridPos.W
		height = max(height, p.GridPos.H)
		if p.FieldConfig.Overrides == nil {
			p.FieldConfig.Overrides = []Override{}
		}
		for i, t := range p.Targets {
			p.Targets[i].Expr, p.Targets[i].LegendFormat = c.in(t.Expr), c.in(t.LegendFormat)
		}
	}
	for _, v := range variables {
		if q, ok := v.Query.(VariableQuery); ok {
			q.Query = c.in(q.Query)
			v.Query = q
		}
	}
	for i, a := range annotations {
		annotations[i].Expr, annotations[i].TextFormat = c.in(a.Expr), c.in(a.TextFormat)
	}
	return &Dashboard{
		UID: uid, Title: title, Description: description, Tags: []string{tag},
		SchemaVersion: 37, GraphTooltip: 1, Refresh: "30s", Time: TimeRange{"now-1h", "now"},
		Links: []Link{
			to("Fleet", fleetUID, "All clusters"), to("Cluster", clusterUID, "All nodes of a cluster"), to("Node", nodeUID, "One node"),
			{Title: "Runbooks", Type: "link", Icon: "doc", Tooltip: "What to do about each alert", URL: repository + "/tree/main/alerts#all-alerts", TargetBlank: true},
		},
		Templating:  Templating{variables},
		Annotations: Annotations{annotations},
		Panels:      panels,
	}
}

// overview is the first row of the pages of clusters. One of its numbers is the page's own.
func overview(own *Panel) []*Panel {
	return []*Panel{
		stat("Right identity", "Share of nodes on which Pods get the identity that they should get, and a token for it.", "percentunit", from(bad, 0.99, warning, 1, good), 4, now("", `
1 - sum(workload_identity:cluster:nodes_failing{<chosen>}) / sum(workload_identity:cluster:nodes{<chosen>})`)).absent("no agents"),

		stat("Nodes not right", "Nodes in any state but match, of all that have an agent with a verdict.", "short", from(good, 1, bad), 4, now("", `
sum(workload_identity:cluster:nodes_failing{<chosen>})`)).count().absent("no agents"),

		stat("Wrong for", "How long the first of the nodes that are not right now has been in its state, in days, hours, minutes and seconds. A node of which the agent is restarted counts from then on.", "dtdhms", from(good, 1, bad), 4, now("", `
time() - min(workload_identity:cluster_state:entered_timestamp_seconds:min{state!~"match|starting",<chosen>})`)).absent("nothing is wrong"),

		own,

		stat("Without an agent", "Nodes that ought to have an agent and have none with a verdict. Without kube-state-metrics none is known.", "short", from(good, 1, warning), 4, now("", `
sum(workload_identity:cluster:agents_missing{<chosen>})`)).count().absent("no agents"),

		stat("Blind agents", "Agents that have not read the expected identity for an hour, or never. They judge by what they read last: their match may be out of date.", "short", from(good, 1, warning), 4, now("", `
sum(workload_identity:cluster:agents_blind{<chosen>})`)).count().absent("no agents"),
	}
}

func to(title, uid, tooltip string) Link {
	return Link{Title: title, Type: "link", Icon: "dashboard", Tooltip: tooltip, URL: "/d/" + uid, IncludeVars: true, KeepTime: true}
}

// The variables. `.*` also matches series without the label, as there are where
// a Prometheus sees one cluster.
func datasourceVariable() *Variable {
	return &Variable{Name: "datasource", Label: "Data source", Description: "The Prometheus that has the series and the recording rules.", Type: "datasource", Query: "prometheus", Refresh: 1}
}

func choice(name, label, description, query string) *Variable {
	return &Variable{
		Name: name, Label: label, Description: description, Type: "query", Query: VariableQuery{oneLine(query), name}, Datasource: &datasource,
		Refresh: 2, Sort: 1, IncludeAll: true, AllValue: ".*", Current: &Current{"All", "$__all"},
	}
}

func jobVariable() *Variable {
	return choice("job", "Job", "The scrape job of the agents.", `label_values(workload_identity_exporter_build_info{<chosen>}, job)`)
}

// nodeVariable offers also nodes that only ought to have an agent: Grafana shows All in
// place of a node that it is not offered, such as one that an alert links to.
func nodeVariable() *Variable {
	return choice("node", "Node", "All are the ten worst nodes.", `label_values({__name__=~"workload_identity:node:verdict|workload_identity:node:wants_agent",<chosen>}, node)`)
}

// worst is a hidden variable with the nodes that a page shows, so that its
// queries ask for a few nodes by name, however many there are.
func worst(description, query string) *Variable {
	return &Variable{
		Name: "worst", Label: "Worst nodes", Description: description, Type: "query", Query: VariableQuery{oneLine(query), "worst"}, Datasource: &datasource,
		Regex: `/node="([^"]+)"/`, Refresh: 2, Multi: true, IncludeAll: true, Hide: 2, SkipURLSync: true, Current: &Current{[]string{"All"}, []string{"$__all"}},
	}
}

// oneLine is how Grafana takes a query that is wrapped by a function of its own:
// its pattern does not reach over line ends.
func oneLine(query string) string { return strings.Join(strings.Fields(query), " ") }

// marks are the annotations: the moments at which alerts begin and end, by the labels
// that tell them apart on the page, and at which agents of another version come.
func marks(alertLabels, selector, text string) []Annotation {
	alerts := fmt.Sprintf(`count by (%s) (ALERTS{alertname=~"WorkloadIdentity.*",alertstate="firing",%s}`, alertLabels, selector)
	mark := func(name, colour, expr, title, text string) Annotation {
		return Annotation{Name: name, Datasource: datasource, Enable: true, IconColor: colour, Step: "1m", Expr: expr, TitleFormat: title, TextFormat: text}
	}
	return []Annotation{
		mark("Alerts begin", bad, alerts+")\n  unless\n"+alerts+" offset 1m)", "{{alertname}}", text),
		mark("Alerts end", noAgent, alerts+" offset 1m)\n  unless\n"+alerts+")", "{{alertname}} is over", text),
		mark("Versions", "#3A7EBF", `workload_identity:cluster_version:agents{<chosen>}
  unless on (<cluster>, version)
workload_identity:cluster_version:agents{<chosen>} offset 1m`, "Agents {{version}}", "<where>"),
	}
}

// named links of the tables.
const (
	keepTime         = "&${__url_time_range}"
	toRunbook        = repository + "/blob/main/alerts/runbooks/${__data.fields.alertname}.md"
	toRunbookOfState = repository + "/blob/main/alerts/runbooks/${__data.fields.runbook}.md"
	toStatusPage     = "http://${__data.fields.instance}/"
	toPodLogs        = `https://console.cloud.google.com/logs/query;query=resource.type%3D%22k8s_container%22%0Aresource.labels.namespace_name%3D%22${__data.fields.namespace}%22%0Aresource.labels.pod_name%3D%22${__data.fields.pod}%22`
)
