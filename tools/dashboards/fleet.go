package main

import (
	"fmt"
	"slices"
)

// fleet asks only for what the rules recorded for each cluster, and for alerts:
// no query here has a series for every node.
func fleet(c clusterLabels) *Dashboard {
	nodesByState, bar := c.joined(c.named(`sum by (<cluster>, state) (workload_identity:cluster_state:nodes{<chosen>})
  and on (<cluster>)
topk(20, workload_identity:cluster:nodes_failing{<chosen>})`))
	return page(
		c, fleetUID, "Workload Identity / Fleet", "Which clusters hand out the right Google identity to their Pods, which do not, and what changed.",
		slices.Concat([]*Variable{datasourceVariable()}, c.variables()),
		marks("<cluster>, alertname, severity", `<chosen>`, "<where>: {{severity}}"),

		stat("Right identity", "Share of nodes on which Pods get the identity that they should get, and a token for it.", "percentunit", from(bad, 0.99, warning, 1, good), 4, now("", `
1 - sum(workload_identity:cluster:nodes_failing{<chosen>}) / sum(workload_identity:cluster:nodes{<chosen>})`)),

		stat("Nodes that are not right", "Nodes in any state but match, of all that have an agent with a verdict.", "short", from(good, 1, bad), 5, now("", `
sum(workload_identity:cluster:nodes_failing{<chosen>})`)),

		stat("Nodes without an agent", "Nodes that ought to have an agent and have none with a verdict. Without kube-state-metrics none is known.", "short", from(good, 1, warning), 5, now("", `
sum(workload_identity:cluster:agents_missing{<chosen>})`)),

		stat("Agents that cannot read what is expected", "Agents that have not read the expected identity for an hour, or never. They judge by what they read last: their match may be out of date.", "short", from(good, 1, warning), 5, now("", `
sum(workload_identity:cluster:agents_blind{<chosen>})`)),

		stat("All nodes as they are since", "When a node last changed its state, or its agent began anew. On a healthy fleet: all nodes are right since then.", "dateTimeFromNow", from(good), 5, now("", `
1000 * max(workload_identity:cluster:state_entered_timestamp_seconds:max{<chosen>})`)),

		table(
			"Alerts that fire", "Alerts of this project by cluster. The name leads to its runbook.", 12, 8,
			slices.Concat([]string{"severity", "Severity", "alertname", "Alert"}, c.columns(), []string{"Value", "Firing"}),
			rows(`
topk(50, `+c.named(`count by (<cluster>, alertname, severity) (ALERTS{alertname=~"WorkloadIdentity.*",alertstate="firing",<chosen>})`)+`)
  or on ()
label_replace(vector(0), "severity", "no alert fires", "", "")`),
		).with(
			named("Alert", linked("Runbook", toRunbook, true)), named(c.title(c.name()), linked("The cluster", c.toCluster(), false)),
			named("Severity", append(coloured(), Property{"mappings", []Mapping{{Type: "value", Options: map[string]Result{
				"critical": {Text: "critical", Color: bad}, "warning": {Text: "warning", Color: warning, Index: 1}, "no alert fires": {Text: "no alert fires", Color: good, Index: 2},
			}}}})...),
		),

		table(
			"What changed in the last hour", "Nodes in each state, all nodes, and agents of each version: how many more or fewer than an hour ago.", 12, 8,
			slices.Concat(c.columns(), []string{"what", "What", "Value", "Change", "state", "", "version", ""}),
			rows(`
topk(50, `+c.named(`
`+changed("workload_identity:cluster_state:nodes", "state", "nodes in state $1")+`
  or
`+changed("workload_identity:cluster:nodes", "", "all nodes")+`
  or
`+changed("workload_identity:cluster_version:agents", "version", "agents $1")+`
`)+`)
  or on ()
label_replace(vector(0), "what", "nothing: as many nodes in each state, and agents of each version", "", "")`),
		).with(named(c.title(c.name()), linked("The cluster", c.toCluster(), false))),

		table(
			"Clusters, worst first", "The fifty clusters with the greatest share of nodes that are not right. The name leads to the cluster.", 12, 10,
			slices.Concat(c.columns(), []string{"Value #A", "Not right", "Value #B", "Nodes not right", "Value #C", "Nodes", "Value #D", "Without agent", "Value #E", "As it is since"}),
			rows(`topk(50, `+c.named(`workload_identity:cluster:nodes_failing{<chosen>} / on (<cluster>) workload_identity:cluster:nodes{<chosen>}`)+`)`),
			rows(c.ofWorst("workload_identity:cluster:nodes_failing")),
			rows(c.ofWorst("workload_identity:cluster:nodes")),
			rows(c.ofWorst("workload_identity:cluster:agents_missing")),
			rows(c.ofWorst("1000 * workload_identity:cluster:state_entered_timestamp_seconds:max")),
		).with(
			named(c.title(c.name()), linked("The cluster", c.toCluster(), false)),
			named("Not right", append(
				coloured(), Property{"unit", "percentunit"}, Property{"color", Color{Mode: "thresholds"}},
				Property{"thresholds", Thresholds{"absolute", from(good, 0.000001, warning, 0.01, bad)}},
			)...),
			moment("As it is since"),
		),

		stacks("Nodes by state, in the worst clusters", "The twenty clusters with the most nodes that are not right.", 12, 10, bar, "state", rows(nodesByState)).with(byState()...),

		areas("Nodes by state", "All nodes of the chosen clusters.", "short", 24, query("{{state}}", `
sum by (state) (workload_identity:cluster_state:nodes{<chosen>})`)).with(byState()...),
	)
}

// ofWorst is a metric of the fifty worst clusters.
func (c clusterLabels) ofWorst(metric string) string {
	return c.named(metric + `{<chosen>}
  and on (<cluster>)
topk(50, workload_identity:cluster:nodes_failing{<chosen>} / on (<cluster>) workload_identity:cluster:nodes{<chosen>})`)
}

// changed is how much a metric changed in an hour, where there was one. What is
// or was not there counts as 0.
func changed(metric, label, what string) string {
	return fmt.Sprintf(`label_replace(
    (%[1]s{<chosen>} or 0 * %[1]s{<chosen>} offset 1h)
  - (%[1]s{<chosen>} offset 1h or 0 * %[1]s{<chosen>})
  != 0 and on (<cluster>) workload_identity:cluster:nodes{<chosen>} offset 1h,
  "what", "%[3]s", "%[2]s", "(.*)")`, metric, label, what)
}
