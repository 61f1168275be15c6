package diagnose

import (
	"net/netip"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// cilium is cilium-config as far as it means what Cilium's documentation says.
// With Dataplane V2 the ConfigMap is Google's, for a Cilium of Google's.
func (f Facts) cilium() ConfigMap {
	if f.DataplaneV2 == Yes {
		return ConfigMap{}
	}
	return f.Cilium
}

// flag is a boolean of the ConfigMap, read as Cilium does (strconv.ParseBool),
// and the quotation of it. absent is what Cilium takes it for if it is not set.
// Where no ConfigMap was found, nothing says that a Cilium has it on.
func (c ConfigMap) flag(key string, absent Tristate) (Tristate, string) {
	switch c.State {
	case Read:
	case Absent:
		return No, ""
	case NotRead, Forbidden:
		return Unknown, ""
	}
	value, ok := c.Data[key]
	if !ok {
		return absent, key + " is not set"
	}
	quoted := key + " is " + quote(value)
	on, err := strconv.ParseBool(strings.ToLower(strings.TrimSpace(value)))
	if err != nil {
		return Unknown, quoted
	}
	return is(on), quoted
}

func (c ConfigMap) namespace() string {
	if c.Namespace == "" {
		return "kube-system"
	}
	return c.Namespace
}

// kubeProxyReplacement also has values that are no booleans, in older versions of
// Cilium: strict and disabled; and probe and partial, by which it depends on the
// kernel and on other settings how much is replaced.
func (c ConfigMap) kubeProxyReplacement() (Tristate, string) {
	on, quoted := c.flag("kube-proxy-replacement", No)
	if c.State == Read {
		switch strings.ToLower(strings.TrimSpace(c.Data["kube-proxy-replacement"])) {
		case "strict":
			on = Yes
		case "disabled":
			on = No
		}
	}
	return on, quoted
}

// hostRouting tells whether the settings turn on eBPF host routing, and quotes
// those that decide. They do if BPF masquerading and kube-proxy replacement are on
// and legacy routing is not asked for, which is not the default (Cilium
// documentation, network/concepts/masquerading and operations/performance/tuning).
//
// With enable-ipv4-masquerade off it is not known: Cilium's documentation ties
// host routing to BPF masquerading, and its code falls back to legacy routing only
// where iptables masquerades.
func (c ConfigMap) hostRouting() (Tristate, string) {
	masquerade, q1 := c.flag("enable-bpf-masquerade", No)
	replacement, q2 := c.kubeProxyReplacement()
	legacy, q3 := c.flag("enable-host-legacy-routing", No)
	ipv4, q4 := c.flag("enable-ipv4-masquerade", Yes)
	switch {
	case c.State != Read:
		return masquerade, q1
	case replacement == No:
		return No, q2
	case legacy == Yes:
		return No, q3
	case ipv4 != Yes:
		return Unknown, q1 + ", " + q2 + ", " + q3 + " and " + q4
	case masquerade == No:
		return No, q1
	}
	quoted := q1 + ", " + q2 + " and " + q3
	if masquerade == Yes && replacement == Yes && legacy == No {
		return Yes, quoted
	}
	return Unknown, quoted
}

const (
	// maxIPMasq is far more than such a configuration has. A hostile one could
	// take long to parse.
	maxIPMasq    = 16 << 10
	metadataIPv4 = "169.254.169.254"
)

// masqueradesLinkLocal reports whether the ConfigMap ip-masq-agent lets requests to
// the metadata server be masqueraded, and quotes what decides. It is read by two
// programs with the same rules: the ip-masq-agent that writes iptables rules, and
// Cilium if enable-ip-masq-agent is on. Without content 169.254.0.0/16 is not
// masqueraded, and with content only if masqLinkLocal is true and no CIDR of
// nonMasqueradeCIDRs has the address (kubernetes-sigs/ip-masq-agent, README;
// cilium pkg/ipmasq). What cannot be read by us is not read by them either: they
// go on with what they had.
func (f Facts) masqueradesLinkLocal() (bool, string) {
	text := f.IPMasqAgent.Data["config"]
	var parsed struct {
		NonMasqueradeCIDRs []netip.Prefix `json:"nonMasqueradeCIDRs"`
		MasqLinkLocal      bool           `json:"masqLinkLocal"`
	}
	if len(text) > maxIPMasq || yaml.Unmarshal([]byte(text), &parsed) != nil || !parsed.MasqLinkLocal {
		return false, ""
	}
	for _, p := range parsed.NonMasqueradeCIDRs {
		if p.Masked().Contains(netip.MustParseAddr(metadataIPv4)) {
			return false, ""
		}
	}
	return true, "masqLinkLocal is true in the ConfigMap ip-masq-agent, " +
		"and no CIDR of nonMasqueradeCIDRs has " + metadataIPv4
}
