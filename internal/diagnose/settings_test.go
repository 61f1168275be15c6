package diagnose_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// The ConfigMap ip-masq-agent, seen through a verdict of which it may be the cause.
func TestIPMasqAgent(t *testing.T) {
	const masquerades, excluded, unreadable = true, false, false
	tests := []struct {
		name, config string
		want         bool
	}{
		{"YAML", "masqLinkLocal: true", masquerades},
		{"JSON", `{"masqLinkLocal": true, "nonMasqueradeCIDRs": ["10.0.0.0/8"]}`, masquerades},
		{"JSON on several lines", "{\n  \"resyncInterval\": \"60s\",\n  \"masqLinkLocal\": true\n}\n", masquerades},
		{
			"flow style with a comment",
			"# ours\nnonMasqueradeCIDRs: [10.0.0.0/8, 'fd00::/8']\nmasqLinkLocal: true # for egress\n" +
				"masqLinkLocalIPv6: true\n",
			masquerades,
		},
		{"the old words for true", "masqLinkLocal: yes", masquerades},
		{"a document marker", "---\nmasqLinkLocal: true\n", masquerades},
		{"no CIDRs", "masqLinkLocal: true\nnonMasqueradeCIDRs:", masquerades},
		{"a CIDR next to it", "masqLinkLocal: true\nnonMasqueradeCIDRs: [169.254.169.253/32]", masquerades},
		{"an unknown key", "masqLinkLocal: true\nfuture: [1]", masquerades},
		{"false", "masqLinkLocal: false", excluded},
		{"absent", "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n", excluded},
		{"only for IPv6", "masqLinkLocalIPv6: true", excluded},
		{"null", "masqLinkLocal: null", excluded},
		{
			"excluded by its own CIDR",
			"masqLinkLocal: true\nnonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 169.254.0.0/16",
			excluded,
		},
		{"excluded by one address", "masqLinkLocal: true\nnonMasqueradeCIDRs: [169.254.169.254/32]", excluded},
		{"excluded with everything", "masqLinkLocal: true\nnonMasqueradeCIDRs: [0.0.0.0/0]", excluded},
		{"excluded by a CIDR with host bits", "masqLinkLocal: true\nnonMasqueradeCIDRs: [169.254.1.2/16]", excluded},
		{"empty", "", excluded},
		{"blank", " \n\t\n", excluded},
		{"only a comment", "# nothing", excluded},
		{"an empty object", "{}", excluded},
		{"a word", "masqLinkLocal", unreadable},
		{"a list", "- masqLinkLocal: true", unreadable},
		{"a string for a boolean", `masqLinkLocal: "true"`, unreadable},
		{"a CIDR that is none", "masqLinkLocal: true\nnonMasqueradeCIDRs: [10.0.0.0]", unreadable},
		{"half a document", `{"masqLinkLocal": tr`, unreadable},
		{"a tab", "masqLinkLocal: true\n\tx: y", unreadable},
		{"control characters", "masqLinkLocal: true\x00", unreadable},
		{"far too large", "masqLinkLocal: true\n#" + strings.Repeat("x", 1<<20), unreadable},
		{
			"aliases that explode",
			"a: &a [x,x,x,x,x,x,x,x,x]\n" +
				"b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" +
				"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" +
				"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n" +
				"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n" +
				"f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n" +
				"g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n" +
				"masqLinkLocal: true",
			unreadable,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := diagnose.Diagnose(facts(fallback(gke), ipMasq(tt.config)))
			if got := slices.Contains(causes(d.Suspects), diagnose.IPMasqAgentLinkLocal); got != tt.want {
				t.Errorf("suspected: %t, want %t", got, tt.want)
			}
		})
	}
}

// No key, another key.
func TestIPMasqAgentWithoutConfig(t *testing.T) {
	for _, data := range []map[string]string{nil, {}, {"ip-masq-agent": "masqLinkLocal: true"}} {
		f := facts(fallback(gke), ipMasq(""))
		f.IPMasqAgent.Data = data
		if d := diagnose.Diagnose(f); slices.Contains(causes(d.Suspects), diagnose.IPMasqAgentLinkLocal) {
			t.Errorf("%v: suspected", data)
		}
	}
}

// How Cilium reads a boolean, seen through the risk of a good verdict.
func TestCiliumSettings(t *testing.T) {
	for value, want := range map[string]bool{
		"true": true, "TRUE": true, "tRue": true, "1": true, "t": true,
		"false": false, "0": false, "yes": false, "on": false, "": false, "\"true\"": false, "enabled": false,
	} {
		d := diagnose.Diagnose(facts(match(gke), v1, cilium(bpfMasquerade, value, kubeProxyReplacement, "true")))
		if got := slices.Contains(causes(d.Risks), diagnose.CiliumBPFHostRouting); got != want {
			t.Errorf("enable-bpf-masquerade %q: at risk %t, want %t", value, got, want)
		}
	}
	for value, want := range map[string]bool{
		"true": true, "strict": true, "Strict": true,
		"false": false, "disabled": false, "partial": false, "probe": false, "": false, "x": false,
	} {
		d := diagnose.Diagnose(facts(match(gke), v1, cilium(bpfMasquerade, "true", kubeProxyReplacement, value)))
		if got := slices.Contains(causes(d.Risks), diagnose.CiliumBPFHostRouting); got != want {
			t.Errorf("kube-proxy-replacement %q: at risk %t, want %t", value, got, want)
		}
	}
}

func FuzzSettings(f *testing.F) {
	for _, s := range []string{
		"", "true", "masqLinkLocal: true", `{"masqLinkLocal": true}`, "a: &a [*a]", "\x00", "- - -",
		"nonMasqueradeCIDRs: [0/0]",
	} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, setting, config string) {
		for _, state := range []fact{fallback(vm), fallback(gke), match(gke)} {
			x := facts(state, v1, ipMasq(config), cilium(
				bpfMasquerade, setting, kubeProxyReplacement, setting, legacyRouting, setting,
				ipv4Masquerade, setting, ownAgent, setting, redirectPolicy, setting))
			check(t, x, diagnose.Diagnose(x))
		}
	})
}
