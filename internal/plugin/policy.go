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

// CiliumPolicy is what is read of a CiliumNetworkPolicy, or a clusterwide one.
type CiliumPolicy struct {
	Metadata meta         `json:"metadata"`
	Spec     *ciliumRule  `json:"spec"`
	Specs    []ciliumRule `json:"specs"`
}

type ciliumRule struct {
	Selector *metav1.LabelSelector `json:"endpointSelector"` // or it is about nodes
	Egress   []ciliumEgress        `json:"egress"`
	Deny     []ciliumEgress        `json:"egressDeny"`
	Default  struct {
		Egress *bool `json:"egress"`
	} `json:"enableDefaultDeny"`
}

// ciliumEgress is a rule. Of peers of which it cannot be told here where they are it is
// only known that they are there.
type ciliumEgress struct {
	CIDRs    []string `json:"toCIDR"`
	CIDRSets []struct {
		CIDR   string   `json:"cidr"`
		Except []string `json:"except"`
	} `json:"toCIDRSet"`
	Entities  []string               `json:"toEntities"`
	Endpoints []metav1.LabelSelector `json:"toEndpoints"`
	Nodes     []json.RawMessage      `json:"toNodes"`
	Services  []json.RawMessage      `json:"toServices"`
	Groups    []json.RawMessage      `json:"toGroups"`
	FQDNs     []struct {
		Name    string `json:"matchName"`
		Pattern string `json:"matchPattern"`
	} `json:"toFQDNs"`
	ICMPs []json.RawMessage `json:"icmps"`
	Ports []struct {
		Ports []struct {
			Port     string `json:"port"`
			EndPort  int    `json:"endPort"`
			Protocol string `json:"protocol"`
		} `json:"ports"`
		Rules json.RawMessage `json:"rules"`
	} `json:"toPorts"`
}

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

// any3 tells whether one of the rules is about one of the destinations.
func any3(rules []ciliumEgress, to []destination) diagnose.Tristate {
	is := diagnose.No
	for _, r := range rules {
		for _, d := range to {
			switch both(r.to(d), r.by(int(d.Port()))) {
			case diagnose.Yes:
				return diagnose.Yes
			case diagnose.Unknown:
				is = diagnose.Unknown
			case diagnose.No:
			}
		}
	}
	return is
}

// to tells whether the destination is one of the peers. A rule without peers and ports
// allows nothing (Cilium documentation, "Egress Default Deny").
func (r ciliumEgress) to(d destination) diagnose.Tristate {
	peers := len(r.CIDRs) + len(r.CIDRSets) + len(r.Entities) + len(r.Endpoints) + len(r.Nodes) + len(r.Services) + len(r.Groups) + len(r.FQDNs)
	if peers == 0 {
		return tristate(len(r.Ports) > 0)
	}
	for _, e := range r.Entities {
		if e == "all" || !d.host && e == "world" || d.host && (e == "host" || e == "cluster") {
			return diagnose.Yes
		}
	}
	is := diagnose.No
	// What has no IPv6 beside it may be in the world alone (cilium/cilium#29958).
	if !d.host && slices.Contains(r.Entities, "world-ipv4") {
		is = diagnose.Unknown
	}
	// toCIDR never means the node.
	for _, c := range r.CIDRs {
		if !d.host && contains(c, d.Addr()) {
			return diagnose.Yes
		}
	}
	for _, c := range r.CIDRSets {
		if c.CIDR == "" {
			is = diagnose.Unknown // a CiliumCIDRGroup
		} else if !d.host && in(c.CIDR, c.Except, d.Addr()) {
			return diagnose.Yes
		}
	}
	for _, f := range r.FQDNs {
		if f.Pattern != "" || strings.TrimSuffix(f.Name, ".") == "metadata.google.internal" {
			is = diagnose.Unknown // it depends on what DNS said
		}
	}
	for _, e := range r.Endpoints {
		if text, err := json.Marshal(e); err != nil || strings.Contains(string(text), "reserved") {
			is = diagnose.Unknown
		}
	}
	if len(r.Services) > 0 || d.host && len(r.Nodes) > 0 {
		is = diagnose.Unknown
	}
	return is
}

// by tells whether TCP to the port is meant. Which requests L7 rules let through is not looked at.
func (r ciliumEgress) by(port int) diagnose.Tristate {
	if len(r.Ports) == 0 {
		return tristate(len(r.ICMPs) == 0)
	}
	is := diagnose.No
	for _, p := range r.Ports {
		here := tristate(len(p.Ports) == 0)
		for _, q := range p.Ports {
			number, err := strconv.Atoi(q.Port)
			switch {
			case q.Protocol != "" && q.Protocol != "TCP" && q.Protocol != "ANY":
			case err != nil: // a name
				here = diagnose.Unknown
			case number == 0, number == port, number <= port && port <= q.EndPort:
				here = diagnose.Yes
			}
			if here == diagnose.Yes {
				break
			}
		}
		if here == diagnose.Yes && len(p.Rules) > 0 {
			here = diagnose.Unknown
		}
		if here == diagnose.Yes {
			return diagnose.Yes
		}
		if here == diagnose.Unknown {
			is = diagnose.Unknown
		}
	}
	return is
}

// endpoints tells which Pods a selector of Cilium's selects: keys have the prefix of a
// source of labels, and labels of the Pod's namespace and others are looked at, too, which are
// not known here. Cilium may be told to look at few of a Pod's labels (cilium/cilium#18878).
func endpoints(s metav1.LabelSelector, limited bool) func(Pod) diagnose.Tristate {
	known := true
	plain := func(key string) string {
		for _, source := range []string{"k8s:", "any:"} {
			key = strings.TrimPrefix(key, source)
		}
		own := key == namespaceLabel || key == accountLabel || strings.HasPrefix(key, "app.kubernetes.io/")
		// Cilium leaves most labels of Kubernetes out of what it selects by.
		if limited && key != namespaceLabel || !own && (strings.Contains(key, ":") || strings.Contains(key, "io.cilium.") || strings.Contains(key, "kubernetes.io") || strings.Contains(key, "k8s.io") || strings.HasPrefix(key, "pod-template-") || key == "controller-revision-hash") {
			known = false
		}
		return key
	}
	converted := metav1.LabelSelector{MatchLabels: map[string]string{}}
	for k, v := range s.MatchLabels {
		converted.MatchLabels[plain(k)] = v
	}
	for _, e := range s.MatchExpressions {
		e.Key = plain(e.Key)
		converted.MatchExpressions = append(converted.MatchExpressions, e)
	}
	selector, err := metav1.LabelSelectorAsSelector(&converted)
	if err != nil || !known {
		return func(Pod) diagnose.Tristate { return diagnose.Unknown }
	}
	return func(p Pod) diagnose.Tristate { return tristate(selector.Matches(endpoint{p})) }
}

const namespaceLabel, accountLabel = "io.kubernetes.pod.namespace", "io.cilium.k8s.policy.serviceaccount"

// endpoint is a Pod with the labels that Cilium adds.
type endpoint struct{ Pod }

func (e endpoint) Has(key string) bool { _, ok := e.Lookup(key); return ok }
func (e endpoint) Get(key string) string {
	value, _ := e.Lookup(key)
	return value
}

func (e endpoint) Lookup(key string) (string, bool) {
	switch key {
	case namespaceLabel:
		return e.Metadata.Namespace, true
	case accountLabel:
		_, name, _ := strings.Cut(e.account(), "/")
		return name, true
	}
	value, ok := e.Metadata.Labels[key]
	return value, ok
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
