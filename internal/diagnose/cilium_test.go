package diagnose_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const noConntrack = "install-no-conntrack-iptables-rules"

// notrack is the known remedy for host routing, which these rules defeat.
var notrack = cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", legacyRouting, "true", noConntrack, "true")

// Which settings turn on eBPF host routing, and in which versions; seen through the
// suspicion of a node where all else is well. "no" is none, "?" that it may be.
func TestWhenHostRoutingIsOn(t *testing.T) {
	const yes, no, maybe = "proves", "", "suggests"
	for _, tt := range []struct {
		name, version, want string
		settings            fact
	}{
		// Measured with Cilium 1.20.2: the VM's server answered, as the node.
		{"BPF masquerading and kube-proxy replacement", "v1.20.2", yes, bypass},
		{"no masquerading at all", "v1.20.2", yes, cilium(ipv4Masquerade, "false", "enable-ipv6", "false", kubeProxyReplacement, "true")},
		{"no masquerading of either", "v1.20.2", yes, cilium(ipv4Masquerade, "false", "enable-ipv6-masquerade", "false", kubeProxyReplacement, "true")},
		// Measured with Cilium 1.20.2: GKE's server answered.
		{"masquerading by iptables", "v1.20.2", no, iptables},
		{"legacy routing", "v1.20.2", no, legacy},
		{"no kube-proxy replacement", "v1.20.2", no, kubeProxy},
		// By the code of Cilium.
		{"masquerading of IPv6 by iptables", "v1.20.2", no, cilium(ipv4Masquerade, "false", kubeProxyReplacement, "true")},
		{"IPsec", "v1.18.4", no, cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", "enable-ipsec", "true")},
		{"IPsec", "v1.19.5", yes, cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", "enable-ipsec", "true")},
		{"IPsec", "", maybe, cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", "enable-ipsec", "true")},
		{"IPsec", "sha256-abc", maybe, cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", "enable-ipsec", "true")},
		{"endpoint routes", "v1.13.18", no, cilium(bpfMasquerade, "true", kubeProxyReplacement, "strict", "enable-endpoint-routes", "true")},
		{"endpoint routes", "v1.14.19", yes, cilium(bpfMasquerade, "true", kubeProxyReplacement, "strict", "enable-endpoint-routes", "true")},
		{"endpoint routes", "", maybe, cilium(bpfMasquerade, "true", kubeProxyReplacement, "strict", "enable-endpoint-routes", "true")},
		{"WireGuard", "1.12.1", no, cilium(bpfMasquerade, "true", kubeProxyReplacement, "strict", "enable-wireguard", "true")},
		{"WireGuard", "1.15.0-rc.1", yes, cilium(bpfMasquerade, "true", kubeProxyReplacement, "strict", "enable-wireguard", "true")},
		{"replacement as far as the kernel can", "v1.12.19", maybe, cilium(bpfMasquerade, "true", kubeProxyReplacement, "probe")},
		{"replacement in part", "v1.14.19", no, cilium(bpfMasquerade, "true", kubeProxyReplacement, "partial")},
		// The defaults of the next version are others (cilium/cilium#47631).
		{"BPF masquerading, and nothing about routing", "v1.21.0-pre.0", maybe, bypass},
		{"BPF masquerading, and no legacy routing", "v1.21.0", yes, cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", legacyRouting, "false")},
		{"legacy routing", "v1.21.0", no, legacy},
		{"nothing about masquerading", "v1.20.2", no, cilium(kubeProxyReplacement, "true")},
		{"nothing about masquerading", "v1.21.0", maybe, cilium(kubeProxyReplacement, "true", legacyRouting, "false")},
		{"the key of before Cilium 1.10, off", "v1.9.18", maybe, cilium("masquerade", "false", kubeProxyReplacement, "strict")},
		{"the key of before Cilium 1.10, on (kubernetes/kops issue 9832)", "v1.8.0", no, cilium("masquerade", "true", kubeProxyReplacement, "strict")},
	} {
		d := diagnose.Diagnose(facts(fallback(vm), known, tt.settings, version(tt.version)))
		got := ""
		for _, f := range d.Suspects {
			if f.Cause == diagnose.CiliumBPFHostRouting {
				got = string(f.Confidence)
			}
		}
		if got != tt.want {
			t.Errorf("%s, Cilium %q: %q, want %q", tt.name, tt.version, got, tt.want)
		}
	}
}

func TestTheVersionIsAskedForWhereItDecides(t *testing.T) {
	for _, tt := range []struct {
		settings fact
		want     bool
	}{
		{bypass, true},
		{cilium(kubeProxyReplacement, "true"), true},
		{kubeProxy, false},
		{legacy, false},
		{iptables, false},
		{cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", legacyRouting, "false"), false},
		{ciliumIs(diagnose.Forbidden), false},
		{cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", "enable-ipsec", "true"), true},
		{cilium("enable-ipsec", "maybe"), true},
	} {
		if got := diagnose.WantsVersion(facts(tt.settings).Settings); got != tt.want {
			t.Errorf("%+v: %t, want %t", facts(tt.settings).Cilium, got, tt.want)
		}
	}
}

// A file is what the next start of Cilium's agent reads.
func TestAFileDoesNotProveWhatRuns(t *testing.T) {
	unchanged := func(f *diagnose.Facts) { f.Cilium.Changed = time.Time{} }
	diagnoses(t, []row{
		{
			"Cilium started after the last change", facts(fallback(vm), known, bypass),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"Cilium started before it, and what it read is not known", facts(fallback(vm), known, bypass, started(-time.Second)),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"when it started is not known", facts(fallback(vm), known, bypass, ciliumAgentIs(diagnose.Forbidden)),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"when the settings were changed is not known", facts(fallback(vm), known, bypass, unchanged),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"whether objects change them for this node is not known",
			facts(fallback(vm), known, bypass, nodeConfigsAre(diagnose.Forbidden)),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"legacy routing runs, so the rule of the node is missing", facts(fallback(vm), known, legacy),
			"suggests redirect_missing", "",
		},
		{
			"legacy routing is set, and does not run", facts(fallback(vm), known, legacy, started(-time.Second)),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"legacy routing is set, and whether it runs is not known",
			facts(fallback(vm), known, legacy, ciliumAgentIs(diagnose.NotRead)),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"the nodeSelector says what the labels would",
			facts(fallback(vm), known, bypass, func(f *diagnose.Facts) { f.NodeLabels, f.OnlyWithServer = nil, true }),
			"proves cilium_bpf_host_routing", "node_pool_gce_metadata",
		},
		{
			"the labels win over the nodeSelector",
			facts(fallback(vm), known, bypass, noServer, func(f *diagnose.Facts) { f.OnlyWithServer = true }),
			"proves node_pool_gce_metadata", "",
		},
	})
}

// A CiliumNodeConfig wins over cilium-config on the nodes that it selects
// (cilium/cilium issue 22652).
func TestSettingsOfThisNode(t *testing.T) {
	diagnoses(t, []row{
		{
			"turned on for this node", facts(fallback(vm), known, kubeProxy, nodeConfig("kpr", diagnose.Yes, kubeProxyReplacement, "true")),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"turned off for this node",
			facts(match(gke), known, bypass, nodeConfig("legacy", diagnose.Yes, legacyRouting, "true")),
			"", "",
		},
		{
			"the last one by name wins",
			facts(match(gke), known, bypass, nodeConfig("a", diagnose.Yes, legacyRouting, "true"), nodeConfig("b", diagnose.Yes, legacyRouting, "false")),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"for other nodes", facts(fallback(vm), known, bypass, nodeConfig("legacy", diagnose.No, legacyRouting, "true")),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"for this node or for others", facts(fallback(vm), known, bypass, nodeConfig("legacy", diagnose.Unknown, legacyRouting, "true")),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"changed after Cilium had started",
			facts(fallback(vm), known, kubeProxy, started(time.Minute), func(f *diagnose.Facts) {
				nodeConfig("kpr", diagnose.Yes, kubeProxyReplacement, "true")(f)
				f.NodeConfigs.Items[0].Changed = noon.Add(time.Hour)
			}),
			"suggests cilium_bpf_host_routing", "",
		},
	})
	d := diagnose.Diagnose(facts(fallback(vm), known, kubeProxy, nodeConfig("kpr", diagnose.Yes, kubeProxyReplacement, "true")))
	found := d.Suspects[0]
	if !strings.Contains(found.Why, `kube-proxy-replacement is "true" by the CiliumNodeConfig "kpr"`) {
		t.Errorf("why does not quote who decides: %s", found.Why)
	}
	d = diagnose.Diagnose(facts(fallback(vm), known, bypass, nodeConfig("no", diagnose.Yes, legacyRouting, "false")))
	if got := d.Suspects[0].Remedy.Commands[0]; !strings.Contains(got, "patch ciliumnodeconfig no") {
		t.Errorf("%s, want a change of the object that decides", got)
	}
}

// Measured with Cilium 1.20.2, in both directions.
func TestNoConntrackRules(t *testing.T) {
	diagnoses(t, []row{
		{"rules beside legacy routing", facts(fallback(vm), known, notrack), "proves cilium_no_conntrack", ""},
		{
			"rules beside legacy routing, and little is known", facts(fallback(vm), notrack),
			"suggests cilium_no_conntrack, suggests cilium_bpf_host_routing", "",
		},
		{
			"rules beside legacy routing that are not in effect", facts(fallback(vm), known, notrack, started(-time.Minute)),
			"suggests cilium_bpf_host_routing, suggests cilium_no_conntrack", "",
		},
		{
			"host routing needs no rules",
			facts(fallback(vm), known, cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", noConntrack, "true")),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"Cilium does not start with them beside kube-proxy",
			facts(fallback(vm), known, cilium(bpfMasquerade, "true", kubeProxyReplacement, "false", noConntrack, "true")),
			"suggests redirect_missing", "",
		},
		{
			"Cilium does not start with them beside a tunnel",
			facts(fallback(vm), known, cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", legacyRouting, "true", noConntrack, "true", "routing-mode", "tunnel")),
			"suggests redirect_missing", "",
		},
		{"rules are about to come", facts(match(gke), known, notrack), "suggests cilium_no_conntrack", ""},
		{"rules are Google's", facts(match(gke), v2, notrack), "", ""},
		{"GKE's server answers", facts(fallback(gke), known, notrack), "suggests source_nat", "cilium_no_conntrack"},
	})
}

// The match of before hung on a policy alone.
func TestAPolicyThatHasJustGoneDormantComesFirst(t *testing.T) {
	threatened := func(f *diagnose.Facts) {
		f.Threatened = []diagnose.Cause{diagnose.CiliumBPFHostRouting, diagnose.LocalRedirectDormant}
	}
	diagnoses(t, []row{
		{
			"it was threatened by that", facts(fallback(vm), redirect, threatened),
			"suggests local_redirect_dormant, suggests cilium_bpf_host_routing", "",
		},
		{
			"nothing is known of before", facts(fallback(vm), redirect),
			"suggests cilium_bpf_host_routing, suggests local_redirect_dormant", "",
		},
	})
}

// What is said to who may not read, or waits for an answer, differs.
func TestWhatWasNotAnsweredNeedsNoRole(t *testing.T) {
	f := facts(fallback(vm), podNetwork, bypass)
	f.Unanswered = []diagnose.Object{diagnose.ObjectNode, diagnose.ObjectAnetd, diagnose.ObjectNodeConfigs, diagnose.ObjectCiliumPod}
	gaps := diagnose.Diagnose(f).Missing
	if len(gaps) != 4 {
		t.Errorf("%d gaps, want four: %+v", len(gaps), gaps)
	}
	for _, g := range gaps {
		if len(g.Remedy.Commands) > 0 || !strings.Contains(g.Remedy.Text, "no answer in time") {
			t.Errorf("%s: %s %q, want that it is read again", g.Fact, g.Remedy.Text, g.Remedy.Commands)
		}
	}
	// The ServiceAccount is read again and again: a NetworkPolicy may be in the way.
	blind := facts(verdict(identity.UnknownExpectation, app, gke))
	blind.Unanswered = []diagnose.Object{diagnose.ObjectServiceAccount}
	if gaps := diagnose.Diagnose(blind).Missing; len(gaps) != 1 || !strings.Contains(gaps[0].Remedy.Text, "a NetworkPolicy may not let the agent") ||
		strings.Contains(strings.Join(gaps[0].Remedy.Commands, " "), "role") {
		t.Errorf("%+v, want that a NetworkPolicy may be in the way, and no role", gaps)
	}
	f.Unanswered = nil
	for _, g := range diagnose.Diagnose(f).Missing {
		if !slices.ContainsFunc(g.Remedy.Commands, func(c string) bool { return strings.Contains(c, "role") }) {
			t.Errorf("%s: %q, want a role", g.Fact, g.Remedy.Commands)
		}
	}
}

// Nothing has struck yet, and a restart is what would bring it about.
func TestARiskAsksForNoRestart(t *testing.T) {
	for _, settings := range []fact{bypass, notrack, redirect} {
		for _, risk := range diagnose.Diagnose(facts(match(gke), known, settings)).Risks {
			if risk.Cause == diagnose.LocalRedirectDormant {
				continue
			}
			all := risk.Remedy.Text + strings.Join(risk.Remedy.Commands, " ")
			for _, not := range []string{"restart the Pods", "Restart", "rollout restart", "delete pod"} {
				if strings.Contains(all, not) {
					t.Errorf("%s: %q in the remedy of a risk: %s", risk.Cause, not, all)
				}
			}
		}
	}
}

// The remedy is one with which Cilium starts, and that helps.
func TestTheAlternativeHelps(t *testing.T) {
	for _, tt := range []struct {
		settings   fact
		says, does string
	}{
		{bypass, ", or bpf.masquerade: false.", legacyRouting},
		{cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", ownAgent, "true"), "from starting while enable-ip-masq-agent", legacyRouting},
		{cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", noConntrack, "true"), "from starting while " + noConntrack, `"` + noConntrack + `": "false"`},
		{cilium(ipv4Masquerade, "false", "enable-ipv6", "false", kubeProxyReplacement, "true"), "does not help while enable-ipv4-masquerade", legacyRouting},
		{cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", "datapath-mode", "netkit"), "datapath-mode netkit", "cilium-dbg status"},
	} {
		found := diagnose.Diagnose(facts(fallback(vm), known, tt.settings)).Suspects[0]
		if found.Cause != diagnose.CiliumBPFHostRouting || !strings.Contains(found.Remedy.Text, tt.says) {
			t.Errorf("%s: %s, want %q", found.Cause, found.Remedy.Text, tt.says)
		}
		if !strings.Contains(found.Remedy.Commands[0], tt.does) {
			t.Errorf("%s, want %q", found.Remedy.Commands[0], tt.does)
		}
	}
}

// A developer who gates a Pod has neither a DaemonSet nor a setting of the agent's.
func TestAGateSpeaksOfItsOwnPod(t *testing.T) {
	for _, f := range []diagnose.Facts{
		facts(fallback(vm), configured(app), gate),
		facts(fallback(vm), configured(app), gate, hostNetwork),
		facts(fallback(gke), configured(app), gate),
		facts(verdict(identity.Mismatch, other, gke), configured(app), gate),
		facts(verdict(identity.Unbound, pool, gke), configured(app), gate),
		facts(refused(identity.Denied, 403), configured(app), gate),
		facts(refused(identity.NoServiceAccount, 404), configured(app), gate),
		facts(allFailed(dropped), configured(app), gate),
		facts(match(vm), configured(app), gate, variables("HTTP_PROXY")),
	} {
		d := diagnose.Diagnose(f)
		check(t, f, d)
		for _, found := range slices.Concat(d.Suspects, d.Risks) {
			all := found.Why + " " + found.Remedy.Text + " " + strings.Join(found.Remedy.Commands, " ")
			for _, not := range []string{"WI_", "DaemonSet", "daemonset", "The agent", "the agent's"} {
				if strings.Contains(all, not) {
					t.Errorf("%s, %s: %q is said to who gates a Pod: %s", f.Verdict.State, found.Cause, not, all)
				}
			}
		}
		if f.Verdict.State == identity.Match {
			continue
		}
		if len(d.Missing) != 1 || !strings.Contains(d.Missing[0].Remedy.Commands[0], "check") {
			t.Errorf("%s: %+v, want the command that asks the node's agent", f.Verdict.State, d.Missing)
		}
	}
}

// The first suspicion is that somebody has mistyped.
func TestWhatWasMeant(t *testing.T) {
	for _, tt := range []struct{ expected, says string }{
		{"othr@project.iam.gserviceaccount.com", "differs in one letter"},
		{"otter@project.iam.gserviceaccount.com", "differs in one letter"},
		{"ohter@project.iam.gserviceaccount.com", "differs in 2 letters"},
		{"other@project-2.iam.gserviceaccount.com", "differs in 2 letters"},
		{"other@staging.iam.gserviceaccount.com", "the same name in another project"},
		{"application@project.iam.gserviceaccount.com", "another account of the same project"},
		{"application@staging.iam.gserviceaccount.com", `gives "` + string(other) + `".`},
	} {
		for _, from := range []fact{configured(identity.Identity(tt.expected)), func(f *diagnose.Facts) { f.Expectation = annotated(identity.Identity(tt.expected)) }} {
			d := diagnose.Diagnose(facts(from, verdict(identity.Mismatch, other, gke)))
			if len(d.Suspects) != 2 || d.Suspects[1].Cause != diagnose.SourceNAT {
				t.Errorf("%s: %v, want source NAT the last of two", tt.expected, causes(d.Suspects))
			}
			if why := d.Suspects[0].Why; !strings.Contains(strings.Replace(why, ": it may hold what the annotation was before", "", 1), tt.says) {
				t.Errorf("%s: %s, want %q", tt.expected, why, tt.says)
			}
		}
	}
}

// An annotation under another key is none.
func TestTheKeyOfAnAnnotationIsMisspelt(t *testing.T) {
	for key, near := range map[string]bool{
		"iam.gke.io/gcp-service-acount":              true,
		"iam.gke.io/gcp-serviceaccount":              true,
		"iam.gke.io/gcp_service_account":             true,
		"cloud.google.com/gcp-service-account":       true, // GoogleCloudPlatform/gke-autoneg-controller issue 66
		"gcp-service-account":                        true,
		"iam.gke.io/return-principal-id-as-email":    false,
		"eks.amazonaws.com/role-arn":                 false,
		"kubernetes.io/enforce-mountable-secrets":    false,
		"azure.workload.identity/client-id":          false,
		"example.com/not-a-gcp-service-account-name": false,
	} {
		unbound := diagnose.Diagnose(facts(configured(app), verdict(identity.Unbound, pool, gke), annotations(key, string(app))))
		if got := slices.Contains(causes(unbound.Suspects), diagnose.AnnotationMisspelt); got != near {
			t.Errorf("%s: suspected %t, want %t", key, got, near)
		}
		if near && !strings.Contains(unbound.Suspects[0].Why, key) {
			t.Errorf("the key %s is not named: %s", key, unbound.Suspects[0].Why)
		}
		expectsPool := func(f *diagnose.Facts) {
			f.Expectation = identity.Expectation{Accepted: []identity.Pattern{identity.Pattern(pool)}, Source: identity.SourceWorkloadPool}
		}
		match := diagnose.Diagnose(facts(verdict(identity.Match, pool, gke), expectsPool, annotations(key, string(app))))
		if got := slices.Contains(causes(match.Risks), diagnose.AnnotationMisspelt); got != near {
			t.Errorf("%s: a risk %t, want %t", key, got, near)
		}
	}
	both := facts(configured(app), verdict(identity.Unbound, pool, gke),
		annotations("iam.gke.io/gcp-service-acount", string(app), identity.AnnotationServiceAccount, string(app)))
	if d := diagnose.Diagnose(both); slices.Contains(causes(d.Suspects), diagnose.AnnotationMisspelt) {
		t.Errorf("suspected beside the right one: %v", causes(d.Suspects))
	}
}

// What is no email of a service account is stated as such.
func TestTheValueOfAnAnnotationIsMisspelt(t *testing.T) {
	f := facts(verdict(identity.UnknownExpectation, "", gke))
	f.Expectation = identity.Expectation{Source: identity.SourceAnnotation, Invalid: `"app@project.iam.gserviceaccount.com`}
	d := diagnose.Diagnose(f)
	check(t, f, d)
	if len(d.Suspects) != 1 || d.Suspects[0].Cause != diagnose.AnnotationMisspelt || d.Suspects[0].Confidence != diagnose.Proves {
		t.Errorf("%v, want a proof that the annotation is misspelt", causes(d.Suspects))
	}
}
