package plugin

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// byPolicy is the outlook of Pods that only a local redirect policy keeps from the VM's
// metadata server, while its backend is ready.
const byPolicy diagnose.Outlook = "policy"

// Forecast is what the next restart of Cilium's agents brings, without and with a change.
type Forecast struct {
	// Changes are the settings that become others, in the order of their names.
	Changes []Setting   `json:"changes"`
	Nodes   []NodesThen `json:"nodes"`
	Pods    []PodsThen  `json:"pods"`
	// Others is how many Pods of ServiceAccounts without an annotation run on the nodes
	// whose Pods will get the node's identity: they get its rights.
	Others int      `json:"other_pods_with_the_nodes_rights"`
	Unread []string `json:"unread"`
}

// Setting is one that becomes another; absent is empty.
type Setting struct {
	Key  string `json:"key"`
	From string `json:"from"`
	To   string `json:"to"`
}

// NodesThen are nodes with the same outlook for the same reasons.
type NodesThen struct {
	Nodes       []string         `json:"nodes"`
	NodeConfigs []string         `json:"cilium_node_configs,omitempty"`
	Now         diagnose.Outlook `json:"now"`
	Then        diagnose.Outlook `json:"then"`
	// Why quotes the settings that decide it, with the change.
	Why     string `json:"why"`
	Remedy  string `json:"remedy,omitempty"`
	Runbook string `json:"runbook,omitempty"`
	// Anyway: the node has no GKE metadata server, so that nothing hangs on Cilium.
	Anyway bool `json:"anyway,omitempty"`
}

// PodsThen are the Pods of one owner, on nodes with the same outlook.
type PodsThen struct {
	Object         string           `json:"object"`
	ServiceAccount string           `json:"service_account"`
	Email          string           `json:"email"`
	Pods           int              `json:"pods"`
	Now            diagnose.Outlook `json:"now"`
	Then           diagnose.Outlook `json:"then"`
}

// WhatIf asks what the next restart of Cilium's agents brings with the change.
func WhatIf(i Inventory, c Change) Forecast {
	now := i.datapath()
	then := now
	then.settings.Cilium = c.cilium(now.settings.Cilium)
	if c.IPMasqAgent != "" {
		then.settings.IPMasqAgent = diagnose.ConfigMap{State: diagnose.Read, Data: map[string]string{"config": c.IPMasqAgent}}
	}
	f := Forecast{Changes: changes(now.settings, then.settings), Nodes: []NodesThen{}, Pods: []PodsThen{}, Unread: append([]string{}, i.Unread...)}
	at := map[string]NodesThen{}
	// The groups are the same before and after: what selects a node stays.
	before, after := now.groups(i.Nodes), then.groups(i.Nodes)
	for n, g := range after {
		row := NodesThen{Nodes: g.nodes, NodeConfigs: g.configs, Anyway: !g.server}
		if row.Anyway {
			row.Now, row.Then = diagnose.OutlookNode, diagnose.OutlookNode
			row.Why = "The nodes lack the label " + diagnose.LabelMetadataServer + "=true: they have no GKE metadata server, whatever Cilium does."
		} else {
			row.Now, _ = i.outlook(before[n].settings)
			row.Then, row.Why = i.outlook(g.settings)
			if threats := diagnose.Threats(g.settings); len(threats) > 0 && row.Then != diagnose.OutlookOwn {
				row.Remedy, row.Runbook = threats[0].Remedy.Text, threats[0].Runbook
			}
		}
		f.Nodes = append(f.Nodes, row)
		for _, name := range g.nodes {
			at[name] = row
		}
	}
	f.workloads(i, at)
	slices.SortStableFunc(f.Nodes, func(a, b NodesThen) int {
		return cmp.Or(cmp.Compare(severity(a.Then), severity(b.Then)), cmp.Compare(strconv.FormatBool(a.Anyway), strconv.FormatBool(b.Anyway)))
	})
	return f
}

// workloads fills in the Pods that have an identity to lose.
func (f *Forecast) workloads(i Inventory, at map[string]NodesThen) {
	emails := i.emails()
	type key struct {
		object, account string
		now, then       diagnose.Outlook
	}
	pods := map[key]int{}
	for _, p := range i.Pods {
		row, ok := at[p.Spec.NodeName]
		if !ok || p.ended() || p.Spec.HostNetwork {
			continue
		}
		if emails[p.account()] != "" {
			pods[key{p.owner(), p.account(), row.Now, row.Then}]++
		} else if row.Then == diagnose.OutlookNode && !row.Anyway {
			f.Others++
		}
	}
	for k, n := range pods {
		f.Pods = append(f.Pods, PodsThen{shown(k.object), shown(k.account), emails[k.account], n, k.now, k.then})
	}
	slices.SortFunc(f.Pods, func(a, b PodsThen) int {
		return cmp.Or(cmp.Compare(severity(a.Then), severity(b.Then)), cmp.Compare(a.Object, b.Object), cmp.Compare(a.ServiceAccount, b.ServiceAccount), cmp.Compare(severity(a.Now), severity(b.Now)))
	})
}

// cilium is cilium-config with the change.
func (c Change) cilium(now diagnose.ConfigMap) diagnose.ConfigMap {
	data := map[string]string{}
	if !c.Whole {
		maps.Copy(data, now.Data)
	}
	maps.Copy(data, c.Set)
	if c.Whole {
		now.State = diagnose.Read
	}
	now.Data = data
	return now
}

func changes(from, to diagnose.Settings) []Setting {
	var all []Setting
	differ := func(key, a, b string) {
		if a != b {
			all = append(all, Setting{shown(key), shown(a), shown(b)})
		}
	}
	keys := map[string]bool{}
	for _, m := range []map[string]string{from.Cilium.Data, to.Cilium.Data} {
		for k := range m {
			keys[k] = true
		}
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		differ(k, from.Cilium.Data[k], to.Cilium.Data[k])
	}
	differ("ip-masq-agent", from.IPMasqAgent.Data["config"], to.IPMasqAgent.Data["config"])
	return all
}

// outlook is that of diagnose, beside the policies that there are.
func (i Inventory) outlook(s diagnose.Settings) (diagnose.Outlook, string) {
	outlook, why := diagnose.Foresee(s)
	policies := i.redirects()
	if outlook != diagnose.OutlookNode || len(policies) == 0 {
		return outlook, why
	}
	for _, t := range diagnose.Threats(s) {
		if t.Cause == diagnose.LocalRedirectDormant {
			return byPolicy, t.Why + " It is " + strings.Join(policies, ", ") + "."
		}
	}
	return outlook, why
}

// severity sorts the worst first.
func severity(o diagnose.Outlook) int {
	if o == byPolicy {
		return 2*slices.Index(diagnose.Outlooks(), diagnose.OutlookUnknown) - 1
	}
	return 2 * slices.Index(diagnose.Outlooks(), o)
}

// ExitCode is that of `check` for the worst that Cilium brings about.
func (f Forecast) ExitCode() int {
	code := report.ExitMatch
	if len(f.Nodes) == 0 {
		code = report.ExitInconclusive
	}
	for _, n := range f.Nodes {
		switch {
		case n.Anyway || n.Then == diagnose.OutlookOwn:
		case n.Then == diagnose.OutlookNode || n.Then == diagnose.OutlookNoStart:
			return report.ExitWrong
		default:
			code = report.ExitInconclusive
		}
	}
	return code
}

// PrintForecast writes it in one of the Formats.
func PrintForecast(w io.Writer, f Forecast, format string) error {
	if format == "json" || format == "yaml" {
		return object(w, f, format)
	}
	for _, c := range f.Changes {
		fmt.Fprintf(w, "%s: %s becomes %s\n", c.Key, orUnset(c.From), orUnset(c.To))
	}
	if len(f.Changes) == 0 {
		fmt.Fprintln(w, "No setting changes.")
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "NODES\tNOW\tTHEN\tWHY")
	for _, n := range f.Nodes {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", some(n.Nodes, format), n.Now, n.Then, n.Why)
		if format == "wide" && n.Remedy != "" {
			fmt.Fprintf(t, "\t\t\tremedy: %s\n\t\t\tmore: %s\n", n.Remedy, n.Runbook)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(f.Pods) > 0 {
		fmt.Fprintln(t, "\nPODS OF\tNOW\tTHEN\tTHEIR IDENTITY")
	}
	lose, will := 0, map[diagnose.Outlook]int{}
	for _, p := range f.Pods {
		fmt.Fprintf(t, "%s (%d)\t%s\t%s\t%s\n", p.Object, p.Pods, p.Now, p.Then, p.Email)
		will[p.Then] += p.Pods
		if p.Now != diagnose.OutlookNode && p.Then == diagnose.OutlookNode {
			lose += p.Pods
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	says := fmt.Sprintf("\nPods of annotated ServiceAccounts after the next restart of Cilium's agents: %d with the node's identity, %d of them by this change; %d with their own.",
		will[diagnose.OutlookNode], lose, will[diagnose.OutlookOwn])
	if f.Others > 0 {
		says += fmt.Sprintf(" Other Pods that get the node's rights: %d.", f.Others)
	}
	if n := will[diagnose.OutlookNoStart]; n > 0 {
		says += fmt.Sprintf(" Where Cilium's agents do not start, Pods keep the network that they have, and new ones get none: %d.", n)
	}
	if len(f.Unread) > 0 {
		says += " Nothing was read of the kinds " + strings.Join(f.Unread, ", ") + "."
	}
	_, err := fmt.Fprintln(w, says)
	return err
}

func orUnset(s string) string {
	if s == "" {
		return "not set"
	}
	return fmt.Sprintf("%q", s)
}

// some names a few of the nodes, or all if there is room.
func some(names []string, format string) string {
	const few = 2
	if len(names) <= few+1 || format == "wide" {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
