package plugin

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	// Without IPv6 in the cluster the address is of the entity world alone (cilium/cilium#29958).
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
