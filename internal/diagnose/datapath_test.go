package diagnose_test

import (
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// allOfVM are the causes for which nothing speaks but that the VM's server answers.
const allOfVM = "possible host_network, possible node_pool_gce_metadata, " + ofCilium + ", possible redirect_missing"

const ofCilium = "possible cilium_bpf_host_routing, possible cilium_no_conntrack, possible local_redirect_dormant"

// When the VM's server answers, requests have missed the node's rule, or the node has none.
func TestTheVMAnswers(t *testing.T) {
	diagnoses(t, []row{
		{
			"nothing else is known, so all are listed", facts(fallback(vm)),
			allOfVM, "",
		},
		{
			"nothing may be read", facts(fallback(vm), ciliumIs(diagnose.Forbidden), ipMasqIs(diagnose.Forbidden)),
			allOfVM, "",
		},
		{
			"eBPF host routing, and all else is excluded", facts(fallback(vm), known, bypass),
			"proves cilium_bpf_host_routing",
			"host_network, node_pool_gce_metadata, ip_masq_agent_link_local, source_nat, environment_override",
		},
		{
			"eBPF host routing by the old name of its value",
			facts(fallback(vm), known, cilium(bpfMasquerade, "true", kubeProxyReplacement, "strict")),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"eBPF host routing in other spellings",
			facts(
				fallback(vm), known, cilium(bpfMasquerade, " TRUE ", kubeProxyReplacement, "True", legacyRouting, "0"),
			),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"the labels are not known", facts(fallback(vm), podNetwork, v1, bypass),
			"suggests cilium_bpf_host_routing", "host_network",
		},
		{
			"the agent's network is not known", facts(fallback(vm), withServer, v1, bypass),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"the dataplane is not known", facts(fallback(vm), podNetwork, withServer, bypass),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"kube-proxy is replaced in part",
			facts(fallback(vm), known, cilium(bpfMasquerade, "true", kubeProxyReplacement, "partial"), version("")),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"kube-proxy is replaced as far as the kernel can",
			facts(fallback(vm), known, cilium(bpfMasquerade, "true", kubeProxyReplacement, "probe"), version("")),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"a setting that cannot be read",
			facts(fallback(vm), known, cilium(bpfMasquerade, "ja", kubeProxyReplacement, "true")),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"a legacy setting that cannot be read",
			facts(fallback(vm), known, cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", legacyRouting, "")),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"no masquerading of IPv4 beside that by eBPF, with which Cilium does not start",
			facts(
				fallback(vm), known,
				cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", ipv4Masquerade, "false"),
			),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"IPv4 is masqueraded, said in so many words",
			facts(
				fallback(vm), known,
				cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", ipv4Masquerade, "true"),
			),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"the settings were corrected by legacy routing, maybe without a restart",
			facts(fallback(vm), known, legacy, started(-time.Minute)),
			"suggests cilium_bpf_host_routing", "node_pool_gce_metadata",
		},
		{
			"the settings were corrected by iptables, and whether Cilium restarted is not known",
			facts(fallback(vm), known, iptables, ciliumAgentIs(diagnose.Forbidden)),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"kube-proxy is not replaced, as far as the settings tell", facts(fallback(vm), known, kubeProxy),
			"suggests redirect_missing", "host_network, node_pool_gce_metadata",
		},
		{
			"kube-proxy is not replaced, in the old word",
			facts(fallback(vm), known, cilium(bpfMasquerade, "true", kubeProxyReplacement, "disabled")),
			"suggests redirect_missing", "",
		},
		{
			"Cilium with its defaults", facts(fallback(vm), known, cilium()),
			"suggests redirect_missing", "host_network, node_pool_gce_metadata",
		},
		{
			"kube-proxy is replaced, and masquerading is by iptables by default",
			facts(fallback(vm), known, cilium(kubeProxyReplacement, "true"), nodeConfigsAre(diagnose.Forbidden)),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"there is no Cilium, or it is in another namespace", facts(fallback(vm), known, ciliumIs(diagnose.Absent)),
			ofCilium + ", possible redirect_missing", "host_network, node_pool_gce_metadata",
		},
		{
			"Dataplane V2 has Google's settings", facts(fallback(vm), podNetwork, withServer, v2, bypass),
			"", "host_network, node_pool_gce_metadata",
		},
		{
			"a local redirect policy may be dormant", facts(fallback(vm), known, cilium(redirectPolicy, "true")),
			"suggests local_redirect_dormant", "",
		},
		{
			"host routing is proven, whatever a policy did", facts(fallback(vm), known, redirect),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"host routing or a policy", facts(fallback(vm), redirect),
			"suggests cilium_bpf_host_routing, suggests local_redirect_dormant", "",
		},
		{
			"a node pool without the server", facts(fallback(vm), podNetwork, noServer, v1),
			"proves node_pool_gce_metadata", "host_network",
		},
		{
			"a node pool whose label says no",
			facts(fallback(vm), podNetwork, labels(diagnose.LabelMetadataServer, "false")),
			"proves node_pool_gce_metadata", "",
		},
		{"a node without any label", facts(fallback(vm), podNetwork, labels()), "proves node_pool_gce_metadata", ""},
		{
			"a node pool without the server, or the agent's network", facts(fallback(vm), noServer),
			"suggests node_pool_gce_metadata", "",
		},
		{
			"a node pool without the server explains more than host routing",
			facts(fallback(vm), podNetwork, noServer, v1, bypass),
			"proves node_pool_gce_metadata", "",
		},
		{
			"a node pool without the server needs no policy and no repair",
			facts(fallback(vm), podNetwork, noServer, v1, legacy),
			"proves node_pool_gce_metadata", "host_network",
		},
		{
			"a node pool without the server, with policies",
			facts(fallback(vm), podNetwork, noServer, v1, cilium(redirectPolicy, "true")),
			"proves node_pool_gce_metadata", "",
		},
		{"the agent is hostNetwork", facts(fallback(vm), hostNetwork), "proves host_network", ""},
		{
			"the agent is hostNetwork, whatever the settings", facts(fallback(vm), hostNetwork, noServer, v1, redirect),
			"proves host_network", "",
		},
		{
			"link-local masquerading does not make the VM answer",
			facts(fallback(vm), known, kubeProxy, ipMasq(linkLocal)),
			"suggests redirect_missing", "ip_masq_agent_link_local, cilium_bpf_masquerade_link_local",
		},
		{
			"another account than known from the VM's server",
			facts(verdict(identity.NodeFallback, other, vm), known, bypass),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"the VM answers and has no account",
			facts(failed(vm, failure(identity.NotFound, 404), nil, nil), known, bypass),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"the VM answers and has no account, in a pool without the server",
			facts(failed(vm, failure(identity.NotFound, 404), nil, nil), podNetwork, noServer),
			"suggests node_pool_gce_metadata", "",
		},
		{
			"the pool beside the VM's server: two servers, so no proof",
			facts(verdict(identity.Unbound, pool, vm), known, bypass, annotations()),
			"suggests cilium_bpf_host_routing, suggests annotation_missing", "",
		},
	})
}

// When the email is a node's and nobody knows who gave it, little is proven.
func TestANodesAccountFromAnUnknownServer(t *testing.T) {
	diagnoses(t, []row{
		{
			"a node's account from an unknown server", facts(fallback(unknown)),
			"possible host_network, possible node_pool_gce_metadata, " + ofCilium, "",
		},
		{
			"a node's account, and host routing", facts(fallback(unknown), known, bypass),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"a node's account, and safe settings", facts(fallback(unknown), known, legacy),
			"", "host_network, node_pool_gce_metadata",
		},
		{"a node's account, and hostNetwork", facts(fallback(unknown), hostNetwork), "suggests host_network", ""},
		{
			"a node's account, and no label", facts(fallback(unknown), podNetwork, noServer),
			"suggests node_pool_gce_metadata", "",
		},
	})
}

// When GKE's server takes the Pod for somebody else, the way to it is right and the address is not.
func TestGKETakesThePodForAnother(t *testing.T) {
	diagnoses(t, []row{
		{
			"GKE's server takes the Pod for the node", facts(fallback(gke)),
			"suggests source_nat",
			"cilium_bpf_host_routing, host_network, node_pool_gce_metadata, local_redirect_dormant",
		},
		{
			"settings that are not in effect", facts(fallback(gke), known, bypass),
			"suggests source_nat", "cilium_bpf_host_routing",
		},
		{
			"hostNetwork contradicts GKE's server", facts(fallback(gke), hostNetwork),
			"suggests source_nat", "host_network",
		},
		{
			"a missing label contradicts GKE's server", facts(fallback(gke), noServer),
			"suggests source_nat", "node_pool_gce_metadata",
		},
		{
			"link-local addresses are masqueraded by iptables",
			facts(fallback(gke), ciliumIs(diagnose.Absent), ipMasq(linkLocal)),
			"suggests ip_masq_agent_link_local", "",
		},
		{
			"link-local addresses are masqueraded, by whom is not known", facts(fallback(gke), ipMasq(linkLocal)),
			"suggests ip_masq_agent_link_local", "",
		},
		{
			"link-local addresses are masqueraded by Cilium", facts(fallback(gke), ownMasq, ipMasq(linkLocal)),
			"suggests cilium_bpf_masquerade_link_local", "",
		},
		{
			"Cilium would, if it did not masquerade by iptables",
			facts(fallback(gke), cilium(ownAgent, "true"), ipMasq(linkLocal)),
			"suggests source_nat", "",
		},
		{
			"Cilium does not read the ConfigMap", facts(fallback(gke), legacy, ipMasq(linkLocal)),
			"suggests ip_masq_agent_link_local", "",
		},
		{
			"link-local addresses are excluded again",
			facts(fallback(gke), ipMasq("masqLinkLocal: true\nnonMasqueradeCIDRs: [169.254.0.0/16]")),
			"suggests source_nat", "",
		},
		{
			"there is no ip-masq-agent", facts(fallback(gke), ipMasqIs(diagnose.Absent)),
			"suggests source_nat", "",
		},
		{
			"another account from GKE's server",
			facts(verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, string(app))),
			"suggests annotation_changed, suggests source_nat", "",
		},
		{"another account from an unknown server", facts(verdict(identity.Mismatch, other, unknown)), "", ""},
		{
			"GKE's server fails when asked about the Pod",
			facts(
				failed(gke, failure(identity.ServerError, 500), failure(identity.ServerError, 500), nil),
				ipMasqIs(diagnose.Forbidden),
			),
			"suggests source_nat", "",
		},
		{
			"GKE's server fails, and link-local addresses are masqueraded",
			facts(failed(gke, failure(identity.ServerError, 500), nil, nil), ipMasq(linkLocal)),
			"suggests ip_masq_agent_link_local", "",
		},
	})
}

// An identity token says who made it.
func TestTheWitness(t *testing.T) {
	diagnoses(t, []row{
		{
			"eBPF host routing, and the VM signs", facts(fallback(vm), known, bypass, signs(vm, "gke-pool-1")),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"eBPF host routing, and GKE's server signs", facts(fallback(vm), known, bypass, signs(gke, "")),
			"suggests cilium_bpf_host_routing", "",
		},
		{
			"eBPF host routing, and nobody signs", facts(fallback(vm), known, bypass, signs(unknown, "")),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"eBPF host routing, and the signature alone tells the VM",
			facts(fallback(unknown), known, bypass, signs(vm, "gke-pool-1")),
			"proves cilium_bpf_host_routing", "",
		},
		{
			"the address is hidden, and the VM signs",
			facts(
				configured(app), verdict(identity.NodeFallback, node, gke),
				annotations(identity.AnnotationServiceAccount, string(node)), signs(vm, "gke-pool-1"),
			),
			"suggests expectation_outdated, suggests source_nat", "",
		},
	})
}
