package diagnose

import (
	"net/netip"

	"sigs.k8s.io/yaml"
)

func (c ConfigMap) namespace() string {
	if c.Namespace == "" {
		return "kube-system"
	}
	return c.Namespace
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
