package diagnose_test

import (
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// What threatens a good verdict.
func TestRisks(t *testing.T) {
	diagnoses(t, []row{
		{"a match, and kube-proxy is replaced", facts(match(gke), known, cilium(kubeProxyReplacement, "true")), "", ""},
		{"a match, and all is well", facts(match(gke), known, legacy), "", ""},
		{"a match, and nothing is known", facts(match(gke)), "", ""},
		{"host routing will come", facts(match(gke), known, bypass), "suggests cilium_bpf_host_routing", ""},
		{"host routing may come, or the settings are Google's", facts(match(gke), bypass), "", ""},
		{"host routing is Google's", facts(match(gke), v2, bypass), "", ""},
		{
			"kube-proxy is replaced in part, which breaks nothing yet",
			facts(match(gke), known, cilium(bpfMasquerade, "true", kubeProxyReplacement, "partial")),
			"", "",
		},
		{
			"a policy is all that holds", facts(match(gke), known, redirect),
			"suggests cilium_bpf_host_routing, suggests local_redirect_dormant", "",
		},
		{"a policy before GKE's own rule", facts(match(gke), known, cilium(redirectPolicy, "true")), "", ""},
		{
			"link-local addresses are masqueraded, without harm", facts(match(gke), ipMasq(linkLocal)),
			"suggests ip_masq_agent_link_local", "",
		},
		{
			"link-local addresses are masqueraded by Cilium, without harm",
			facts(match(gke), v1, ownMasq, ipMasq(linkLocal)),
			"suggests cilium_bpf_masquerade_link_local", "",
		},
		{
			"Cilium's agents refuse to start with that",
			facts(match(gke), v1, cilium(ownAgent, "true"), ipMasq(linkLocal)),
			"", "",
		},
		{"the node's own identity is expected", facts(match(vm), signs(vm, "gke-pool-1")), "proves node_identity_expected", ""},
		{"the VM answers, and nobody signs", facts(match(vm)), "suggests node_identity_expected", ""},
		{
			"the VM signs for another than the expected identity, which came from the other server",
			facts(match(vm), func(f *diagnose.Facts) {
				f.Claims = identity.Claims{Server: vm, Machine: "gke-pool-1", Identity: node}
			}),
			"suggests node_identity_expected", "",
		},
		{
			"the node's own identity is expected, in a pool without the server", facts(match(vm), signs(vm, ""), podNetwork, noServer),
			"proves node_pool_gce_metadata, proves node_identity_expected", "",
		},
		{
			"the node's own identity is expected, by host routing", facts(match(vm), signs(vm, ""), known, bypass),
			"proves cilium_bpf_host_routing, proves node_identity_expected", "",
		},
		{
			"the node's own identity is expected, by a policy", facts(match(vm), signs(vm, ""), known, cilium(redirectPolicy, "true")),
			"proves node_identity_expected, suggests local_redirect_dormant", "",
		},
		{
			"a match of an agent in the host's network", facts(match(vm), signs(vm, ""), hostNetwork),
			"proves host_network, proves node_identity_expected", "",
		},
		{
			"a match by answers of two servers", facts(verdict(identity.Match, pool, vm)),
			"suggests node_identity_expected", "",
		},
		{"a match after a failure", facts(match(gke), recovered), "suggests pooled_connections", ""},
		{"no match after a failure", facts(fallback(gke), recovered), "suggests source_nat", ""},
		{
			"credentials in the environment", facts(match(gke), variables("GOOGLE_APPLICATION_CREDENTIALS")),
			"suggests environment_override", "",
		},
		{"a proxy in the environment", facts(match(gke), variables("http_proxy")), "suggests environment_override", ""},
		{"a proxy with exceptions", facts(match(gke), variables("HTTP_PROXY", "NO_PROXY")), "", ""},
		{"a proxy for TLS alone, and unrelated variables", facts(match(gke), variables("HTTPS_PROXY", "PATH")), "", ""},
	})
}
