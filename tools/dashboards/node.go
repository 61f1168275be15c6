package main

import "slices"

// node asks the agents themselves. The nodes are always few: All are the worst.
func node(c clusterLabels) *Dashboard {
	const (
		there = `<chosen>,node=~"$worst"`
		of    = `job=~"$job",` + there
	)
	// 0 is an agent that was there within a day, and is gone, or ought to be there.
	saidBy := func(labels string) string {
		return `
max by (` + labels + `) (
` + ranks(`(workload_identity_state{state=%q,`+of+`} == 1)`, states) + `
  or on (<cluster>, node)
  0 * max by (<cluster>, node) (last_over_time(workload_identity_exporter_build_info{` + of + `}[1d]))
  or on (<cluster>, node)
  label_replace(0 * max by (<cluster>, node) (workload_identity:node:agent_missing{` + there + `}), "state", "missing", "", "")
)`
	}
	said := saidBy("<cluster>, node")
	return page(
		c, nodeUID, "Workload Identity / Node", "What a node hands out beside what it should, since when, why, and what to do. All shows the ten worst nodes.",
		slices.Concat([]*Variable{datasourceVariable()}, c.variables(), []*Variable{
			jobVariable(), nodeVariable(),
			worst("The chosen node, or of all the ten worst; a node without a verdict by its name.", `query_result(
topk(10, max by (node) (
`+ranks(`workload_identity:node:verdict{state=%q,<chosen>,node=~"$node"}`, states)+`
))
or on () label_replace(vector(0), "node", "${node:raw}", "", ""))`),
		}),
		marks("<cluster>, node, alertname, severity", there, "{{node}}: {{severity}}"),

		stat("State", "What the agent says now, or that there is none any more. Of several nodes the worst.", "", from(noAgent), 5, now("", `
max(`+said+`
)`)).background(byRank()).absent("no agent"),

		table(
			"Now", "State, with its runbook, since when, whether Prometheus gets metrics from the agent, how long a new Pod waits for its identity (from the start of the agent to its first token), and when the last token expires. Of an agent that is gone: when its last sample was, within a day.", 19, 4,
			slices.Concat([]string{"node", "Node", "Value #A", "State", "Value #B", "Since", "Value #C", "Agent", "Value #D", "First token", "Value #E", "Token expires", "state", "", "runbook", "Runbook"}, c.hidden()),
			rows(`label_replace(label_replace(`+withRunbooks(saidBy("<cluster>, node, state"))+`,
"runbook", "WorkloadIdentityAgentDown", "state", ""), "runbook", "WorkloadIdentityAgentMissing", "state", "missing")`),
			rows(`
1000 * (
    max by (<cluster>, node) (workload_identity_state_entered_timestamp_seconds{`+of+`})
  or
    max by (<cluster>, node) (max_over_time(timestamp(workload_identity_exporter_build_info{`+of+`})[1d:15s]))
)`),
			rows(`max by (<cluster>, node) (up{`+of+`}) or on (<cluster>, node) 0 * max by (<cluster>, node) (workload_identity:node:agent_missing{`+there+`})`),
			rows(`max by (<cluster>, node) (workload_identity_time_to_first_token_seconds{`+of+`})`),
			rows(`1000 * max by (<cluster>, node) (workload_identity_token_expiry_timestamp_seconds{`+of+`})`),
		).with(
			named("State", append(coloured(), Property{"mappings", byRank()}, linked("Runbook", toRunbookOfState, true), Property{"custom.width", 140})...),
			named("Runbook", Property{"custom.hidden", true}),
			moment("Since"), moment("Token expires"), named("First token", Property{"unit", "s"}, Property{"custom.width", 110}),
			named("Agent", append(coloured(), Property{"custom.width", 130}, Property{"mappings", []Mapping{{Type: "value", Options: map[string]Result{
				"1": {Text: "scraped", Color: good}, "0": {Text: "not scraped", Color: warning, Index: 1},
			}}}})...),
		),

		table(
			"Expected and observed identity", "The identity that Pods should get, and where that is known from; and below it the one that they get, and which metadata server answers: gke hands out the identities of Pods, vm that of the node.", 24, 4,
			slices.Concat([]string{"what", "Which", "email", "Identity", "from", "From", "node", "Node", "Value", ""}, c.hidden()),
			rows(`
sort_desc(
  2 * label_replace(max by (<cluster>, node, email, from) (label_replace(workload_identity_expected_info{`+of+`}, "from", "$1", "source", "(.*)")), "what", "expected", "", "")
    or
  label_replace(max by (<cluster>, node, email, from) (label_replace(workload_identity_observed_info{`+of+`}, "from", "$1", "metadata_server", "(.*)")), "what", "observed", "", "")
)`),
		).absent("no agent answers").sorted("Node", false).with(wide("Which", 100), wide("Identity", 480), wide("From", 120)),

		table(
			"Suspected causes and remedies", "What may explain the state, or will break it although all is well, and what to do about it. Empty where no agent answers.", 24, 5,
			slices.Concat([]string{"title", "What it is", "remedy", "First remedy", "node", "Node", "cause", "", "Value", ""}, c.hidden()),
			rows(`
label_replace(label_replace(
  max by (<cluster>, node, cause) (workload_identity_suspected_cause{`+of+`} == 1 or workload_identity_risk{`+of+`} == 1)
    or on (<cluster>, node)
  label_replace(0 * max by (<cluster>, node) (workload_identity_exporter_build_info{`+of+`}), "cause", "none", "", ""),
"title", "$1", "cause", "(.*)"), "remedy", "$1", "cause", "(.*)")`),
		).absent("no agent answers").twoLines().with(
			named("What it is", Property{"mappings", byCause(title, "Nothing is suspected")}, Property{"custom.width", 400}),
			named("First remedy", Property{"mappings", byCause(remedy, "No setting that breaks Workload Identity was found.")}),
		),

		timeline("History of states", "What the agent said at each moment, and where there was none.", byRank(), 24, 7, query("{{node}}", said)),

		table(
			"Alerts that fire", "Alerts about the node. The name leads to its runbook.", 24, 5,
			slices.Concat([]string{"severity", "Severity", "alertname", "Alert", "node", "Node", "Value", ""}, c.hidden()),
			rows(`
max by (<cluster>, node, alertname, severity) (ALERTS{alertname=~"WorkloadIdentity.*",alertstate="firing",`+there+`})`+wellRow("severity", "no alert fires")),
		).sorted("Severity", false).with(named("Alert", linked("Runbook", toRunbook, true)), bySeverity()),

		text("Reach the agent", "How to see its status page and its logs.", guide, 12, 6),
		table(
			"Moments of change", "When the states of the time range were entered, by the agent's clock. A state that lasts less than a scrape interval may be missing here, and is in the graph of verdicts.", 12, 6,
			slices.Concat([]string{"Value", "Entered", "state", "State", "node", "Node"}, c.hidden()),
			asRows(query("", `
1000 * max by (<cluster>, node, state) (
    workload_identity_state_entered_timestamp_seconds{`+of+`}
  * on (<cluster>, node, job, instance) group_left (state)
    (workload_identity_state{`+of+`} == 1)
)`)),
		).distinct("Value", "state", "node").with(moment("Entered"), named("State", append(coloured(), Property{"mappings", byStateName()})...)),

		fold("Answers of the metadata server"),

		timeline("Success of each endpoint", "Whether the last request got a usable answer, of several nodes on all: email says who Pods are, token whether they can act, server which metadata server answers.", []Mapping{{Type: "value", Options: map[string]Result{
			"1": {Text: "answers", Color: states[len(states)-1].colour}, "0": {Text: "fails", Color: bad, Index: 1},
		}}}, 24, 5, query("{{endpoint}}", `
min by (endpoint) (workload_identity_probe_success{`+of+`})`)),

		lines("Latency of each endpoint", "The 95th percentile of the time to the end of the answer. Above the line, at a second, the metadata server is slow. From the native histogram; without it from the three buckets of the classic one.", "s", 12, query("{{endpoint}}", `
histogram_quantile(0.95, sum by (endpoint) (rate(workload_identity_probe_duration_seconds{`+of+`}[$__rate_interval])))
  or
histogram_quantile(0.95, sum by (endpoint, le) (rate(workload_identity_probe_duration_seconds_bucket{`+of+`}[$__rate_interval])))`)).line(1),

		lines("Failures by reason", "Requests without a usable answer, by endpoint and reason.", "short", 12, query("{{endpoint}} {{reason}}", `
sum by (endpoint, reason) (increase(workload_identity_probe_failures_total{`+of+`}[$__rate_interval]))
  and
sum by (endpoint, reason) (workload_identity_probe_failures_total{`+of+`}) > 0`)).count().absent("no request failed"),

		areas("Verdicts on single probes", "What each probe found, before confirmation: blips that are never stated show here.", "short", 12, query("{{state}}", `
sum by (state) (increase(workload_identity_verdicts_total{`+of+`}[$__rate_interval]))`)).count().with(byState()...),

		lines("Share of wrong answers", "Which part of the answers of two minutes that tell an identity tells a wrong one, stated or not. Above the line, at 20 %, some connections of Pods get another identity than others.", "percentunit", 12, query("{{node}}", `
  sum by (<cluster>, node) (increase(workload_identity_verdicts_total{state=~"node_fallback|mismatch|unbound",`+of+`}[2m]))
/
  sum by (<cluster>, node) (increase(workload_identity_verdicts_total{state=~"node_fallback|mismatch|unbound|token_denied|match",`+of+`}[2m]))`)).to(1).line(0.2),

		fold("The agent"),

		table(
			"Agents", "The agents on the node. The Pod leads to its logs in Cloud Logging, the address to its status page, where the browser can reach it.", 24, 6,
			slices.Concat([]string{"node", "Node", "namespace", "Namespace", "pod", "Pod", "instance", "Status page", "version", "Version", "Value", ""}, c.hidden()),
			rows(`max by (<cluster>, node, namespace, pod, instance, version) (workload_identity_exporter_build_info{`+of+`})`),
		).with(named("Pod", linked("Logs", toPodLogs, true)), named("Status page", linked("Status page", toStatusPage, true))),

		lines("Failing requests to Kubernetes", "Requests to the API server that failed, by resource and reason. Without the ServiceAccount the agent does not know what is expected.", "short", 24, query("{{resource}} {{reason}}", `
sum by (resource, reason) (increase(workload_identity_kubernetes_request_failures_total{`+of+`}[$__rate_interval]))
  and
sum by (resource, reason) (workload_identity_kubernetes_request_failures_total{`+of+`}) > 0`)).count().absent("no request failed"),
	)
}

// asRows makes a range of values rows.
func asRows(t Target) Target {
	t.Format = "table"
	return t
}

// to is where the axis of a graph ends.
func (p *Panel) to(end float64) *Panel {
	p.FieldConfig.Defaults.Max = &end
	return p
}

// line is drawn into a graph, where what it shows becomes a problem.
func (p *Panel) line(at float64) *Panel {
	p.FieldConfig.Defaults.Thresholds = &Thresholds{"absolute", from(good, at, bad)}
	p.FieldConfig.Defaults.Custom["thresholdsStyle"] = map[string]any{"mode": "line"}
	return p
}

// background colours the whole panel by what its values mean.
func (p *Panel) background(mappings []Mapping) *Panel {
	p.FieldConfig.Defaults.Mappings = mappings
	p.Options["colorMode"] = "background"
	return p
}

// distinct leaves one row for each combination of the columns, the newest first.
func (p *Panel) distinct(columns ...string) *Panel {
	fields := map[string]any{}
	for _, c := range columns {
		fields[c] = map[string]any{"operation": "groupby", "aggregations": []string{}}
	}
	p.Transformations = append([]Transformation{{"groupBy", map[string]any{"fields": fields}}}, p.Transformations...)
	p.Options["sortBy"] = []any{map[string]any{"displayName": "Entered", "desc": true}}
	return p
}

// byStateName colours names of states.
func byStateName() []Mapping {
	m := Mapping{Type: "value", Options: map[string]Result{}}
	for i, s := range states {
		m.Options[s.name] = Result{Text: s.name, Color: s.colour, Index: i}
	}
	m.Options["all nodes are right"] = Result{Text: "all nodes are right", Color: good, Index: len(states)}
	return []Mapping{m}
}

const guide = "With the namespace and the Pod of the table below:\n\n" +
	"    kubectl -n NAMESPACE port-forward pod/POD 10988\n" +
	"    kubectl -n NAMESPACE logs POD\n\n" +
	"The state leads to its runbook, and so does each alert. [All runbooks](" + repository + "/tree/main/alerts#all-alerts)\n"
