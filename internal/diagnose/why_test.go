package diagnose_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Who signs is told by name: somebody at 3 a.m. can look whether it is the node.
func TestTheVMIsNamed(t *testing.T) {
	for _, f := range []diagnose.Facts{
		facts(fallback(vm), known, bypass, signs(vm, "gke-pool-1")),
		facts(fallback(vm), podNetwork, noServer, signs(vm, "gke-pool-1")),
	} {
		got, want := diagnose.Diagnose(f).Suspects[0].Why, `The metadata server of the VM "gke-pool-1" answers`
		if !strings.HasPrefix(got, want) {
			t.Errorf("why: %s", got)
		}
	}
}

// A finding shows what it rests on.
func TestWhyQuotesTheSettings(t *testing.T) {
	tests := []struct {
		name  string
		facts diagnose.Facts
		cause diagnose.Cause
		want  []string
	}{
		{
			"the bypass", facts(fallback(vm), known, bypass),
			diagnose.CiliumBPFHostRouting,
			[]string{
				`enable-bpf-masquerade is "true"`, `kube-proxy-replacement is "true"`,
				"enable-host-legacy-routing is not set",
			},
		},
		{
			"a repair that has not been put into effect", facts(fallback(vm), known, legacy, started(-1)),
			diagnose.CiliumBPFHostRouting,
			[]string{`enable-host-legacy-routing is "true"`, "only when they start"},
		},
		{
			"another repair", facts(fallback(vm), known, iptables, started(-1)),
			diagnose.CiliumBPFHostRouting,
			[]string{`enable-bpf-masquerade is "false"`, "only when they start"},
		},
		{
			"what is not known for sure",
			facts(
				fallback(vm), known,
				cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", ipv4Masquerade, "false"),
			),
			diagnose.CiliumBPFHostRouting,
			[]string{`enable-ipv4-masquerade is "false"`},
		},
		{
			"what will come in spite of GKE's answer", facts(fallback(gke), known, bypass),
			diagnose.CiliumBPFHostRouting,
			[]string{"GKE's metadata server answers", `enable-bpf-masquerade is "true"`, "restart"},
		},
		{
			"a policy",
			facts(
				fallback(vm), known, redirect, noServer, func(f *diagnose.Facts) { f.HostNetwork = diagnose.Unknown },
			),
			diagnose.LocalRedirectDormant,
			[]string{`enable-local-redirect-policy is "true"`},
		},
		{
			"a label", facts(fallback(vm), podNetwork, labels(diagnose.LabelMetadataServer, "false")),
			diagnose.NodePoolGCEMetadata,
			[]string{diagnose.LabelMetadataServer, `"false"`},
		},
		{
			"no label", facts(fallback(vm), podNetwork, noServer),
			diagnose.NodePoolGCEMetadata,
			[]string{"lacks the label " + diagnose.LabelMetadataServer + "=true"},
		},
		{
			"masqLinkLocal", facts(fallback(gke), ipMasq(linkLocal)),
			diagnose.IPMasqAgentLinkLocal,
			[]string{"masqLinkLocal is true", "169.254.169.254"},
		},
		{
			"masqLinkLocal of Cilium", facts(fallback(gke), ownMasq, ipMasq(linkLocal)),
			diagnose.CiliumBPFMasqueradeLinkLocal,
			[]string{"masqLinkLocal is true", `enable-ip-masq-agent is "true"`, "never measured"},
		},
		{
			"both expectations",
			facts(
				configured(app), verdict(identity.Mismatch, other, gke),
				annotations(identity.AnnotationServiceAccount, string(other)),
			),
			diagnose.ExpectationOutdated,
			[]string{string(app), string(other)},
		},
		{
			"what was expected before", facts(verdict(identity.Mismatch, other, gke), replaced(annotated(other))),
			diagnose.AnnotationChanged,
			[]string{string(app), string(other)},
		},
		{
			"the status", facts(failed(gke, nil, failure(identity.ServerError, 504), nil)),
			diagnose.STSBlocked,
			[]string{"504"},
		},
		{
			"the policy that leads past the server",
			facts(failed(unknown, failure(identity.Unreachable, 0), nil, nil), func(f *diagnose.Facts) {
				f.Observation.Token.Origin, f.Observation.Server.Origin = identity.NeverAsked, identity.NeverAsked
			}, redirect),
			diagnose.MetadataServerDown,
			[]string{`enable-local-redirect-policy is "true"`, `"detail"`},
		},
		{
			"the host that is probed", facts(fallback(vm), probes("127.0.0.1:10980")),
			diagnose.EnvironmentOverride,
			[]string{`"127.0.0.1:10980"`, "169.254.169.254"},
		},
		{
			"two servers", facts(verdict(identity.Match, pool, vm)),
			diagnose.NodeIdentityExpected,
			[]string{"and GKE's another"},
		},
		{
			"the variables that are ignored", facts(fallback(vm), variables("GCE_METADATA_HOST", "HTTP_PROXY")),
			diagnose.EnvironmentOverride,
			[]string{"GCE_METADATA_HOST, HTTP_PROXY"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := diagnose.Diagnose(tt.facts)
			for _, f := range slices.Concat(d.Suspects, d.RuledOut, d.Risks) {
				if f.Cause != tt.cause {
					continue
				}
				for _, want := range tt.want {
					if !strings.Contains(f.Why, want) {
						t.Errorf("%q does not say %q", f.Why, want)
					}
				}
				return
			}
			t.Errorf("no finding about %s", tt.cause)
		})
	}
}

// A remedy fits the facts.
func TestRemedies(t *testing.T) {
	const (
		patch, read       = "patch configmap cilium-config", "cilium-dbg status"
		helm, unstartable = "bpf.masquerade: false", "from starting"
	)
	ours := func(f *diagnose.Facts) {
		f.Self = diagnose.Self{
			Namespace: "wi", ServiceAccount: "agent", Node: "node-1", Pod: "agent-x", Project: "project",
		}
	}
	timeouts := allFailed(failure(identity.Timeout, 0))
	tests := []struct {
		name      string
		facts     diagnose.Facts
		cause     diagnose.Cause
		want, not []string
	}{
		{
			"the settings are wrong", facts(fallback(vm), known, bypass, ours),
			diagnose.CiliumBPFHostRouting,
			[]string{
				patch, "spec.nodeName=node-1", "-n wi exec agent-x", "rollout restart daemonset/cilium", ", or " + helm,
				"masqLinkLocal: false alone",
			},
			[]string{read, unstartable},
		},
		{
			"the settings are right, and not in effect", facts(fallback(vm), known, legacy, started(-1)),
			diagnose.CiliumBPFHostRouting,
			[]string{read, "rollout restart daemonset/cilium"},
			[]string{patch},
		},
		{
			"Cilium would not start without eBPF",
			facts(fallback(vm), known, cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", ownAgent, "true")),
			diagnose.CiliumBPFHostRouting,
			[]string{patch, helm, unstartable},
			[]string{", or " + helm},
		},
		{
			"Cilium is elsewhere",
			facts(fallback(vm), bypass, func(f *diagnose.Facts) { f.Cilium.Namespace = "cilium" }),
			diagnose.CiliumBPFHostRouting,
			[]string{"kubectl -n cilium patch"},
			[]string{"kube-system"},
		},
		{
			"a binding", facts(refused(identity.Denied, 403), ours),
			diagnose.IAMBindingMissing,
			[]string{
				string(app), `--member="serviceAccount:project.svc.id.goog[wi/agent]"`,
				"roles/iam.workloadIdentityUser",
			},
			nil,
		},
		{
			"a binding in a sovereign cloud", facts(refused(identity.Denied, 403), ours, func(f *diagnose.Facts) { f.Self.Project = "s3ns:project" }),
			diagnose.IAMBindingMissing,
			[]string{`--member="serviceAccount:project.s3ns.svc.id.goog[wi/agent]"`},
			nil,
		},
		{
			"a binding of a project with a domain, whose pool no source tells", facts(refused(identity.Denied, 403), ours, func(f *diagnose.Facts) { f.Self.Project = "example.com:project" }),
			diagnose.IAMBindingMissing,
			[]string{`--member="serviceAccount:PROJECT.svc.id.goog[wi/agent]"`},
			nil,
		},
		{
			"a node pool", facts(fallback(vm), labels("cloud.google.com/gke-nodepool", "blue")),
			diagnose.NodePoolGCEMetadata,
			[]string{"update blue ", "--workload-metadata=GKE_METADATA"},
			[]string{"POOL"},
		},
		{
			"an annotation", facts(verdict(identity.Unbound, pool, gke), annotations(), ours),
			diagnose.AnnotationMissing,
			[]string{
				"kubectl -n wi annotate serviceaccount agent --overwrite iam.gke.io/gcp-service-account=" + string(app),
			},
			nil,
		},
		{
			"a policy, where the dataplane is not known", facts(timeouts),
			diagnose.NetworkPolicy,
			[]string{"169.254.169.254/32 port 80", "169.254.169.252/32 port 988"},
			nil,
		},
		{
			"a policy of Cilium", facts(timeouts, legacy),
			diagnose.NetworkPolicy,
			[]string{"169.254.169.254/32 port 80", "toCIDR"},
			[]string{"169.254.169.252"},
		},
		{
			"a policy of Dataplane V2", facts(timeouts, v2),
			diagnose.NetworkPolicy,
			[]string{"169.254.169.254/32 port 80", "toCIDR"},
			[]string{"169.254.169.252"},
		},
		{
			"a policy without Cilium", facts(timeouts, v1, ciliumIs(diagnose.Absent)),
			diagnose.NetworkPolicy,
			[]string{"169.254.169.252/32 port 988", "169.254.169.254/32 port 80", "toEntities: [host] port 988"},
			nil,
		},
		{
			"a server that is down", facts(timeouts, legacy),
			diagnose.MetadataServerDown,
			[]string{"delete"},
			[]string{"ciliumlocalredirectpolicies"},
		},
		{
			"a policy may lead past it", facts(timeouts, redirect),
			diagnose.MetadataServerDown,
			[]string{"ciliumlocalredirectpolicies"},
			nil,
		},
		{
			"a test server", facts(match(gke), probes("127.0.0.1"), ours),
			diagnose.EnvironmentOverride,
			[]string{"WI_METADATA_HOST-"},
			nil,
		},
		{
			"a variable of others", facts(match(gke), variables("HTTP_PROXY"), ours),
			diagnose.EnvironmentOverride,
			[]string{"kubectl -n wi get pod agent-x"},
			[]string{"WI_METADATA_HOST"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := diagnose.Diagnose(tt.facts)
			for _, f := range slices.Concat(d.Suspects, d.Risks) {
				if f.Cause != tt.cause {
					continue
				}
				got := f.Remedy.Text + "\n" + strings.Join(f.Remedy.Commands, "\n")
				for _, want := range tt.want {
					if !strings.Contains(got, want) {
						t.Errorf("no %q in the remedy: %s", want, got)
					}
				}
				for _, not := range tt.not {
					if strings.Contains(got, not) {
						t.Errorf("%q in the remedy: %s", not, got)
					}
				}
				return
			}
			t.Errorf("no finding about %s", tt.cause)
		})
	}
}

// What cannot be known is said, and how to get it; no more than that.
func TestMissing(t *testing.T) {
	const (
		network, node, dataplane = "hostNetwork", "labels of the node", "whether the node runs Dataplane V2"
		google, annotation       = "settings are Google's", "annotations of the agent's"
		cannot, ciliumLater      = "cilium-config may not be read", "cilium-config was not read yet"
		nodeConfigs, agent       = "Whether CiliumNodeConfigs", "When Cilium's agent on this node started"
		elsewhere                = "no ConfigMap cilium-config in the namespace"
		masq, masqLater          = "ip-masq-agent may not be read", "ip-masq-agent was not read yet"
	)
	tests := []struct {
		name  string
		facts diagnose.Facts
		want  []string
	}{
		{"the VM's server and nothing else", facts(fallback(vm)), []string{network, node, ciliumLater}},
		{"nothing may be read", facts(fallback(vm), ciliumIs(diagnose.Forbidden), podNetwork), []string{node, cannot}},
		{"only the dataplane is not known", facts(fallback(vm), podNetwork, withServer, bypass), []string{dataplane, nodeConfigs, agent}},
		{"Dataplane V2", facts(fallback(vm), podNetwork, withServer, v2), []string{google}},
		{"hostNetwork says it all", facts(fallback(vm), hostNetwork), nil},
		{"Cilium may be elsewhere", facts(fallback(vm), known, ciliumIs(diagnose.Absent)), []string{elsewhere}},
		{"all is well, and no Cilium is known", facts(match(gke), known, ciliumIs(diagnose.Absent)), nil},
		{
			"all is well, and Cilium runs elsewhere",
			facts(match(gke), known, ciliumIs(diagnose.Absent), func(f *diagnose.Facts) { f.RunsCilium = "the taint x" }),
			[]string{elsewhere},
		},
		{
			"objects that may select the node",
			facts(fallback(vm), known, bypass, nodeConfig("kpr", diagnose.Unknown)),
			[]string{"whether they select this node"},
		},
		{"all is known", facts(fallback(vm), known, bypass), nil},
		{"GKE's server", facts(fallback(gke), ipMasqIs(diagnose.Forbidden)), []string{masq, annotation}},
		{"an outage", facts(failed(unknown, failure(identity.Timeout, 0), nil, nil)), []string{ciliumLater}},
		{"the pool", facts(verdict(identity.Unbound, pool, gke)), []string{annotation}},
		{"no expectation", facts(verdict(identity.UnknownExpectation, app, gke)), []string{annotation}},
		{
			"a match", facts(match(gke), ciliumIs(diagnose.Forbidden), ipMasqIs(diagnose.Forbidden)),
			[]string{cannot, masq},
		},
		{"a match, and the ConfigMaps are read", facts(match(gke), bypass, ipMasq("")), []string{dataplane, nodeConfigs}},
		{"a match, and nothing threatens it", facts(match(gke), iptables, ipMasq("")), nil},
		{"a match with Dataplane V2", facts(match(gke), v2), []string{masqLater}},
		{"a refused token", facts(refused(identity.Denied, 403)), nil},
		{"another server is probed", facts(fallback(vm), probes("127.0.0.1")), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			gaps := diagnose.Diagnose(tt.facts).Missing
			var got []string
			for _, g := range gaps {
				got = append(got, g.Fact)
			}
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) {
					t.Errorf("got %q, want it to say %q", got[i], tt.want[i])
				}
			}
		})
	}
}
