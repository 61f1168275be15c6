package main

import (
	"fmt"
	"slices"
	"strings"
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

		append(overview(
			stat("Clusters not right", "Clusters that have nodes in any state but match.", "short", from(good, 1, bad), 4, now("", `
count(workload_identity:cluster:nodes_failing{<chosen>} > 0) or 0 * count(workload_identity:cluster:nodes{<chosen>})`)).count().absent("no agents"),
		),

			table(
				"Clusters, worst first", "The fifty clusters with the greatest share of nodes that are not right, their worst state, and what most of these nodes suffer from. The name leads to the cluster, the state to its runbook.", 24, 8,
				slices.Concat(c.columns(), []string{
					"Value #A", "Not right", "Value #B", "Nodes not right", "Value #C", "Nodes", "state", "Worst state", "Value #E", "Wrong since", "cause", "What it is", "Value #F", "On nodes", "Value #D", "Without agent",
					"runbook", "Runbook", "Value #G", "",
				}),
				rows(`topk(50, `+c.named(`max by (<cluster>) (workload_identity:cluster:nodes_failing{<chosen>}) / on (<cluster>) max by (<cluster>) (workload_identity:cluster:nodes{<chosen>})`)+`)`),
				rows(c.ofWorst("max by (<cluster>) (workload_identity:cluster:nodes_failing{<chosen>})")),
				rows(c.ofWorst("max by (<cluster>) (workload_identity:cluster:nodes{<chosen>})")),
				rows(c.ofWorst("max by (<cluster>) (workload_identity:cluster:agents_missing{<chosen>})")),
				rows(c.ofWorst(`1000 * min by (<cluster>) (workload_identity:cluster_state:entered_timestamp_seconds:min{state!~"match|starting",<chosen>})`)),
				rows(c.ofWorst("max by (<cluster>, cause) (topk by (<cluster>) (1, workload_identity:cluster_cause:nodes{<chosen>}))")),
				rows(c.ofWorst(withRunbooks("max by (<cluster>, state) (topk by (<cluster>) (1,\n"+ranks(`(workload_identity:cluster_state:nodes{state=%q,<chosen>} > bool 0)`, states)+"\n))"))),
			).twoLines().with(
				named(c.title(c.name()), linked("The cluster", c.toCluster(), false)),
				named("Not right", append(
					coloured(), Property{"unit", "percentunit"}, Property{"color", Color{Mode: "thresholds"}},
					Property{"thresholds", Thresholds{"absolute", from(good, 0.000001, warning, 0.01, bad)}}, Property{"custom.width", 100},
				)...),
				wide("Nodes not right", 130), wide("Nodes", 70), wide("Without agent", 120), wide("On nodes", 90),
				named("Worst state", append(coloured(), Property{"mappings", byStateName()}, linked("Runbook", toRunbookOfState, true), Property{"custom.width", 150})...),
				named("Runbook", Property{"custom.hidden", true}),
				moment("Wrong since"),
				named("What it is", Property{"mappings", byCause(title, "")}, Property{"custom.width", 380}),
			),

			table(
				"Alerts that fire", "Alerts of this project by cluster, those that page first. The name leads to its runbook.", 14, 8,
				slices.Concat([]string{"severity", "Severity", "alertname", "Alert"}, c.columns(), []string{"Value", "Firing"}),
				rows(`
topk(50, `+c.named(`count by (<cluster>, alertname, severity) (ALERTS{alertname=~"WorkloadIdentity.*",alertstate="firing",<chosen>})`)+`)`+wellRow("severity", "no alert fires")),
			).sorted("Severity", false).with(
				named("Alert", linked("Runbook", toRunbook, true)), named(c.title(c.name()), linked("The cluster", c.toCluster(), false)),
				bySeverity(), wide("Firing", 80),
			),

			table(
				"What changed in the last hour", "Nodes in each state, all nodes, and agents of each version: how many more or fewer than an hour ago, the greatest changes first.", 10, 8,
				slices.Concat([]string{"Value", "By", "way", "More or fewer", "what", "What"}, c.columns(), []string{"state", "", "version", ""}),
				rows(`
topk(50, `+c.named(`
`+change("> 0", "more", "")+`
  or
`+change("< 0", "fewer", "-1 * ")+`
`)+`)
  or on ()
label_replace(0 * max(workload_identity:cluster:nodes{<chosen>} offset 1h), "what", "nothing: as many nodes in each state, and agents of each version", "", "")`+wellRow("what", "not known: nothing was recorded an hour ago")),
			).with(named(c.title(c.name()), linked("The cluster", c.toCluster(), false)), wide("By", 60), wide("More or fewer", 120)),

			stacks("Nodes by state, in the worst clusters", "The twenty clusters with the most nodes that are not right.", 12, 8, bar, "state", rows(nodesByState)).with(byState()...),

			areas("Nodes by state", "All nodes of the chosen clusters.", "short", 12, query("{{state}}", `
sum by (state) (workload_identity:cluster_state:nodes{<chosen>})`)).count().with(byState()...),
		)...,
	)
}

// ofWorst is what an expression has about the fifty worst clusters.
func (c clusterLabels) ofWorst(expr string) string {
	return c.named(expr + `
  and on (<cluster>)
topk(50, workload_identity:cluster:nodes_failing{<chosen>} / on (<cluster>) workload_identity:cluster:nodes{<chosen>})`)
}

// change is what there is more or fewer of than an hour ago, and by how much.
func change(which, way, sign string) string {
	var all []string
	for _, m := range [][3]string{
		{"workload_identity:cluster_state:nodes", "state", "nodes in state $1"},
		{"workload_identity:cluster:nodes", "", "all nodes"},
		{"workload_identity:cluster_version:agents", "version", "agents $1"},
	} {
		// What is or was not there counts as 0.
		all = append(all, fmt.Sprintf(`  label_replace((
    (%[1]s{<chosen>} or 0 * %[1]s{<chosen>} offset 1h)
  - (%[1]s{<chosen>} offset 1h or 0 * %[1]s{<chosen>})
  ) %[4]s and on (<cluster>) workload_identity:cluster:nodes{<chosen>} offset 1h, "what", "%[3]s", "%[2]s", "(.*)")`, m[0], m[1], m[2], which))
	}
	return fmt.Sprintf("label_replace(%s(\n%s\n), \"way\", \"%s\", \"\", \"\")", sign, strings.Join(all, "\n    or\n"), way)
}
