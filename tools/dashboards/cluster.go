package main

import "slices"

// cluster asks for fifty nodes by name: those that $worst finds.
func cluster(c clusterLabels) *Dashboard {
	const verdict = `workload_identity:node:verdict{state=%q,<chosen>,node=~"$worst"}`
	return page(
		c, clusterUID, "Workload Identity / Cluster", "Which nodes of a cluster hand out a wrong identity or none, since when, why, and which Pods are affected.",
		slices.Concat([]*Variable{datasourceVariable()}, c.variables(), []*Variable{
			jobVariable(),
			worst("The forty worst nodes in the time range, and ten that are right.", `query_result(
topk(40, max by (node) (
`+ranks(`max_over_time(workload_identity:node:verdict{state=%q,<chosen>}[$__range])`, notRight)+`
))
or topk(10, max by (node) (workload_identity:node:verdict{state="match",<chosen>})))`),
		}),
		marks("alertname, severity", `<chosen>`, "{{severity}}"),

		append(overview(
			stat("Pods affected", "Pods that run with an identity that is not theirs, now: those of the table below. It is counted every minute.", "short", from(good, 1, bad), 4, now("", `
sum(workload_identity:cluster_namespace:pods_affected{<chosen>}) or 0 * sum(workload_identity:cluster:nodes{<chosen>})`)).count().absent("no agents"),
		),

			table(
				"What is wrong", "The states of nodes that are not right, the worst first, how many there are, and since when. The name leads to the runbook.", 8, 6,
				[]string{"state", "State", "Value #A", "", "Value #C", "Nodes", "Value #B", "Since", "runbook", "Runbook"},
				rows(`
sort_desc(`+withRunbooks("max by (state) (\n"+ranks(`(workload_identity:cluster_state:nodes{state=%q,<chosen>} > bool 0)`, notRight)+"\n) > 0"+wellRow("state", "all nodes are right"))+`)`),
				rows(`1000 * min by (state) (workload_identity:cluster_state:entered_timestamp_seconds:min{state!="match",<chosen>})`),
				rows(`sum by (state) (workload_identity:cluster_state:nodes{state!="match",<chosen>})`),
			).with(
				named("State", append(coloured(), Property{"mappings", byStateName()}, linked("Runbook", toRunbookOfState, true))...),
				wide("Nodes", 70), moment("Since"), named("Runbook", Property{"custom.hidden", true}),
			),

			table(
				"Alerts", "Alerts of this project that fire, those of the whole cluster first, or are about to. The name leads to its runbook.", 16, 6,
				slices.Concat([]string{"severity", "Severity", "alertname", "Alert", "node", "Node", "alertstate", "State", "Value", ""}, c.hidden()),
				rows(`
topk(50, max by (<cluster>, alertname, severity, alertstate, node) (
  3 * ALERTS{alertname=~"WorkloadIdentity.*",alertstate="firing",node="",<chosen>}
    or
  2 * ALERTS{alertname=~"WorkloadIdentity.*",alertstate="firing",<chosen>} or ALERTS{alertname=~"WorkloadIdentity.*",<chosen>}
))`+wellRow("severity", "no alert fires")),
			).sorted("Severity", false).with(
				named("Alert", linked("Runbook", toRunbook, true)), named("Node", linked("The node", c.toNode(), false)), bySeverity(), wide("State", 80),
			),

			table(
				"Why, and what to do first", "Causes that agents suspect, and settings that will break nodes which are still right, with the first remedy. Try it on one node.", 24, 6,
				[]string{"title", "What it is", "Value", "Nodes", "cause", "", "which", "Which", "remedy", "First remedy"},
				rows(`
label_replace(label_replace(
  label_replace(sum by (cause) (workload_identity:cluster_cause:nodes{<chosen>}), "which", "suspected", "", "")
    or
  label_replace(sum by (cause) (workload_identity:cluster_cause:nodes_at_risk{<chosen>}), "which", "at risk", "", "")
    or on ()
  label_replace(0 * max(workload_identity:cluster:nodes{<chosen>}), "cause", "none", "", ""),
"title", "$1", "cause", "(.*)"), "remedy", "$1", "cause", "(.*)")`),
			).sorted("Nodes", true).twoLines().with(
				named("What it is", Property{"mappings", byCause(title, "No cause is suspected, and no risk was found")}, Property{"custom.width", 440}),
				named("First remedy", Property{"mappings", byCause(remedy, "")}), wide("Nodes", 80), wide("Which", 100),
			),

			timeline("State of nodes", "A row for each of the forty nodes that were in the worst states in the time range, and for ten that are right.", byRank(), 24, 12, query("{{node}}", `
max by (<cluster>, node) (
`+ranks(verdict, states)+`
)`)),

			table(
				"Nodes, worst first", "The forty nodes that were in the worst states in the time range, as they are now, and ten that are right. The name leads to the node. The causes are in words above.", 24, 12,
				slices.Concat([]string{
					"node", "Node", "Value #A", "State", "Value #B", "Since", "observed", "Observed", "cause", "Suspected cause",
				}, c.columns(), []string{"Value #C", "", "state", "", "expected", "", "metadata_server", ""}),
				rows(`
sort_desc(max by (<cluster>, node, state, expected, observed, metadata_server) (
`+ranks(verdict, states)+`
))`),
				rows(`1000 * max by (<cluster>, node) (workload_identity_state_entered_timestamp_seconds{<chosen>,job=~"$job",node=~"$worst"})`),
				rows(`
max by (<cluster>, node, cause) (
  topk by (<cluster>, node) (1, workload_identity_suspected_cause{<chosen>,job=~"$job",node=~"$worst"} == 1)
)`),
			).with(
				named("Node", linked("The node", c.toNode(), false)),
				named("State", append(coloured(), Property{"mappings", byRank()}, Property{"custom.width", 150})...),
				moment("Since"),
				wide("Observed", 340), wide("Suspected cause", 230),
			),

			table(
				"Which nodes have no agent", "Nodes that ought to have an agent and have none with a verdict, and when there was one. Where kube-state-metrics is missing nothing is known of them.", 12, 8,
				slices.Concat([]string{"node", "Node", "Value", "Last seen"}, c.hidden()),
				rows(`
topk(20, 1000 * max by (<cluster>, node) (workload_identity:node:agent_missing{<chosen>}))`+wellRow("node", "every node has one")),
			).with(
				named("Node", linked("The node", c.toNode(), false)),
				moment("Last seen"), named("Last seen", zero("–")),
			),

			bars("Blast radius by namespace", "Pods that run with a wrong identity. The twenty namespaces with the most.", "short", 12, 8, now("{{namespace}}", `
topk(20, sum by (namespace) (workload_identity:cluster_namespace:pods_affected{<chosen>}))`+wellRow("namespace", "none"))),

			areas("Nodes by state", "All nodes of the cluster.", "short", 12, query("{{state}}", `
sum by (state) (workload_identity:cluster_state:nodes{<chosen>})`)).count().with(byState()...),

			areas("Versions of the agent", "How many agents run each version.", "short", 12, query("{{version}}", `
sum by (version) (workload_identity:cluster_version:agents{<chosen>})`)).count(),

			table(
				"Blast radius: Pods with a wrong identity", "Pods that run on nodes with a wrong identity, are not in the node's network, and whose Kubernetes ServiceAccount is annotated. Where kube-state-metrics does not export annotations, all Pods on these nodes but those in the node's network. At most 200.", 24, 8,
				slices.Concat([]string{"namespace", "Namespace", "pod", "Pod", "service_account", "Service account", "node", "Node"}, c.columns(), []string{"Value", ""}),
				rows(`
topk(200, max by (<cluster>, namespace, pod, service_account, node) (workload_identity:pod:affected{<chosen>}))`+wellRow("namespace", "no Pod runs with a wrong identity")),
			).with(named("Node", linked("The node", c.toNode(), false))),

			table(
				"Exposed Pods: restart them after the repair", "Pods that ran with a wrong identity at any time and still run: each may hold a connection to the wrong metadata server, or a token of it, until it is restarted. At most 200. One that began anew under the same name is not among them. From kube-state-metrics, as long as Prometheus is not away for ten minutes.", 24, 8,
				slices.Concat([]string{"namespace", "Namespace", "pod", "Pod", "service_account", "Service account", "node", "Node"}, c.columns(), []string{"Value", "Last wrong"}),
				rows(`
topk(200, 1000 * max by (<cluster>, namespace, pod, service_account, node) (workload_identity:pod:exposed{<chosen>}))`+wellRow("namespace", "none")),
			).with(named("Node", linked("The node", c.toNode(), false)), moment("Last wrong"), named("Last wrong", zero("–"))),

			fold("Tokens, latency and failures"),

			lines("Time to the first expiry of a token", "Time until the first of the tokens that the metadata servers gave expires: below zero somebody's tokens are not renewed.", "s", 8, query("<where>", `
topk(20, workload_identity:cluster:token_expiry_timestamp_seconds:min{<chosen>} - time())`)).unbounded().line(0),

			lines("Nodes with an expired token", "Nodes whose last token is no longer valid.", "short", 8, query("<where>", `
topk(20, max by (<cluster>) (workload_identity:cluster:tokens_expired{<chosen>}))`)).count(),

			lines("Refused tokens by reason", "Requests for a token that got none, of all nodes, by reason: those that occur.", "reqps", 8, query("{{reason}}", `
sum by (reason) (workload_identity:cluster_endpoint_reason:probe_failures:rate5m{<chosen>,endpoint="token"}) > 0`)).absent("none was refused"),

			heatmap("Latency of the metadata servers", "How long requests to the metadata servers take, of all nodes. From the native histogram, which Grafana 9.3 cannot draw; where no cluster has it, from the three buckets of the classic one.", "s", 12, query("{{le}}", `
sum (workload_identity:cluster_endpoint:probe_duration_seconds:rate5m{<chosen>})
  or on ()
sum by (le) (workload_identity:cluster_endpoint:probe_duration_seconds_bucket:rate5m{<chosen>})`)),

			lines("Failures by reason", "Requests to the metadata servers without a usable answer, of all nodes and endpoints, by reason: those that occur.", "reqps", 12, query("{{reason}}", `
sum by (reason) (workload_identity:cluster_endpoint_reason:probe_failures:rate5m{<chosen>}) > 0`)).absent("no request failed"),
		)...,
	)
}

// unbounded lets a graph go below zero, and shows where that is.
func (p *Panel) unbounded() *Panel {
	p.FieldConfig.Defaults.Min = nil
	p.FieldConfig.Defaults.Custom["axisSoftMin"] = 0
	return p
}
