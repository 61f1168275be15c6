package diagnose

import (
	"slices"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Outlook is which identity the Pods of a node get after the next start of Cilium's
// agent on it.
type Outlook string

// The outlooks, the worst first.
const (
	// OutlookNode: the VM's metadata server answers them, as the node.
	OutlookNode Outlook = "node"
	// OutlookNoStart: Cilium's agent does not start. Pods keep the datapath that they have,
	// and new ones get no network.
	OutlookNoStart Outlook = "no_start"
	// OutlookUnknown: the settings do not tell.
	OutlookUnknown Outlook = "unknown"
	// OutlookOwn: their own, as far as it hangs on Cilium.
	OutlookOwn Outlook = "own"
)

// Outlooks are all of them, the worst first.
func Outlooks() []Outlook {
	return []Outlook{OutlookNode, OutlookNoStart, OutlookUnknown, OutlookOwn}
}

// Foresee tells what the settings will do, and quotes those that decide.
func Foresee(s Settings) (Outlook, string) {
	c := Facts{Settings: s}.cilium()
	routing, quoted := c.hostRouting()
	conntrack, q2 := c.noConntrack()
	refused := c.refused()
	switch {
	case s.DataplaneV2 == Yes:
		return OutlookUnknown, "With Dataplane V2 the settings of Cilium are Google's."
	case s.DataplaneV2 == Unknown:
		return OutlookUnknown, "Whether the settings of Cilium are Google's, as with Dataplane V2, is not known."
	case c.State != Read:
		return OutlookUnknown, Facts{Settings: s}.whyNoCilium()
	case !c.complete:
		return OutlookUnknown, "Whether CiliumNodeConfigs change the settings for this node is not known."
	case refused != "":
		return OutlookNoStart, "Cilium's agents do not start with " + refused + "."
	case routing == Yes:
		return OutlookNode, quoted + ", which turns on eBPF host routing: " + skipsRule
	case conntrack == Yes:
		return OutlookNode, q2 + ": by that packets of Pods are not tracked, and what is not tracked passes no NAT, so " + skipsRule
	case routing == Unknown:
		return OutlookUnknown, "It cannot be excluded that the settings turn on eBPF host routing: " + quoted + "."
	case conntrack == Unknown:
		return OutlookUnknown, "It cannot be excluded that packets of Pods are not tracked: " + q2 + "."
	}
	return OutlookOwn, quoted + ", with which Cilium does not route by eBPF, and " + q2 + "."
}

// Threats are the risks of a node on which Pods get the right identity from GKE's server.
func Threats(s Settings) []Finding {
	return Diagnose(Facts{Settings: s, Loop: Loop{Verdict: identity.Verdict{State: identity.Match, Server: identity.ServerGKE}}}).Risks
}

// refused quotes settings with which Cilium's agents do not start, empty if there are
// none. The first three were measured with 1.20, the others read in its code.
func (c ciliumSettings) refused() string {
	masquerade, q1 := c.flag(bpfMasquerade, No)
	ipv4, q2 := c.flag(ipv4Masquerade, Yes)
	agent, q3 := c.flag("enable-ip-masq-agent", No)
	conntrack, q4 := c.flag(noConntrackRules, No)
	legacy, q5 := c.flag(legacyRouting, No)
	replacement, q6 := c.kubeProxyReplacement()
	mode := c.word("routing-mode")
	switch {
	case agent == Yes && masquerade == No:
		return q3 + " and " + q1
	case masquerade == Yes && ipv4 == No && c.word("enable-ipv6") != "true":
		return q1 + " and " + q2
	case conntrack == Yes && masquerade == No && ipv4 == Yes:
		return q4 + " and " + q1
	case conntrack == Yes && replacement == No:
		return q4 + " and " + q6
	case conntrack == Yes && mode != "" && mode != "native":
		return q4 + " and " + c.quoted("routing-mode")
	case legacy == Yes && c.word("datapath-mode") == "netkit":
		return q5 + " and " + c.quoted("datapath-mode")
	}
	return ""
}

// ObeysRedirects reports whether Cilium obeys local redirect policies by the settings.
func ObeysRedirects(s Settings) bool {
	on, _ := Facts{Settings: s}.cilium().flag(localRedirectPolicy, No)
	return on == Yes
}

// Decides reports whether which metadata server answers can hang on the key of cilium-config.
func Decides(key string) bool {
	return slices.Contains([]string{
		bpfMasquerade, ipv4Masquerade, "enable-ipv6-masquerade", "enable-ipv6", kubeProxyReplacement, legacyRouting, noConntrackRules, localRedirectPolicy,
		"enable-ip-masq-agent", "datapath-mode", "enable-ipsec", "enable-endpoint-routes", "enable-wireguard",
	}, key)
}
