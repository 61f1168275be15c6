package diagnose

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ciliumSettings are those that the next start of Cilium's agent on this node reads:
// cilium-config, and over it the CiliumNodeConfigs that select the node.
type ciliumSettings struct {
	ConfigMap
	// by has the CiliumNodeConfig that decides, by key.
	by map[string]string
	// complete: no object that is not known can change them for this node.
	complete bool
	agent    CiliumAgent
	changed  time.Time // last, zero if not known
}

// cilium is what is known of the settings, as far as they mean what Cilium's
// documentation says. With Dataplane V2 they are Google's, for a Cilium of Google's.
func (f Facts) cilium() ciliumSettings {
	if f.DataplaneV2 == Yes {
		return ciliumSettings{}
	}
	c := ciliumSettings{ConfigMap: f.Cilium, agent: f.CiliumAgent, changed: f.Cilium.Changed}
	c.complete = f.NodeConfigs.State == Read || f.NodeConfigs.State == Absent
	if c.State != Read || len(f.NodeConfigs.Items) == 0 {
		return c
	}
	merged := map[string]string{}
	maps.Copy(merged, c.Data)
	c.Data, c.by = merged, map[string]string{}
	for _, n := range f.NodeConfigs.Items {
		switch n.Selects {
		case Yes:
			for key, value := range n.Defaults {
				c.Data[key], c.by[key] = value, n.Name
			}
			if c.changed.IsZero() || n.Changed.IsZero() {
				c.changed = time.Time{}
			} else if n.Changed.After(c.changed) {
				c.changed = n.Changed
			}
		case Unknown:
			c.complete = false
		case No:
		}
	}
	return c
}

// runs reports whether these are the settings that Cilium's agent on this node runs
// by: it reads them when it starts, and not again. Where its version decides what they
// mean, that must be known, too.
func (c ciliumSettings) runs() Tristate {
	if c.State != Read || !c.complete || c.wantsVersion() && c.agent.minor() == 0 || c.agent.State != Read || c.agent.Started.IsZero() || c.changed.IsZero() {
		return Unknown
	}
	return is(c.agent.Started.After(c.changed))
}

// doubt is why these may not be the settings that run, as a sentence after another.
func (c ciliumSettings) doubt() string {
	if c.runs() == No {
		return " But Cilium's agent on this node started before that was set, and runs by what was set before."
	}
	return ""
}

// flag is a boolean of the settings, read as Cilium does (strconv.ParseBool), and the
// quotation of it. absent is what Cilium takes it for if it is not set.
func (c ciliumSettings) flag(key string, absent Tristate) (Tristate, string) {
	if c.State != Read {
		return Unknown, ""
	}
	value, ok := c.Data[key]
	if !ok {
		return absent, key + " is not set"
	}
	on, err := strconv.ParseBool(strings.ToLower(strings.TrimSpace(value)))
	if err != nil {
		return Unknown, c.quoted(key)
	}
	return is(on), c.quoted(key)
}

// quoted is a value that is set, and who decides it if that is not cilium-config.
func (c ciliumSettings) quoted(key string) string {
	says := key + " is " + quote(c.Data[key])
	if by := c.by[key]; by != "" {
		says += " by the CiliumNodeConfig " + quote(by)
	}
	return says
}

func (c ciliumSettings) has(key string) bool {
	_, ok := c.Data[key]
	return ok
}

// word is a value as it is compared.
func (c ciliumSettings) word(key string) string {
	return strings.ToLower(strings.TrimSpace(c.Data[key]))
}

// Keys of cilium-config.
const (
	bpfMasquerade        = "enable-bpf-masquerade"
	ipv4Masquerade       = "enable-ipv4-masquerade"
	kubeProxyReplacement = "kube-proxy-replacement"
	legacyRouting        = "enable-host-legacy-routing"
	noConntrackRules     = "install-no-conntrack-iptables-rules"
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

// WantsVersion reports whether the version of Cilium decides how it routes.
func WantsVersion(s Settings) bool { return Facts{Settings: s}.cilium().wantsVersion() }

func (c ciliumSettings) wantsVersion() bool {
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
