package main

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// form is one in which the rules are rendered.
type form struct {
	// values are what the actions of the source put in; in the chart, actions of Helm.
	values map[string]any
	chart  bool
	// gmp: for the rule evaluator of Google Cloud Managed Service for Prometheus. It
	// evaluates each rule by itself and sends what it records to the backend, where it
	// is seen late; so what pages asks raw series only. It has no keep_firing_for.
	gmp bool
}

// wrong are the states in which Pods have an identity that is not theirs.
const wrong = "node_fallback|mismatch|unbound"

// right are those in which it is theirs.
const right = "token_denied|match"

// execute fills the template.
func (f form) execute(source string) (string, error) {
	if f.chart {
		source = escape(source)
	}
	t, err := template.New("rules").Delims("<%", "%>").Option("missingkey=error").Funcs(template.FuncMap{
		"cluster":         f.cluster,
		"ofCluster":       f.ofCluster,
		"args":            f.args,
		"failing":         f.failing,
		"node":            func() string { return "label_replace(label_join(" },
		"endNode":         func() string { return nodeElse },
		"wrong":           func() string { return wrong },
		"wrongShare":      f.wrongShare,
		"mixed":           f.mixed,
		"statedShare":     f.statedShare,
		"said":            f.said,
		"severity":        severity,
		"perNode":         f.perNode,
		"nodes":           func() string { return f.nodes("") },
		"nodesOfCluster":  func() string { return f.nodes(f.ofCluster()) },
		"share":           f.share,
		"count":           f.count,
		"suspects":        f.suspects,
		"suspectsCluster": f.suspectsCluster,
		"endSuspects":     func() string { return f.text("{{ end }}") },
		"titled":          func(state identity.State) string { return f.titled("$labels.cause", state) },
		"firstStep":       func(state identity.State) string { return f.firstStep("$labels.cause", state) },
		"runbook":         func(alert string) string { return fmt.Sprint(f.values["runbooks"]) + "/" + alert + ".md" },
		"dashboard":       f.dashboard,
	}).Parse(source)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, f.values); err != nil {
		return "", err
	}
	rules := out.String()
	if f.gmp {
		rules = regexp.MustCompile(`(?m)^ *keep_firing_for: .*\n`).ReplaceAllString(rules, "")
	}
	if f.chart {
		// The braces of a selector must not touch those of an action.
		rules = strings.NewReplacer("{{{ ", "{{ `{` }}{{ ", " }}}", " }}{{ `}` }}").Replace(rules)
	}
	return rules, nil
}

// escape keeps the templates of annotations from Helm, which has the same marks.
func escape(source string) string {
	return regexp.MustCompile(`\{\{-?|-?\}\}`).ReplaceAllStringFunc(source, func(mark string) string { return "{{ `" + mark + "` }}" })
}

// text is a part of an annotation's template.
func (f form) text(s string) string {
	if f.chart {
		return escape(s)
	}
	return s
}

// clusterLabels are those by which clusters differ; none, if only Helm knows them.
func (f form) clusterLabels() []string {
	if f.gmp {
		return gmpClusterLabels
	}
	if f.chart {
		return nil
	}
	var labels []string
	for _, l := range f.values["clusterLabels"].([]any) {
		labels = append(labels, fmt.Sprint(l))
	}
	return labels
}

// each writes for each label of the cluster what format says, with the label in the
// place of %s.
func (f form) each(format string) string {
	if f.clusterLabels() == nil {
		return "{{ range .Values.monitoring.rules.values.clusterLabels }}" + strings.ReplaceAll(f.text(format), "%s", "{{ . }}") + "{{ end }}"
	}
	var all strings.Builder
	for _, l := range f.clusterLabels() {
		all.WriteString(strings.ReplaceAll(f.text(format), "%s", l))
	}
	return all.String()
}

func (f form) cluster() string {
	if labels := f.clusterLabels(); labels != nil {
		return strings.Join(labels, ", ")
	}
	return `{{ join ", " .Values.monitoring.rules.values.clusterLabels }}`
}

// ofCluster names the cluster, and where it is.
func (f form) ofCluster() string {
	const name, place = "{{ with $labels.%s }} of cluster {{ . }}{{ end }}", "{{ with $labels.%s }} in {{ . }}{{ end }}"
	labels := slices.Clone(f.clusterLabels())
	if labels == nil {
		return "{{ range $i, $label := reverse .Values.monitoring.rules.values.clusterLabels }}{{ if $i }}" +
			strings.ReplaceAll(f.text(place), "%s", "{{ $label }}") + "{{ else }}" + strings.ReplaceAll(f.text(name), "%s", "{{ $label }}") + "{{ end }}{{ end }}"
	}
	slices.Reverse(labels)
	all := []string{strings.ReplaceAll(f.text(name), "%s", labels[0])}
	for _, l := range labels[1:] {
		all = append(all, strings.ReplaceAll(f.text(place), "%s", l))
	}
	return strings.Join(all, "")
}

// selector and args are those of a query within a text, for printf.
func (f form) selector() string { return f.each("%s=%q,") }
func (f form) args() string     { return f.each("$labels.%s ") }

// failing asks which requests for the ServiceAccount fail.
func (f form) failing() string {
	return "sum by (resource, reason) (increase(workload_identity_kubernetes_request_failures_total{" + f.selector() +
		"node=%q,resource=\\\"serviceaccounts\\\"}[1h])) > 0"
}

// nodeElse puts the next best label of the target in the place of node. Those of older
// configurations that follow the annotations of Pods have a name of their own.
const nodeElse = `, "target_name", ";", "node", "nodename", "kubernetes_node", "pod", "kubernetes_pod_name", "instance"), "node", "$1", "target_name", ";*([^;]+).*")`

// wrongShare is the share of answers in the window that give a wrong identity, among
// those that give one, of the agents that got a wrong one.
func (f form) wrongShare(window string) string {
	only := " and on (" + f.agent() + ") " + increase(wrong, window) + " > 0"
	return f.sum(increase(wrong, window)+" > 0") + " / " + f.sum(increase(wrong+"|"+right, window)+only)
}

// statedShare is the same share of the agents that state a wrong identity, whatever they got.
func (f form) statedShare(window string) string {
	only := " and on (" + f.agent() + ") workload_identity_state{state=~\"" + wrong + "\"} == 1"
	return f.sum(increase(wrong, window)+only) + " / " + f.sum(increase(wrong+"|"+right, window)+only)
}

// mixed are the nodes of agents that got both wrong and right answers in the window.
func (f form) mixed(window string) string {
	return f.sum(increase(right, window) + " > 0 and on (" + f.agent() + ") " + increase(wrong, window) + " > 0")
}

func increase(states, window string) string {
	return "increase(workload_identity_verdicts_total{state=~\"" + states + "\"}[" + window + "])"
}

// agent are the labels by which agents differ.
func (f form) agent() string { return f.cluster() + ", namespace, job, instance" }

// sum adds what the agents of a node have. Most agents have nothing of it, so that their
// labels are looked at last.
func (f form) sum(series string) string {
	return "sum by (" + f.cluster() + ", node) (label_replace(label_join(" + series + nodeElse + ")"
}

// said is what each agent said last, within the memory, with when that was as its value.
// Labels are looked at only where there is no node: of 15,000 agents that takes its time.
func (f form) said(selector string) string {
	last := func(node string) string {
		return "last_over_time(workload_identity_verdict_timestamp_seconds{" + selector + "," + node + "}[" + fmt.Sprint(f.values["memory"]) + "])"
	}
	return "(" + last(`node!=""`) + " or label_replace(label_join(" + last(`node=""`) + nodeElse + ")"
}

// severity is a number for each state, the greater the worse, beside which any time is small.
func severity() string {
	var all []string
	for _, s := range identity.States() {
		of := "2e10"
		switch {
		case s == identity.Starting:
			continue
		case s == identity.Match:
			of = "1e10"
		case s.Accuses():
			of = "3e10"
		}
		all = append(all, "label_replace(vector("+of+`), "state", "`+string(s)+`", "", "")`)
	}
	return strings.Join(all, " or ")
}

// last are the agents whose last word is the state, from raw series.
func (f form) last(state string) string {
	by := "(" + f.cluster() + ", node, namespace, job) "
	return f.said(`state="`+state+`"`) + " == on " + by + "group_left () max by " + by + "(" + f.said(`state!="starting"`) + ")"
}

// paging are the states whose nodes page.
var paging = []string{"node_fallback", "mismatch"}

// perNode are the nodes in a state, 1 for each, with the identities. Of a cluster that has
// more of them than nodeAlerts it is how many they are: Prometheus parses and
// executes the template of each alert's text at each evaluation, which takes
// 0.7 ms, and 15,000 alerts would take all of the interval.
func (f form) perNode(state string) string {
	nodes := `max without (state) (workload_identity:node:verdict{state="` + state + `"})`
	count := recordedCount(state)
	if f.gmp && slices.Contains(paging, state) {
		nodes = "topk by (" + f.cluster() + ", node) (1, max by (" + f.cluster() + ", node, expected, observed, metadata_server) (" + f.last(state) + ")) > bool 0"
		count = "count by (" + f.cluster() + `) (workload_identity_state{state="` + state + `"} == 1)` // cheaper than what was said last
	}
	many := count + " > " + fmt.Sprint(f.values["nodeAlerts"])
	return nodes + `
            unless on (` + f.cluster() + `)
          ` + many + `
            or
          count without (node) (` + nodes + `)
            and on (` + f.cluster() + `)
          ` + many
}

// share of the nodes of a cluster that are in a state, and count of them.
func (f form) share(state string) string {
	if !f.gmp {
		return `workload_identity:cluster_state:share{state="` + state + `"}`
	}
	all := "count by (" + f.cluster() + ") (group by (" + f.cluster() + ", node) (" + f.said(`state!="starting"`) + "))"
	return f.count(state) + " / on (" + f.cluster() + ") " + all
}

func (f form) count(state string) string {
	if !f.gmp {
		return recordedCount(state)
	}
	return "count by (" + f.cluster() + ") (group by (" + f.cluster() + ", node) (" + f.last(state) + "))"
}

// nodes names those of an alert by perNode.
func (f form) nodes(ofCluster string) string {
	return f.text("{{ with $labels.node }}{{ . }}{{ else }}{{ $value }} nodes") + ofCluster + f.text("{{ end }}")
}

func recordedCount(state string) string {
	return `workload_identity:cluster_state:nodes{state="` + state + `"}`
}

// suspects begins a text: what the agent suspects and what to do first. What stands
// between it and endSuspects is said if it suspects nothing.
func (f form) suspects(state identity.State) string {
	query := "group by (cause) (last_over_time(workload_identity_suspected_cause{" + f.selector() + "node%s}[" + fmt.Sprint(f.values["memory"]) + "]))"
	return f.text(`{{ with printf "`) + query + f.text(`" `) + f.args() + f.text(`(or (and $labels.node (printf "=%q" $labels.node)) "!=\"\"") | query | sortByLabel "cause" }}Suspected: `+
		`{{ range $i, $s := . }}{{ if $i }}; {{ end }}`) + f.titled("$s.Labels.cause", state) + f.text(`{{ end }}.`+"\n            "+
		`First: {{ if eq (len .) 1 }}{{ $cause := (. | first).Labels.cause }}`) + f.firstStep("$cause", state) + f.text(`{{ else }}tell them apart by the runbook.{{ end }}`+
		"{{ else }}Likely cause: ")
}

// suspectsCluster is the same for the three most frequent causes in a cluster. What to
// do about the first comes before the others, so that it is read without scrolling.
func (f form) suspectsCluster(state identity.State) string {
	query := "topk(3, count by (cause) (group by (node, instance, cause) (last_over_time(workload_identity_suspected_cause{" + f.selector() + "cause!=\\\"\\\"}[" + fmt.Sprint(f.values["memory"]) + "]))))"
	return f.text(`{{ with printf "`) + query + f.text(`" `) + f.args() + f.text(`| query }}{{ range $i, $s := . }}`+
		`{{ if $i }} Also suspected: {{ else }}Suspected: {{ end }}`) + f.titled("$s.Labels.cause", state) + f.text(`, on {{ $s.Value }} node{{ if ne $s.Value 1.0 }}s{{ end }}.`+
		`{{ if not $i }}`+"\n            "+`First: `) + f.firstStep("$s.Labels.cause", state) + f.text(`{{ end }}{{ end }}`+
		"{{ else }}Likely cause: ")
}

// titled says the cause, which the expression gives, with its title for people before it.
// What does not explain the state stays as it is. Each alert has its text made at each
// evaluation, so it compares words: a regular expression would be compiled each time.
func (f form) titled(cause string, state identity.State) string {
	return f.chosen(cause, state, func(g diagnose.Guide) string { return g.Title + " (" + string(g.Cause) + ")" }, "{{ "+cause+" }}")
}

// firstStep says the first thing to do. Of a cause that does not explain the state only
// the label is known.
func (f form) firstStep(cause string, state identity.State) string {
	return f.chosen(cause, state, func(g diagnose.Guide) string { return g.Remedy }, "Look it up in the runbook.")
}

func (f form) chosen(cause string, state identity.State, text func(diagnose.Guide) string, otherwise string) string {
	var chain strings.Builder
	word := "if"
	for _, g := range diagnose.Guides() {
		if slices.Contains(g.States, state) {
			fmt.Fprintf(&chain, "{{ %s eq %s %q\n            }}%s", word, cause, g.Cause, text(g))
			word = "else if"
		}
	}
	return f.text(chain.String() + "{{ else }}" + otherwise + "{{ end }}")
}

// dashboard links to the page of the cluster or the node, that of the cluster if the
// alert names no node, and to nothing where nobody said where Grafana is.
func (f form) dashboard(page string) string {
	node := ""
	if page == "node" {
		page, node = f.text("{{ if $labels.node }}node{{ else }}cluster{{ end }}"), f.text("&var-node={{ $labels.node }}")
	}
	link := fmt.Sprint(f.values["grafana"]) + "/d/workload-identity-" + page + "?from=now-1h" + f.each("&var-%s={{ $labels.%s }}") + node
	switch {
	case f.chart:
		return "{{ if .Values.monitoring.rules.values.grafana }}" + link + "{{ end }}"
	case f.values["grafana"] == "":
		return ""
	}
	return link
}
