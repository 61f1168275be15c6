package diagnose_test

import (
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// What the next start of Cilium's agent brings, and the words that say why.
func TestForesee(t *testing.T) {
	const host, own, noStart, unknown = diagnose.OutlookNode, diagnose.OutlookOwn, diagnose.OutlookNoStart, diagnose.OutlookUnknown
	for _, tt := range []struct {
		name, why string
		settings  fact
		want      diagnose.Outlook
	}{
		{"host routing", `enable-bpf-masquerade is "true", which turns on eBPF host routing`, bypass, host},
		{"legacy routing", `enable-host-legacy-routing is "true", with which Cilium does not`, legacy, own},
		{"masquerading by iptables", `enable-bpf-masquerade is "false", with which`, iptables, own},
		{"the known remedy, and no tracking", "not tracked passes no NAT", notrack, host},
		{"IPsec of a version that is not known", "cannot be excluded", cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", "enable-ipsec", "true"), unknown},
		{"no tracking that is no boolean", "are not tracked", cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", legacyRouting, "true", noConntrack, "maybe"), unknown},
		{"Google's", "are Google's", func(f *diagnose.Facts) { bypass(f); v2(f) }, unknown},
		{"perhaps Google's", "is not known", func(f *diagnose.Facts) { bypass(f); f.DataplaneV2 = diagnose.Unknown }, unknown},
		{"nothing read", "were not read", func(*diagnose.Facts) {}, unknown},
		{"own ip-masq-agent without BPF", `do not start with enable-ip-masq-agent is "true"`, cilium(bpfMasquerade, "false", kubeProxyReplacement, "true", "enable-ip-masq-agent", "true"), noStart},
		{"BPF without IPv4", "do not start", cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", ipv4Masquerade, "false"), noStart},
		{"no tracking, and masquerading by iptables", "do not start", cilium(bpfMasquerade, "false", kubeProxyReplacement, "true", noConntrack, "true"), noStart},
		{"no tracking with kube-proxy", "do not start", cilium(bpfMasquerade, "true", kubeProxyReplacement, "false", noConntrack, "true"), noStart},
		{"no tracking with a tunnel", "do not start", cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", noConntrack, "true", "routing-mode", "tunnel"), noStart},
		{"legacy routing with netkit", "do not start", cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", legacyRouting, "true", "datapath-mode", "netkit"), noStart},
	} {
		f := facts(v1, tt.settings)
		f.NodeConfigs.State = diagnose.Absent
		if got, why := diagnose.Foresee(f.Settings); got != tt.want || !strings.Contains(why, tt.why) {
			t.Errorf("%s: %s, %q; want %s, %q", tt.name, got, why, tt.want, tt.why)
		}
	}
	f := facts(v1, legacy)
	f.NodeConfigs.State = diagnose.Forbidden
	if got, _ := diagnose.Foresee(f.Settings); got != unknown {
		t.Errorf("with CiliumNodeConfigs that may not be read: %s, want %s", got, unknown)
	}
}

// What will take the identity away is a risk as well, by the same settings.
func TestThreatsAreTheRisksOfAMatch(t *testing.T) {
	for _, tt := range []struct {
		settings fact
		want     diagnose.Cause
	}{{bypass, diagnose.CiliumBPFHostRouting}, {notrack, diagnose.CiliumNoConntrack}, {legacy, ""}} {
		f := facts(known, tt.settings)
		var got diagnose.Cause
		if risks := diagnose.Threats(f.Settings); len(risks) > 0 {
			got = risks[0].Cause
		}
		if outlook, _ := diagnose.Foresee(f.Settings); got != tt.want || (outlook == diagnose.OutlookNode) != (tt.want != "") {
			t.Errorf("%v: risk %q and outlook %s, want %q", f.Cilium.Data, got, outlook, tt.want)
		}
	}
}
