package plugin

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// destination is a request to the metadata server, as those see it who enforce policies.
type destination struct {
	netip.AddrPort
	// host: it has become one to the node itself, which no CIDR is.
	host bool
}

func (d destination) String() string {
	if d.host {
		return "host:" + strconv.Itoa(int(d.Port()))
	}
	return d.AddrPort.String()
}

// egressPolicy is a policy with its answers about the metadata server.
type egressPolicy struct {
	name    string
	selects func(Pod) diagnose.Tristate
	// isolates: what it does not allow is dropped, unless another one allows it.
	isolates       bool
	allows, denies diagnose.Tristate
}

// compile asks each policy once whether it lets to the metadata server. Dataplane V2 and
// Cilium look at a request before the node's redirect, but behind a local redirect
// policy; others look behind the redirect.
func (a *audit) compile() {
	v1 := destination{AddrPort: netip.MustParseAddrPort("169.254.169.252:988")}
	cilium := destination{AddrPort: netip.MustParseAddrPort(metadataIPv4 + ":80")}
	switch a.datapath.runs {
	case diagnose.No:
		a.servers = []destination{v1}
	case diagnose.Yes:
		a.servers = []destination{cilium}
	case diagnose.Unknown:
		a.servers = []destination{cilium, v1}
	}
	if len(a.inventory.redirects()) > 0 {
		a.servers = append(a.servers, destination{v1.AddrPort, true})
	}
	a.egress = map[string][]egressPolicy{}
	for _, n := range a.inventory.Policies {
		selector, err := metav1.LabelSelectorAsSelector(&n.Spec.PodSelector)
		if err != nil || !n.forEgress() {
			continue
		}
		p := egressPolicy{name: n.Metadata.Name, isolates: true, selects: func(p Pod) diagnose.Tristate {
			return tristate(selector.Matches(labels.Set(p.Metadata.Labels)))
		}}
		p.allows = tristate(slices.ContainsFunc(a.servers, n.allows))
		a.egress[n.Metadata.Namespace] = append(a.egress[n.Metadata.Namespace], p)
	}
	if a.datapath.runs != diagnose.Yes {
		return // nobody enforces what is there
	}
	for _, c := range a.inventory.CiliumPolicies {
		rules, kind := c.Specs, "CiliumNetworkPolicy "
		if c.Spec != nil {
			rules = append([]ciliumRule{*c.Spec}, rules...)
		}
		if c.Metadata.Namespace == "" {
			kind = "CiliumClusterwideNetworkPolicy "
		}
		for _, r := range rules {
			if r.Selector == nil {
				continue
			}
			p := egressPolicy{name: kind + c.Metadata.Name, selects: endpoints(*r.Selector, a.datapath.settings.Cilium.Data["labels"] != "")}
			p.isolates = len(r.Egress)+len(r.Deny) > 0
			if r.Default.Egress != nil {
				p.isolates = *r.Default.Egress
			}
			p.allows = any3(r.Egress, a.servers)
			// Where it may be seen in several ways, no one of them is all that counts.
			if p.denies = any3(r.Deny, a.servers); len(a.servers) > 1 {
				p.denies = diagnose.No
			}
			a.egress[c.Metadata.Namespace] = append(a.egress[c.Metadata.Namespace], p)
		}
	}
}

// policies evaluates them, once for Pods that are the same to them.
func (a *audit) policies(object string, p Pod) {
	if !a.enforced() {
		return
	}
	of := dropped{p.shape, p.account()}
	why, ok := a.drops[of]
	if !ok {
		why = a.why(p)
		a.drops[of] = why
	}
	if why != "" {
		a.found(policyDrops, object, "%s", why)
	}
}

// why they drop requests, empty if they do not: a Pod that one selects for egress may do what any of them
// allows, and nothing else; with Cilium those of all kinds together, and a denial wins.
// Where something cannot be told, nothing is found.
func (a *audit) why(p Pod) string {
	var selecting []string
	allowed := false
	for _, n := range slices.Concat(a.egress[p.Metadata.Namespace], a.egress[""]) {
		selects := n.selects(p)
		if selects == diagnose.Yes && n.denies == diagnose.Yes {
			return fmt.Sprintf("%s selects it, and denies TCP %s", n.name, a.servers[0])
		}
		allowed = allowed || selects != diagnose.No && n.allows != diagnose.No
		if selects == diagnose.Yes && n.isolates {
			selecting = append(selecting, n.name)
		}
	}
	if len(selecting) == 0 || allowed {
		return ""
	}
	slices.Sort(selecting)
	return fmt.Sprintf("%s select it for egress, and none allows TCP %s", strings.Join(slices.Compact(selecting), ", "), a.servers[0])
}

// enforced reports whether all policies are known that may allow something, and are obeyed.
func (a *audit) enforced() bool {
	cilium := a.datapath.settings.Cilium.Data
	unread := a.inventory.Unread
	return !slices.Contains(unread, "NetworkPolicy") && cilium["enable-policy"] != "never" && cilium["policy-audit-mode"] != "true" &&
		(a.inventory.Dump || !slices.Contains(unread, "CiliumNetworkPolicy") && !slices.Contains(unread, "CiliumClusterwideNetworkPolicy"))
}

// allows tells whether a rule lets TCP to the address. A peer that selects Pods or
// namespaces does not: what answers there is no Pod.
func (n NetworkPolicy) allows(server destination) bool {
	port := int(server.Port())
	for _, rule := range n.Spec.Egress {
		to := len(rule.To) == 0
		for _, peer := range rule.To {
			if b := peer.IPBlock; b != nil && !server.host && in(b.CIDR, b.Except, server.Addr()) {
				to = true
			}
		}
		by := len(rule.Ports) == 0
		for _, q := range rule.Ports {
			if q.Protocol != "" && q.Protocol != "TCP" {
				continue
			}
			var number int
			switch err := json.Unmarshal(q.Port, &number); {
			case len(q.Port) == 0: // every port
				by = true
			case err != nil: // a name, which is that of a container's port
			case number == port, number <= port && port <= q.EndPort:
				by = true
			}
		}
		if to && by {
			return true
		}
	}
	return false
}

func in(cidr string, except []string, address netip.Addr) bool {
	return contains(cidr, address) && !slices.ContainsFunc(except, func(c string) bool { return contains(c, address) })
}

func tristate(b bool) diagnose.Tristate {
	if b {
		return diagnose.Yes
	}
	return diagnose.No
}

func both(a, b diagnose.Tristate) diagnose.Tristate {
	switch {
	case a == diagnose.No || b == diagnose.No:
		return diagnose.No
	case a == diagnose.Yes && b == diagnose.Yes:
		return diagnose.Yes
	}
	return diagnose.Unknown
}
