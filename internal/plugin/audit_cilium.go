package plugin

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// EgressGatewayPolicy is what is read of a CiliumEgressGatewayPolicy.
type EgressGatewayPolicy struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Selectors []struct {
			Pods       *metav1.LabelSelector `json:"podSelector"`
			Namespaces *metav1.LabelSelector `json:"namespaceSelector"`
			Nodes      *metav1.LabelSelector `json:"nodeSelector"`
		} `json:"selectors"`
		Destinations []string `json:"destinationCIDRs"`
		Excluded     []string `json:"excludedCIDRs"`
	} `json:"spec"`
}

// causes are the checks for what diagnose finds in the settings.
var causes = map[diagnose.Cause]Check{
	diagnose.CiliumBPFHostRouting:         hostRouting,
	diagnose.CiliumNoConntrack:            noConntrack,
	diagnose.CiliumBPFMasqueradeLinkLocal: linkLocal,
	diagnose.IPMasqAgentLinkLocal:         linkLocal,
}

// cilium looks at its settings, and at the policies of the cluster.
func (a *audit) cilium() {
	for _, g := range a.datapath.groups(a.inventory.Nodes) {
		if g.server {
			a.nodes(g)
		}
	}
	for _, n := range a.inventory.Nodes {
		for _, t := range n.Spec.Taints {
			if t.Key == "node.cilium.io/agent-not-ready" {
				a.found(ciliumNotReady, "Node "+n.Metadata.Name, "it has the taint %s", t.Key)
			}
		}
	}
	a.nodeConfigs()
	if a.datapath.runs == diagnose.Yes {
		a.gateways()
	}
}

// nodes are those of one group, whose Pods have GKE's metadata server to lose.
func (a *audit) nodes(g *nodeGroup) {
	object := "Node " + some(g.nodes, "")
	policies := a.inventory.redirects()
	threats := diagnose.Threats(g.settings)
	dormant := slices.IndexFunc(threats, func(t diagnose.Finding) bool { return t.Cause == diagnose.LocalRedirectDormant })
	for n, t := range threats {
		c, ok := causes[t.Cause]
		switch {
		case n == dormant && len(policies) > 0:
			c, ok = onlyRedirect, true
		case dormant >= 0 && len(policies) > 0 && t.Cause == diagnose.CiliumBPFHostRouting:
			continue // the policy keeps them from it
		}
		if ok {
			a.add(Finding{c.Code, c.Severity, object, c.What, a.because(t, g.settings), t.Remedy.Text, t.Runbook})
		}
	}
	if !diagnose.ObeysRedirects(g.settings) || slices.Contains(a.inventory.Unread, "CiliumLocalRedirectPolicy") {
		return
	}
	for _, r := range a.inventory.Redirects {
		if r.forMetadata() {
			a.backends(r, g, dormant >= 0)
		}
	}
}

// because is what the settings say. That Pods get the right identity now, as the agent
// says of a risk, is not known here.
func (a *audit) because(t diagnose.Finding, s diagnose.Settings) string {
	if causes[t.Cause] == linkLocal {
		_, why, _ := strings.Cut(t.Why, ", but ")
		return why
	}
	_, why := diagnose.Foresee(s)
	if t.Cause == diagnose.LocalRedirectDormant {
		why += " Before that there is " + strings.Join(a.inventory.redirects(), ", ") + "."
	}
	return why
}

// backends looks at those of a local redirect policy on the nodes. While there is none that
// is ready, requests go on to where they would without the policy.
func (a *audit) backends(r RedirectPolicy, g *nodeGroup, alone bool) {
	selector, err := metav1.LabelSelectorAsSelector(&r.Spec.Backend.Selector)
	pods := a.podsOf(r.Metadata.Namespace)
	if err != nil || pods == nil {
		return // nobody may see them
	}
	name := "CiliumLocalRedirectPolicy " + r.Metadata.Namespace + "/" + r.Metadata.Name
	ready := map[string]bool{}
	for _, p := range pods {
		if !selector.Matches(labels.Set(p.Metadata.Labels)) || !slices.Contains(g.nodes, p.Spec.NodeName) {
			continue
		}
		ready[p.Spec.NodeName] = ready[p.Spec.NodeName] || is(p.Status.Conditions, "Ready")
		for _, b := range r.Spec.Backend.Ports {
			if where := p.listensOn("169.254.169.252:" + b.Port); where != "" {
				a.found(redirectAddress, name, "container %s of %s listens on 169.254.169.252:%s, and the policy sends requests to the node's own address", where, p.owner(), b.Port)
			}
		}
	}
	var without []string
	for _, n := range g.nodes {
		if !ready[n] {
			without = append(without, n)
		}
	}
	if alone && len(without) > 0 {
		a.found(redirectNotReady, name, "no Pod that it selects is ready on %s", some(without, ""))
	}
}

// podsOf are the Pods of a namespace, nil if they are not known.
func (a *audit) podsOf(namespace string) []Pod {
	var pods []Pod
	for _, p := range a.inventory.Pods {
		if p.Metadata.Namespace == namespace {
			pods = append(pods, p)
		}
	}
	if a.inventory.Namespace != "" && a.inventory.Namespace != namespace {
		return nil
	}
	return append(make([]Pod, 0, len(pods)), pods...)
}

// listensOn names the container of a hostNetwork Pod that is told to listen on the address.
func (p Pod) listensOn(address string) string {
	for _, c := range p.Spec.Containers {
		for _, word := range slices.Concat(c.Command, c.Args) {
			if p.Spec.HostNetwork && (word == address || strings.HasSuffix(word, "="+address)) {
				return c.Name
			}
		}
	}
	return ""
}

// nodeConfigs names what decides for some nodes alone.
func (a *audit) nodeConfigs() {
	for _, c := range a.datapath.configs {
		var keys []string
		for _, key := range slices.Sorted(maps.Keys(c.Spec.Defaults)) {
			if diagnose.Decides(key) && c.Spec.Defaults[key] != a.datapath.settings.Cilium.Data[key] {
				keys = append(keys, key+" is "+strconv.Quote(shown(c.Spec.Defaults[key])))
			}
		}
		nodes := 0
		for _, n := range a.inventory.Nodes {
			if c.selects(n) {
				nodes++
			}
		}
		if len(keys) > 0 && nodes > 0 && a.datapath.settings.DataplaneV2 != diagnose.Yes {
			a.found(perNode, "CiliumNodeConfig "+c.Metadata.Namespace+"/"+c.Metadata.Name, "on %d of %d nodes %s", nodes, len(a.inventory.Nodes), strings.Join(keys, ", "))
		}
	}
}

// gateways looks for policies that take what Pods of annotated ServiceAccounts send to
// the metadata server. One that selects by labels that are not known here is left out.
func (a *audit) gateways() {
	on := a.datapath.settings.Cilium.Data
	if on["enable-egress-gateway"] != "true" && on["enable-ipv4-egress-gateway"] != "true" {
		return
	}
	nodes := map[string]labels.Set{}
	for _, n := range a.inventory.Nodes {
		nodes[n.Metadata.Name] = n.Metadata.Labels
	}
	for _, g := range a.inventory.Gateways {
		caught := ""
		for _, cidr := range g.Spec.Destinations {
			if in(cidr, g.Spec.Excluded, a.servers[0].Addr()) {
				caught = cidr
			}
		}
		if caught == "" {
			continue
		}
		for _, p := range a.inventory.Pods {
			if a.emails[p.account()] == "" || p.Spec.HostNetwork || p.ended() || !g.selects(p, nodes[p.Spec.NodeName]) {
				continue
			}
			a.found(gateway, "CiliumEgressGatewayPolicy "+g.Metadata.Name, "destinationCIDRs have %s, excludedCIDRs do not have %s, and it selects %s", caught, metadataIPv4, p.owner())
			break
		}
	}
}

func (g EgressGatewayPolicy) selects(p Pod, node labels.Set) bool {
	for _, s := range g.Spec.Selectors {
		all := true
		for _, part := range []struct {
			by *metav1.LabelSelector
			of labels.Labels
		}{{s.Pods, endpoint{p}}, {s.Namespaces, labels.Set{"kubernetes.io/metadata.name": p.Metadata.Namespace}}, {s.Nodes, node}} {
			if part.by == nil {
				continue
			}
			selector, err := metav1.LabelSelectorAsSelector(part.by)
			negative := slices.ContainsFunc(part.by.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
				return e.Operator == metav1.LabelSelectorOpNotIn || e.Operator == metav1.LabelSelectorOpDoesNotExist
			})
			// Of a namespace only the name is known, so that what it lacks is not.
			all = all && err == nil && selector.Matches(part.of) && (part.by != s.Namespaces || !negative)
		}
		if all {
			return true
		}
	}
	return false
}
