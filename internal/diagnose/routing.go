package diagnose

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Keys of cilium-config.
const (
	bpfMasquerade        = "enable-bpf-masquerade"
	ipv4Masquerade       = "enable-ipv4-masquerade"
	kubeProxyReplacement = "kube-proxy-replacement"
	legacyRouting        = "enable-host-legacy-routing"
	noConntrackRules     = "install-no-conntrack-iptables-rules"
	localRedirectPolicy  = "enable-local-redirect-policy"
)

// legacyRow is a reason why Cilium routes by the host's network stack, and not by eBPF
// past it.
type legacyRow struct {
	// holds is whether it does by the settings, and quotes them.
	holds func(ciliumSettings) (Tristate, string)
	// until is the last minor version of Cilium 1.x in which it counts; 0: it still does.
	until int
}

// legacyRows are all the reasons, so that host routing is by eBPF where none holds. They
// were read in the code of Cilium 1.10 to 1.20: daemon/cmd/kube_proxy_replacement.go,
// since 1.19 pkg/kpr/initializer; the first three and enable-ipv4-masquerade were measured
// with 1.20. Two are left out, which the settings do not tell: kernels before 5.10, and
// devices without an L2 address (until 1.13).
func legacyRows() []legacyRow {
	return []legacyRow{
		{holds: set(legacyRouting)},
		{holds: func(c ciliumSettings) (Tristate, string) {
			on, quoted := c.kubeProxyReplacement()
			return not(on), quoted
		}},
		{holds: ciliumSettings.iptablesMasquerades},
		{holds: set("enable-ipsec"), until: 18},
		{holds: set("enable-endpoint-routes"), until: 13},
		{holds: set("enable-wireguard"), until: 13},
	}
}

// oldest is the version that is taken for one that is not known: no older one has been
// maintained since 2024.
const oldest = 14

// newest is the newest version whose code was read. The next one is to masquerade by eBPF,
// and to route by the host's network stack, where nothing else is set (cilium/cilium#47631).
const newest = 20

func set(key string) func(ciliumSettings) (Tristate, string) {
	return func(c ciliumSettings) (Tristate, string) { return c.flag(key, No) }
}

func not(t Tristate) Tristate {
	switch t {
	case Yes:
		return No
	case No:
		return Yes
	case Unknown:
	}
	return Unknown
}

// hostRouting tells whether the settings turn on eBPF host routing, and quotes those
// that decide.
func (c ciliumSettings) hostRouting() (Tristate, string) {
	if c.State != Read {
		return Unknown, ""
	}
	version := cmp.Or(c.agent.minor(), oldest)
	var open, seen []string
	for _, row := range legacyRows() {
		legacy, quoted := row.holds(c)
		switch {
		case row.until != 0 && (legacy == No || version > row.until):
			continue // not worth a word
		case legacy == Yes && row.until != 0 && c.agent.minor() == 0:
			open = append(open, quoted+", by which Cilium routes as before only until 1."+strconv.Itoa(row.until))
		case legacy == Yes:
			return No, quoted
		case legacy == Unknown:
			open = append(open, quoted)
		default:
			seen = append(seen, quoted)
		}
	}
	if len(open) > 0 {
		return Unknown, list(append(seen, open...))
	}
	return Yes, list(seen)
}

// WantsVersion reports whether the version of Cilium may decide how it routes.
func WantsVersion(s Settings) bool {
	c := Facts{Settings: s}.cilium()
	of := func(minor int) Tristate {
		c.agent.Version = "v1." + strconv.Itoa(minor)
		is, _ := c.hostRouting()
		return is
	}
	return c.variesByVersion() || of(newest) != of(newest+1)
}

// variesByVersion reports whether one version of Cilium that was read routes otherwise than
// another by these settings.
func (c ciliumSettings) variesByVersion() bool {
	return c.State == Read && slices.ContainsFunc(legacyRows(), func(row legacyRow) bool {
		holds, _ := row.holds(c)
		return holds != No && row.until != 0
	})
}

// kubeProxyReplacement is a boolean since Cilium 1.14, off if it is not set. Before, it
// was a word: strict, or disabled; and probe and partial, by which it depends on the
// kernel and on other settings how much is replaced, and partial if it is not set. From
// 1.13 on host routing needs all of it.
func (c ciliumSettings) kubeProxyReplacement() (Tristate, string) {
	on, quoted := c.flag(kubeProxyReplacement, No)
	switch word := c.word(kubeProxyReplacement); {
	case word == "strict":
		on = Yes
	case word == "disabled", (word == "partial" || word == "probe") && c.agent.minor() >= 13:
		on = No
	}
	return on, quoted
}

// iptablesMasquerades needs the host's network stack. It is by iptables unless it is by
// eBPF, for each IP version that is on. Before Cilium 1.10 there was one key for both.
func (c ciliumSettings) iptablesMasquerades() (Tristate, string) {
	bpf, q1 := c.flag(bpfMasquerade, No)
	ipv4, q2 := c.flag(ipv4Masquerade, Yes)
	if old, quoted := c.flag("masquerade", Yes); old != Yes && !c.has(ipv4Masquerade) {
		ipv4, q2 = Unknown, quoted
	}
	ipv6, q3 := c.flag("enable-ipv6-masquerade", Yes)
	on6, q4 := c.flag("enable-ipv6", Yes)
	switch {
	case bpf == Yes && ipv4 != No:
		return No, q1
	case bpf == Yes: // Cilium 1.20 does not start with that, unless it is for IPv6
		return Unknown, q1 + " and " + q2
	case ipv4 == No && (ipv6 == No || on6 == No):
		return No, q1 + " and " + q2
	case bpf == Unknown || ipv4 == Unknown:
		return Unknown, q1 + " and " + q2
	case ipv4 == Yes:
		return Yes, q1
	case ipv6 == Yes && on6 == Yes:
		return Yes, list([]string{q1, q2, q3})
	}
	return Unknown, list([]string{q1, q2, q3, q4})
}

// noConntrack tells whether Cilium keeps packets of Pods from connection tracking. Its
// agents do not start with that but with kube-proxy replacement, native routing, and
// BPF masquerading if any (Cilium 1.12 to 1.20, pkg/option).
func (c ciliumSettings) noConntrack() (Tristate, string) {
	on, quoted := c.flag(noConntrackRules, No)
	bpf, _ := c.flag(bpfMasquerade, No)
	ipv4, _ := c.flag(ipv4Masquerade, Yes)
	replacement, _ := c.kubeProxyReplacement()
	mode := c.word("routing-mode")
	if on == Yes && (bpf == No && ipv4 == Yes || replacement == No || mode != "" && mode != "native") {
		return No, quoted
	}
	return on, quoted
}

// minor is the y of version v1.y.z, 0 if it is not known.
func (a CiliumAgent) minor() int {
	major, rest, _ := strings.Cut(strings.TrimPrefix(a.Version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	if major != "1" || err != nil || n < 1 {
		return 0
	}
	return n
}

// list puts words into a sentence.
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
