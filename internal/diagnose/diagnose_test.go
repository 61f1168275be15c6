package diagnose_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	app       identity.Identity = "app@project.iam.gserviceaccount.com"
	other     identity.Identity = "other@project.iam.gserviceaccount.com"
	node      identity.Identity = "1-compute@developer.gserviceaccount.com"
	pool      identity.Identity = "project.svc.id.goog"
	principal identity.Identity = "principal://iam.googleapis.com/projects/1/locations/global/workloadidentitypools/project.svc.id.goog/subject/ns/demo/sa/app"
)

// fact changes facts. Facts that no test mentions are not known.
type fact func(*diagnose.Facts)

func facts(all ...fact) diagnose.Facts {
	f := diagnose.Facts{Loop: diagnose.Loop{Expectation: annotated(app)}}
	for _, set := range all {
		set(&f)
	}
	return f
}

func annotated(id identity.Identity) identity.Expectation {
	return identity.Expectation{Accepted: []identity.Pattern{identity.Exactly(id)}, Source: identity.SourceAnnotation}
}

func verdict(s identity.State, id identity.Identity, by identity.Server) fact {
	return func(f *diagnose.Facts) {
		f.Verdict = identity.Verdict{State: s, Identity: id, Server: by}
		f.Observation.Email = identity.Email{Request: identity.Request{Origin: identity.Asked}, Identity: id}
		f.Observation.Token.Request = identity.Request{Origin: identity.Asked}
		f.Observation.Server = identity.Responder{Request: identity.Request{Origin: identity.Asked}, Server: by}
	}
}

func fallback(by identity.Server) fact { return verdict(identity.NodeFallback, node, by) }
func match(by identity.Server) fact    { return verdict(identity.Match, app, by) }

// failed is an outage: each endpoint has a failure or none.
func failed(by identity.Server, email, token, server *identity.Failure) fact {
	return func(f *diagnose.Facts) {
		verdict(identity.Unavailable, "", by)(f)
		f.Observation.Email.Failure, f.Observation.Token.Failure, f.Observation.Server.Failure = email, token, server
		if email == nil {
			f.Verdict.Identity, f.Observation.Email.Identity = app, app
		}
	}
}

func refused(reason identity.Reason, status int) fact {
	return func(f *diagnose.Facts) {
		verdict(identity.TokenDenied, app, identity.ServerGKE)(f)
		f.Observation.Token.Failure = &identity.Failure{Reason: reason, Status: status, Detail: "body withheld"}
	}
}

func failure(reason identity.Reason, status int) *identity.Failure {
	return &identity.Failure{Reason: reason, Status: status, Detail: "detail"}
}

// cilium is cilium-config with pairs of keys and values.
func cilium(pairs ...string) fact {
	data := map[string]string{"unrelated": "value"}
	for i := 0; i < len(pairs); i += 2 {
		data[pairs[i]] = pairs[i+1]
	}
	return func(f *diagnose.Facts) { f.Cilium = diagnose.ConfigMap{State: diagnose.Read, Data: data} }
}

func ciliumIs(s diagnose.ConfigMapState) fact {
	return func(f *diagnose.Facts) { f.Cilium.State = s }
}

func ipMasq(config string) fact {
	return func(f *diagnose.Facts) {
		f.IPMasqAgent = diagnose.ConfigMap{State: diagnose.Read, Data: map[string]string{"config": config}}
	}
}

func ipMasqIs(s diagnose.ConfigMapState) fact {
	return func(f *diagnose.Facts) { f.IPMasqAgent.State = s }
}

func labels(pairs ...string) fact {
	return func(f *diagnose.Facts) {
		f.NodeLabels = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			f.NodeLabels[pairs[i]] = pairs[i+1]
		}
	}
}

func annotations(pairs ...string) fact {
	return func(f *diagnose.Facts) {
		f.Annotations = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			f.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

func configured(ids ...identity.Identity) fact {
	return func(f *diagnose.Facts) { f.Expectation = identity.Expect(ids...) }
}

func replaced(e identity.Expectation) fact { return func(f *diagnose.Facts) { f.Replaced = e } }
func variables(names ...string) fact {
	return func(f *diagnose.Facts) { f.Environment.Variables = names }
}

func signs(by identity.Server, machine string) fact {
	return func(f *diagnose.Facts) { f.Claims = identity.Claims{Server: by, Machine: machine} }
}

func probes(host string) fact { return func(f *diagnose.Facts) { f.Environment.MetadataHost = host } }

var (
	podNetwork  fact = func(f *diagnose.Facts) { f.HostNetwork = diagnose.No }
	hostNetwork fact = func(f *diagnose.Facts) { f.HostNetwork = diagnose.Yes }
	v1          fact = func(f *diagnose.Facts) { f.DataplaneV2 = diagnose.No }
	v2          fact = func(f *diagnose.Facts) { f.DataplaneV2 = diagnose.Yes }
	recovered   fact = func(f *diagnose.Facts) { f.Recovered = true }
	withServer       = labels(diagnose.LabelMetadataServer, "true")
	noServer         = labels("kubernetes.io/os", "linux")

	bypass    = cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "true")
	legacy    = cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "true", "enable-host-legacy-routing", "true")
	iptables  = cilium("enable-bpf-masquerade", "false", "kube-proxy-replacement", "true")
	kubeProxy = cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "false")
	redirect  = cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "true", "enable-local-redirect-policy", "true")
	ownMasq   = cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "false", "enable-ip-masq-agent", "true")
)

const (
	vm, gke, unknown = identity.ServerVM, identity.ServerGKE, identity.ServerUnknown
	linkLocal        = "masqLinkLocal: true\nnonMasqueradeCIDRs: [10.0.0.0/8]"
)

// all puts several facts into one.
func all(facts ...fact) fact {
	return func(f *diagnose.Facts) {
		for _, set := range facts {
			set(f)
		}
	}
}

// known are the facts of a node on which everything but Cilium is known and well.
var known = all(podNetwork, withServer, v1, ipMasqIs(diagnose.Absent))

func TestDiagnose(t *testing.T) {
	tests := []struct {
		name  string
		facts diagnose.Facts
		// suspects or, for a match, risks: "confidence cause" in order.
		want []string
		// excluded must be among those that are ruled out.
		excluded []diagnose.Cause
	}{
		// The VM's server answers.
		{"nothing else is known", facts(fallback(vm)), nil, nil},
		{"nothing may be read", facts(fallback(vm), ciliumIs(diagnose.Forbidden), ipMasqIs(diagnose.Forbidden)), nil, nil},
		{"eBPF host routing, and all else is excluded", facts(fallback(vm), known, bypass), []string{"proves cilium_bpf_host_routing"}, []diagnose.Cause{diagnose.HostNetwork, diagnose.NodePoolGCEMetadata, diagnose.LocalRedirectDormant, diagnose.IPMasqAgentLinkLocal, diagnose.SourceNAT, diagnose.EnvironmentOverride}},
		{"eBPF host routing by the old name of its value", facts(fallback(vm), known, cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "strict")), []string{"proves cilium_bpf_host_routing"}, nil},
		{"eBPF host routing in other spellings", facts(fallback(vm), known, cilium("enable-bpf-masquerade", " TRUE ", "kube-proxy-replacement", "True", "enable-host-legacy-routing", "0")), []string{"proves cilium_bpf_host_routing"}, nil},
		{"the labels are not known", facts(fallback(vm), podNetwork, v1, bypass), []string{"suggests cilium_bpf_host_routing"}, []diagnose.Cause{diagnose.HostNetwork}},
		{"the agent's network is not known", facts(fallback(vm), withServer, v1, bypass), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"the dataplane is not known", facts(fallback(vm), podNetwork, withServer, bypass), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"kube-proxy is replaced in part", facts(fallback(vm), known, cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "partial")), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"kube-proxy is replaced as far as the kernel can", facts(fallback(vm), known, cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "probe")), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"a setting that cannot be read", facts(fallback(vm), known, cilium("enable-bpf-masquerade", "ja", "kube-proxy-replacement", "true")), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"a legacy setting that cannot be read", facts(fallback(vm), known, cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "true", "enable-host-legacy-routing", "")), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"no masquerading of IPv4, of which no source is sure", facts(fallback(vm), known, cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "true", "enable-ipv4-masquerade", "false")), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"IPv4 is masqueraded, said in so many words", facts(fallback(vm), known, cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "true", "enable-ipv4-masquerade", "true")), []string{"proves cilium_bpf_host_routing"}, nil},
		{"the settings were corrected by legacy routing, maybe without a restart", facts(fallback(vm), known, legacy), []string{"suggests cilium_bpf_host_routing"}, []diagnose.Cause{diagnose.NodePoolGCEMetadata}},
		{"the settings were corrected by iptables, maybe without a restart", facts(fallback(vm), known, iptables), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"kube-proxy is not replaced", facts(fallback(vm), known, kubeProxy), nil, []diagnose.Cause{diagnose.CiliumBPFHostRouting, diagnose.LocalRedirectDormant}},
		{"kube-proxy is not replaced, in the old word", facts(fallback(vm), known, cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "disabled")), nil, []diagnose.Cause{diagnose.CiliumBPFHostRouting}},
		{"Cilium with its defaults", facts(fallback(vm), known, cilium()), nil, []diagnose.Cause{diagnose.CiliumBPFHostRouting, diagnose.LocalRedirectDormant}},
		{"kube-proxy is replaced, and masquerading is by iptables by default", facts(fallback(vm), known, cilium("kube-proxy-replacement", "true")), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"there is no Cilium", facts(fallback(vm), known, ciliumIs(diagnose.Absent)), nil, []diagnose.Cause{diagnose.CiliumBPFHostRouting, diagnose.LocalRedirectDormant}},
		{"all is well but the answer", facts(fallback(vm), known, ciliumIs(diagnose.Absent)), nil, []diagnose.Cause{diagnose.HostNetwork, diagnose.NodePoolGCEMetadata}},
		{"Dataplane V2 has Google's settings", facts(fallback(vm), podNetwork, withServer, v2, bypass), nil, []diagnose.Cause{diagnose.HostNetwork, diagnose.NodePoolGCEMetadata}},
		{"a local redirect policy may be dormant", facts(fallback(vm), known, cilium("enable-local-redirect-policy", "true")), []string{"suggests local_redirect_dormant"}, []diagnose.Cause{diagnose.CiliumBPFHostRouting}},
		{"host routing is proven, whatever a policy did", facts(fallback(vm), known, redirect), []string{"proves cilium_bpf_host_routing"}, nil},
		{"host routing or a policy", facts(fallback(vm), redirect), []string{"suggests cilium_bpf_host_routing", "suggests local_redirect_dormant"}, nil},
		{"a node pool without the server", facts(fallback(vm), podNetwork, noServer, v1), []string{"proves node_pool_gce_metadata"}, []diagnose.Cause{diagnose.HostNetwork}},
		{"a node pool whose label says no", facts(fallback(vm), podNetwork, labels(diagnose.LabelMetadataServer, "false")), []string{"proves node_pool_gce_metadata"}, nil},
		{"a node without any label", facts(fallback(vm), podNetwork, labels()), []string{"proves node_pool_gce_metadata"}, nil},
		{"a node pool without the server, or the agent's network", facts(fallback(vm), noServer), []string{"suggests node_pool_gce_metadata"}, nil},
		{"a node pool without the server explains more than host routing", facts(fallback(vm), podNetwork, noServer, v1, bypass), []string{"proves node_pool_gce_metadata"}, nil},
		{"a node pool without the server needs no policy and no repair", facts(fallback(vm), podNetwork, noServer, v1, legacy), []string{"proves node_pool_gce_metadata"}, []diagnose.Cause{diagnose.CiliumBPFHostRouting, diagnose.LocalRedirectDormant}},
		{"a node pool without the server, with policies", facts(fallback(vm), podNetwork, noServer, v1, cilium("enable-local-redirect-policy", "true")), []string{"proves node_pool_gce_metadata"}, nil},
		{"the agent is hostNetwork", facts(fallback(vm), hostNetwork), []string{"proves host_network"}, nil},
		{"the agent is hostNetwork, whatever the settings", facts(fallback(vm), hostNetwork, noServer, v1, redirect), []string{"proves host_network"}, nil},
		{"link-local masquerading does not make the VM answer", facts(fallback(vm), known, kubeProxy, ipMasq(linkLocal)), nil, []diagnose.Cause{diagnose.IPMasqAgentLinkLocal, diagnose.CiliumBPFMasqueradeLinkLocal}},
		{"another account than known from the VM's server", facts(verdict(identity.NodeFallback, other, vm), known, bypass), []string{"proves cilium_bpf_host_routing"}, nil},
		{"the VM answers and has no account", facts(failed(vm, failure(identity.NotFound, 404), nil, nil), known, bypass), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"the VM answers and has no account, in a pool without the server", facts(failed(vm, failure(identity.NotFound, 404), nil, nil), podNetwork, noServer), []string{"suggests node_pool_gce_metadata"}, nil},
		{"the pool beside the VM's server: two servers, so no proof", facts(verdict(identity.Unbound, pool, vm), known, bypass, annotations()), []string{"suggests cilium_bpf_host_routing", "suggests annotation_missing"}, nil},

		// The email is a node's, and the server is not known.
		{"a node's account from an unknown server", facts(fallback(unknown)), nil, nil},
		{"a node's account, and host routing", facts(fallback(unknown), known, bypass), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"a node's account, and safe settings", facts(fallback(unknown), known, legacy), nil, []diagnose.Cause{diagnose.CiliumBPFHostRouting}},
		{"a node's account, and hostNetwork", facts(fallback(unknown), hostNetwork), []string{"suggests host_network"}, nil},
		{"a node's account, and no label", facts(fallback(unknown), podNetwork, noServer), []string{"suggests node_pool_gce_metadata"}, nil},

		// GKE's server answers as somebody else.
		{"GKE's server takes the Pod for the node", facts(fallback(gke)), []string{"suggests source_nat"}, []diagnose.Cause{diagnose.CiliumBPFHostRouting, diagnose.HostNetwork, diagnose.NodePoolGCEMetadata, diagnose.LocalRedirectDormant}},
		{"settings that are not in effect", facts(fallback(gke), known, bypass), []string{"suggests source_nat"}, []diagnose.Cause{diagnose.CiliumBPFHostRouting}},
		{"hostNetwork contradicts GKE's server", facts(fallback(gke), hostNetwork), []string{"suggests source_nat"}, []diagnose.Cause{diagnose.HostNetwork}},
		{"a missing label contradicts GKE's server", facts(fallback(gke), noServer), []string{"suggests source_nat"}, []diagnose.Cause{diagnose.NodePoolGCEMetadata}},
		{"link-local addresses are masqueraded by iptables", facts(fallback(gke), ciliumIs(diagnose.Absent), ipMasq(linkLocal)), []string{"suggests ip_masq_agent_link_local"}, []diagnose.Cause{diagnose.CiliumBPFMasqueradeLinkLocal}},
		{"link-local addresses are masqueraded, by whom is not known", facts(fallback(gke), ipMasq(linkLocal)), []string{"suggests ip_masq_agent_link_local"}, nil},
		{"link-local addresses are masqueraded by Cilium", facts(fallback(gke), ownMasq, ipMasq(linkLocal)), []string{"suggests cilium_bpf_masquerade_link_local"}, []diagnose.Cause{diagnose.IPMasqAgentLinkLocal}},
		{"Cilium would, if it did not masquerade by iptables", facts(fallback(gke), cilium("enable-ip-masq-agent", "true"), ipMasq(linkLocal)), nil, []diagnose.Cause{diagnose.IPMasqAgentLinkLocal, diagnose.CiliumBPFMasqueradeLinkLocal}},
		{"Cilium does not read the ConfigMap", facts(fallback(gke), legacy, ipMasq(linkLocal)), []string{"suggests ip_masq_agent_link_local"}, []diagnose.Cause{diagnose.CiliumBPFMasqueradeLinkLocal}},
		{"link-local addresses are excluded again", facts(fallback(gke), ipMasq("masqLinkLocal: true\nnonMasqueradeCIDRs: [169.254.0.0/16]")), []string{"suggests source_nat"}, []diagnose.Cause{diagnose.IPMasqAgentLinkLocal}},
		{"there is no ip-masq-agent", facts(fallback(gke), ipMasqIs(diagnose.Absent)), []string{"suggests source_nat"}, []diagnose.Cause{diagnose.IPMasqAgentLinkLocal, diagnose.CiliumBPFMasqueradeLinkLocal}},
		{"another account from GKE's server", facts(verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, string(app))), []string{"suggests source_nat"}, nil},
		{"another account from an unknown server", facts(verdict(identity.Mismatch, other, unknown)), nil, nil},
		{"GKE's server fails when asked about the Pod", facts(failed(gke, failure(identity.ServerError, 500), failure(identity.ServerError, 500), nil), ipMasqIs(diagnose.Forbidden)), []string{"suggests source_nat"}, nil},
		{"GKE's server fails, and link-local addresses are masqueraded", facts(failed(gke, failure(identity.ServerError, 500), nil, nil), ipMasq(linkLocal)), []string{"suggests ip_masq_agent_link_local"}, nil},

		// What an identity token says of who made it.
		{"eBPF host routing, and the VM signs", facts(fallback(vm), known, bypass, signs(vm, "gke-pool-1")), []string{"proves cilium_bpf_host_routing"}, nil},
		{"eBPF host routing, and GKE's server signs", facts(fallback(vm), known, bypass, signs(gke, "")), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"eBPF host routing, and nobody signs", facts(fallback(vm), known, bypass, signs(unknown, "")), []string{"proves cilium_bpf_host_routing"}, nil},
		{"eBPF host routing, and the signature alone tells the VM", facts(fallback(unknown), known, bypass, signs(vm, "gke-pool-1")), []string{"proves cilium_bpf_host_routing"}, nil},
		{"the address is hidden, and the VM signs", facts(configured(app), verdict(identity.NodeFallback, node, gke), annotations(identity.AnnotationServiceAccount, string(node)), signs(vm, "gke-pool-1")), []string{"suggests expectation_outdated", "suggests source_nat"}, nil},

		// The expectation.
		{"WI_EXPECTED_EMAILS is out of date", facts(configured(app), verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, " Other@project.iam.gserviceaccount.com ")), []string{"proves expectation_outdated"}, nil},
		{"the annotation names the node's account", facts(configured(app), verdict(identity.NodeFallback, node, gke), annotations(identity.AnnotationServiceAccount, string(node))), []string{"proves expectation_outdated"}, nil},
		{"the annotation names the node's account, and the server is not known", facts(configured(app), fallback(unknown), annotations(identity.AnnotationServiceAccount, string(node))), []string{"suggests expectation_outdated"}, nil},
		{"the annotation names the node's account, and the VM's server answers", facts(configured(app), fallback(vm), annotations(identity.AnnotationServiceAccount, string(node))), nil, nil},
		{"WI_EXPECTED_EMAILS and the annotation agree", facts(configured(app), verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, string(app))), []string{"suggests source_nat"}, []diagnose.Cause{diagnose.ExpectationOutdated}},
		{"the principal is asked for", facts(configured(app), verdict(identity.Unbound, principal, gke), annotations(identity.AnnotationReturnPrincipal, "true")), []string{"proves expectation_outdated"}, nil},
		{"no annotation, and one is configured", facts(configured(app), verdict(identity.Unbound, pool, gke), annotations()), []string{"proves annotation_missing"}, nil},
		{"no annotation, and the principal that is asked for is not given", facts(configured(app), verdict(identity.Unbound, pool, gke), annotations(identity.AnnotationReturnPrincipal, "true")), []string{"proves annotation_missing"}, nil},
		{"no annotation, whatever was expected before", facts(verdict(identity.Unbound, principal, gke), annotations(), replaced(annotated(principal))), []string{"suggests annotation_missing"}, nil},
		{"no annotation any more", facts(verdict(identity.Unbound, pool, gke), annotations(), replaced(annotated(other))), []string{"proves annotation_missing"}, []diagnose.Cause{diagnose.ExpectationOutdated}},
		{"no annotation, and the principal is asked for by nobody", facts(configured(app), verdict(identity.Unbound, principal, gke), annotations()), []string{"suggests annotation_missing"}, nil},
		{"the pool, and the annotations are not known", facts(configured(app), verdict(identity.Unbound, pool, gke)), []string{"suggests annotation_missing"}, nil},
		{"the pool, and only the annotation could have told", facts(verdict(identity.Unbound, pool, gke)), nil, nil},
		{"the annotation is there and not seen", facts(verdict(identity.Unbound, pool, gke), annotations(identity.AnnotationServiceAccount, string(app))), []string{"suggests annotation_changed"}, []diagnose.Cause{diagnose.AnnotationMissing}},
		{"the annotation was just added", facts(verdict(identity.Unbound, pool, gke), annotations(identity.AnnotationServiceAccount, string(app)), replaced(identity.Expectation{Accepted: []identity.Pattern{"project.svc.id.goog"}, Source: identity.SourceWorkloadPool})), []string{"proves annotation_changed"}, nil},
		{"the annotation was changed, and the server gives the old one", facts(verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, string(app)), replaced(annotated(other))), []string{"proves annotation_changed"}, nil},
		{"the annotation was changed, and the agent has the old one", facts(verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, string(other))), []string{"proves annotation_changed"}, nil},
		{"the annotation was changed, to something else", facts(verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, string(app)), replaced(annotated(node))), []string{"suggests source_nat"}, nil},
		{"the annotation was changed, and the server is not known", facts(verdict(identity.Mismatch, other, unknown), replaced(annotated(other))), []string{"suggests annotation_changed"}, nil},
		{"the annotation was changed from the node's account, which the VM's server gives", facts(fallback(vm), replaced(annotated(node))), nil, nil},

		// IAM.
		{"the binding is missing", facts(refused(identity.Denied, 403)), []string{"suggests iam_binding_missing"}, nil},
		{"the account does not exist", facts(refused(identity.NoServiceAccount, 404)), []string{"proves gsa_missing"}, []diagnose.Cause{diagnose.IAMBindingMissing}},
		{"the last probe failed otherwise than the verdict says", facts(refused(identity.Timeout, 0)), nil, nil},
		{"the VM's server refuses the token", facts(refused(identity.Denied, 403), func(f *diagnose.Facts) { f.Verdict.Server = vm }), nil, nil},

		// Outages.
		{"nothing listens", facts(failed(unknown, failure(identity.Unreachable, 0), failure(identity.Unreachable, 0), failure(identity.Unreachable, 0))), []string{"suggests metadata_server_down"}, nil},
		{"nothing listens where a policy leads", facts(failed(unknown, failure(identity.Unreachable, 0), failure(identity.Unreachable, 0), failure(identity.Unreachable, 0)), redirect), []string{"suggests metadata_server_down"}, nil},
		{"all requests are dropped", facts(failed(unknown, failure(identity.Timeout, 0), failure(identity.Timeout, 0), failure(identity.Timeout, 0))), []string{"suggests network_policy", "suggests metadata_server_down"}, nil},
		{"all requests are dropped, and no token was asked for", facts(failed(unknown, failure(identity.Timeout, 0), nil, failure(identity.Timeout, 0)), func(f *diagnose.Facts) { f.Observation.Token = identity.Token{} }), []string{"suggests network_policy", "suggests metadata_server_down"}, nil},
		{"some are dropped and some refused", facts(failed(unknown, failure(identity.Timeout, 0), failure(identity.Unreachable, 0), failure(identity.Timeout, 0))), []string{"suggests metadata_server_down"}, nil},
		{"one request is dropped", facts(failed(gke, failure(identity.Timeout, 0), nil, nil)), nil, []diagnose.Cause{diagnose.NetworkPolicy, diagnose.MetadataServerDown}},
		{"a body that does not end is an answer", facts(failed(unknown, failure(identity.Timeout, 200), failure(identity.Timeout, 0), failure(identity.Timeout, 0))), nil, []diagnose.Cause{diagnose.NetworkPolicy, diagnose.MetadataServerDown}},
		{"the server only fails", facts(failed(unknown, failure(identity.ServerError, 500), failure(identity.ServerError, 500), failure(identity.ServerError, 500))), []string{"suggests metadata_server_down"}, []diagnose.Cause{diagnose.NetworkPolicy}},
		{"the server starts", facts(failed(unknown, failure(identity.NotFound, 404), failure(identity.NotFound, 404), failure(identity.Timeout, 0))), []string{"suggests metadata_server_down"}, nil},
		{"the server starts, and looks like GKE's by the 404 for the machine type", facts(failed(gke, failure(identity.NotFound, 404), failure(identity.NotFound, 404), nil)), []string{"suggests metadata_server_down"}, []diagnose.Cause{diagnose.NetworkPolicy}},
		{"the server has no tokens yet", facts(failed(gke, nil, failure(identity.NotFound, 404), nil)), []string{"suggests metadata_server_down"}, nil},
		{"no token by the deadline", facts(failed(gke, nil, failure(identity.Timeout, 0), nil)), []string{"suggests sts_blocked"}, []diagnose.Cause{diagnose.NetworkPolicy}},
		{"504 for the token", facts(failed(gke, nil, failure(identity.ServerError, 504), nil)), []string{"suggests sts_blocked"}, nil},
		{"429 for the token", facts(failed(gke, nil, failure(identity.Throttled, http.StatusTooManyRequests), nil)), []string{"proves throttled"}, nil},
		{"499 for the email", facts(failed(gke, failure(identity.Throttled, 499), failure(identity.Throttled, 499), nil)), []string{"proves throttled"}, nil},
		{"a proxy's redirect", facts(failed(unknown, failure(identity.Redirect, 302), nil, nil)), []string{"suggests not_a_metadata_server"}, nil},
		{"a page for an email", facts(failed(unknown, failure(identity.Malformed, 200), nil, nil)), []string{"suggests not_a_metadata_server"}, nil},
		{"a forbidden email", facts(failed(unknown, failure(identity.Denied, 403), nil, nil)), []string{"suggests not_a_metadata_server"}, nil},
		{"an outage of which the last probe knows nothing", facts(verdict(identity.Unavailable, "", unknown), redirect), nil, nil},
		{"an outage without any observation", facts(func(f *diagnose.Facts) { f.Verdict.State = identity.Unavailable }), nil, nil},

		// Nothing to explain.
		{"no expectation", facts(verdict(identity.UnknownExpectation, other, gke), bypass, hostNetwork), nil, nil},
		{"the start", facts(verdict(identity.Starting, "", unknown), bypass, hostNetwork), nil, nil},
		{"a loop that has stopped", facts(verdict(identity.Stale, node, vm), bypass, hostNetwork), nil, nil},
		{"no facts at all", diagnose.Facts{}, nil, nil},

		// Another server is probed.
		{"another server is probed", facts(fallback(vm), hostNetwork, bypass, probes("127.0.0.1:10980")), []string{"suggests host_network", "suggests environment_override"}, nil},
		{"another server is probed, and it gives the right identity", facts(match(gke), known, bypass, probes("127.0.0.1:10980")), []string{"suggests cilium_bpf_host_routing", "suggests environment_override"}, nil},
		{"variables that the probe ignores", facts(fallback(vm), variables("GCE_METADATA_HOST")), nil, []diagnose.Cause{diagnose.EnvironmentOverride}},

		// Risks.
		{"a match, and kube-proxy is replaced", facts(match(gke), known, cilium("kube-proxy-replacement", "true")), nil, nil},
		{"a match, and all is well", facts(match(gke), known, legacy), nil, nil},
		{"a match, and nothing is known", facts(match(gke)), nil, nil},
		{"host routing will come", facts(match(gke), known, bypass), []string{"suggests cilium_bpf_host_routing"}, nil},
		{"host routing may come, or the settings are Google's", facts(match(gke), bypass), nil, nil},
		{"host routing is Google's", facts(match(gke), v2, bypass), nil, nil},
		{"kube-proxy is replaced in part, which breaks nothing yet", facts(match(gke), known, cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "partial")), nil, nil},
		{"a policy is all that holds", facts(match(gke), known, redirect), []string{"suggests cilium_bpf_host_routing", "suggests local_redirect_dormant"}, nil},
		{"a policy before GKE's own rule", facts(match(gke), known, cilium("enable-local-redirect-policy", "true")), nil, nil},
		{"link-local addresses are masqueraded, without harm", facts(match(gke), ipMasq(linkLocal)), []string{"suggests ip_masq_agent_link_local"}, nil},
		{"link-local addresses are masqueraded by Cilium, without harm", facts(match(gke), v1, ownMasq, ipMasq(linkLocal)), []string{"suggests cilium_bpf_masquerade_link_local"}, nil},
		{"Cilium's agents refuse to start with that", facts(match(gke), v1, cilium("enable-ip-masq-agent", "true"), ipMasq(linkLocal)), nil, nil},
		{"the node's own identity is expected", facts(match(vm)), []string{"proves node_identity_expected"}, nil},
		{"the node's own identity is expected, in a pool without the server", facts(match(vm), podNetwork, noServer), []string{"proves node_pool_gce_metadata", "proves node_identity_expected"}, nil},
		{"the node's own identity is expected, by host routing", facts(match(vm), known, bypass), []string{"proves cilium_bpf_host_routing", "proves node_identity_expected"}, nil},
		{"the node's own identity is expected, by a policy", facts(match(vm), known, cilium("enable-local-redirect-policy", "true")), []string{"proves node_identity_expected", "suggests local_redirect_dormant"}, nil},
		{"a match of an agent in the host's network", facts(match(vm), hostNetwork), []string{"proves host_network", "proves node_identity_expected"}, nil},
		{"a match by answers of two servers", facts(verdict(identity.Match, pool, vm)), []string{"suggests node_identity_expected"}, nil},
		{"a match after a failure", facts(match(gke), recovered), []string{"suggests pooled_connections"}, nil},
		{"no match after a failure", facts(fallback(vm), recovered), nil, nil},
		{"credentials in the environment", facts(match(gke), variables("GOOGLE_APPLICATION_CREDENTIALS")), []string{"suggests environment_override"}, nil},
		{"a proxy in the environment", facts(match(gke), variables("http_proxy")), []string{"suggests environment_override"}, nil},
		{"a proxy with exceptions", facts(match(gke), variables("HTTP_PROXY", "NO_PROXY")), nil, nil},
		{"a proxy for TLS alone, and unrelated variables", facts(match(gke), variables("HTTPS_PROXY", "PATH")), nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := diagnose.Diagnose(tt.facts)
			list := d.Suspects
			if tt.facts.Verdict.State == identity.Match {
				list = d.Risks
			}
			var got []string
			for _, f := range list {
				got = append(got, string(f.Confidence)+" "+string(f.Cause))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for _, c := range tt.excluded {
				if !slices.ContainsFunc(d.RuledOut, func(f diagnose.Finding) bool { return f.Cause == c }) {
					t.Errorf("%s is not ruled out, but %v are", c, causes(d.RuledOut))
				}
			}
			check(t, tt.facts, d)
		})
	}
}

// Who signs is told by name: somebody at 3 a.m. can look whether it is the node.
func TestTheVMIsNamed(t *testing.T) {
	for _, f := range []diagnose.Facts{
		facts(fallback(vm), known, bypass, signs(vm, "gke-pool-1")), facts(fallback(vm), podNetwork, noServer, signs(vm, "gke-pool-1")),
	} {
		if got := diagnose.Diagnose(f).Suspects[0].Why; !strings.HasPrefix(got, `The metadata server of the VM "gke-pool-1" answers`) {
			t.Errorf("why: %s", got)
		}
	}
}

func causes(findings []diagnose.Finding) []diagnose.Cause {
	var list []diagnose.Cause
	for _, f := range findings {
		list = append(list, f.Cause)
	}
	return list
}

// A finding shows what it rests on.
func TestWhyQuotesTheSettings(t *testing.T) {
	tests := []struct {
		name  string
		facts diagnose.Facts
		cause diagnose.Cause
		want  []string
	}{
		{"the bypass", facts(fallback(vm), known, bypass), diagnose.CiliumBPFHostRouting, []string{`enable-bpf-masquerade is "true"`, `kube-proxy-replacement is "true"`, "enable-host-legacy-routing is not set"}},
		{"a repair that has not been put into effect", facts(fallback(vm), known, legacy), diagnose.CiliumBPFHostRouting, []string{`enable-host-legacy-routing is "true"`, "only when they start"}},
		{"another repair", facts(fallback(vm), known, iptables), diagnose.CiliumBPFHostRouting, []string{`enable-bpf-masquerade is "false"`, "only when they start"}},
		{"what is not known for sure", facts(fallback(vm), known, cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "true", "enable-ipv4-masquerade", "false")), diagnose.CiliumBPFHostRouting, []string{`enable-ipv4-masquerade is "false"`}},
		{"what will come in spite of GKE's answer", facts(fallback(gke), known, bypass), diagnose.CiliumBPFHostRouting, []string{"GKE's metadata server answers", `enable-bpf-masquerade is "true"`, "restart"}},
		{"kube-proxy", facts(fallback(vm), known, kubeProxy), diagnose.CiliumBPFHostRouting, []string{`kube-proxy-replacement is "false"`}},
		{"no Cilium", facts(fallback(vm), known, ciliumIs(diagnose.Absent)), diagnose.LocalRedirectDormant, []string{`no ConfigMap cilium-config in the namespace "kube-system"`}},
		{"a policy", facts(fallback(vm), known, redirect, noServer, func(f *diagnose.Facts) { f.HostNetwork = diagnose.Unknown }), diagnose.LocalRedirectDormant, []string{`enable-local-redirect-policy is "true"`}},
		{"a label", facts(fallback(vm), podNetwork, labels(diagnose.LabelMetadataServer, "false")), diagnose.NodePoolGCEMetadata, []string{diagnose.LabelMetadataServer, `"false"`}},
		{"no label", facts(fallback(vm), podNetwork, noServer), diagnose.NodePoolGCEMetadata, []string{"lacks the label " + diagnose.LabelMetadataServer + "=true"}},
		{"masqLinkLocal", facts(fallback(gke), ipMasq(linkLocal)), diagnose.IPMasqAgentLinkLocal, []string{"masqLinkLocal is true", "169.254.169.254"}},
		{"masqLinkLocal of Cilium", facts(fallback(gke), ownMasq, ipMasq(linkLocal)), diagnose.CiliumBPFMasqueradeLinkLocal, []string{"masqLinkLocal is true", `enable-ip-masq-agent is "true"`, "never measured"}},
		{"the CIDR that excludes it", facts(fallback(gke), ipMasq("masqLinkLocal: true\nnonMasqueradeCIDRs: [0.0.0.0/0]")), diagnose.IPMasqAgentLinkLocal, []string{`"0.0.0.0/0"`}},
		{"both expectations", facts(configured(app), verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, string(other))), diagnose.ExpectationOutdated, []string{string(app), string(other)}},
		{"what was expected before", facts(verdict(identity.Mismatch, other, gke), replaced(annotated(other))), diagnose.AnnotationChanged, []string{string(app), string(other)}},
		{"the status", facts(failed(gke, nil, failure(identity.ServerError, 504), nil)), diagnose.STSBlocked, []string{"504"}},
		{"the policy that leads past the server", facts(failed(unknown, failure(identity.Unreachable, 0), nil, nil), func(f *diagnose.Facts) {
			f.Observation.Token.Origin, f.Observation.Server.Origin = identity.NeverAsked, identity.NeverAsked
		}, redirect), diagnose.MetadataServerDown, []string{`enable-local-redirect-policy is "true"`, `"detail"`}},
		{"the host that is probed", facts(fallback(vm), probes("127.0.0.1:10980")), diagnose.EnvironmentOverride, []string{`"127.0.0.1:10980"`, "169.254.169.254"}},
		{"two servers", facts(verdict(identity.Match, pool, vm)), diagnose.NodeIdentityExpected, []string{"and GKE's another"}},
		{"the variables that are ignored", facts(fallback(vm), variables("GCE_METADATA_HOST", "HTTP_PROXY")), diagnose.EnvironmentOverride, []string{"GCE_METADATA_HOST, HTTP_PROXY"}},
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
	const patch, read, helm, unstartable = "patch configmap cilium-config", "cilium-dbg status", "bpf.masquerade: false", "from starting"
	ours := func(f *diagnose.Facts) {
		f.Self = diagnose.Self{Namespace: "wi", ServiceAccount: "agent", Node: "node-1", Pod: "agent-x", Project: "project"}
	}
	timeouts := failed(unknown, failure(identity.Timeout, 0), failure(identity.Timeout, 0), failure(identity.Timeout, 0))
	tests := []struct {
		name      string
		facts     diagnose.Facts
		cause     diagnose.Cause
		want, not []string
	}{
		{"the settings are wrong", facts(fallback(vm), known, bypass, ours), diagnose.CiliumBPFHostRouting, []string{patch, "spec.nodeName=node-1", "-n wi exec agent-x", "rollout restart daemonset/cilium", ", or " + helm, "masqLinkLocal: false alone"}, []string{read, unstartable}},
		{"the settings are right, and not in effect", facts(fallback(vm), known, legacy), diagnose.CiliumBPFHostRouting, []string{read, "rollout restart daemonset/cilium"}, []string{patch}},
		{"Cilium would not start without eBPF", facts(fallback(vm), known, cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "true", "enable-ip-masq-agent", "true")), diagnose.CiliumBPFHostRouting, []string{patch, helm, unstartable}, []string{", or " + helm}},
		{"Cilium is elsewhere", facts(fallback(vm), bypass, func(f *diagnose.Facts) { f.Cilium.Namespace = "cilium" }), diagnose.CiliumBPFHostRouting, []string{"kubectl -n cilium patch"}, []string{"kube-system"}},
		{"a binding", facts(refused(identity.Denied, 403), ours), diagnose.IAMBindingMissing, []string{string(app), `--member="serviceAccount:project.svc.id.goog[wi/agent]"`, "roles/iam.workloadIdentityUser"}, nil},
		{"a node pool", facts(fallback(vm), labels("cloud.google.com/gke-nodepool", "blue")), diagnose.NodePoolGCEMetadata, []string{"update blue ", "--workload-metadata=GKE_METADATA"}, []string{"POOL"}},
		{"an annotation", facts(verdict(identity.Unbound, pool, gke), annotations(), ours), diagnose.AnnotationMissing, []string{"kubectl -n wi annotate serviceaccount agent --overwrite iam.gke.io/gcp-service-account=" + string(app)}, nil},
		{"a policy, where the dataplane is not known", facts(timeouts), diagnose.NetworkPolicy, []string{"169.254.169.254/32 port 80", "169.254.169.252/32 port 988"}, nil},
		{"a policy of Cilium", facts(timeouts, legacy), diagnose.NetworkPolicy, []string{"169.254.169.254/32 port 80", "toCIDR"}, []string{"169.254.169.252"}},
		{"a policy of Dataplane V2", facts(timeouts, v2), diagnose.NetworkPolicy, []string{"169.254.169.254/32 port 80", "toCIDR"}, []string{"169.254.169.252"}},
		{"a policy without Cilium", facts(timeouts, v1, ciliumIs(diagnose.Absent)), diagnose.NetworkPolicy, []string{"169.254.169.252/32 port 988"}, []string{"169.254.169.254/32"}},
		{"a server that is down", facts(timeouts, legacy), diagnose.MetadataServerDown, []string{"delete"}, []string{"ciliumlocalredirectpolicies"}},
		{"a policy may lead past it", facts(timeouts, redirect), diagnose.MetadataServerDown, []string{"ciliumlocalredirectpolicies"}, nil},
		{"a test server", facts(match(gke), probes("127.0.0.1"), ours), diagnose.EnvironmentOverride, []string{"WI_METADATA_HOST-"}, nil},
		{"a variable of others", facts(match(gke), variables("HTTP_PROXY"), ours), diagnose.EnvironmentOverride, []string{"kubectl -n wi get pod agent-x"}, []string{"WI_METADATA_HOST"}},
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
		masq, masqLater          = "ip-masq-agent may not be read", "ip-masq-agent was not read yet"
	)
	tests := []struct {
		name  string
		facts diagnose.Facts
		want  []string
	}{
		{"the VM's server and nothing else", facts(fallback(vm)), []string{network, node, ciliumLater}},
		{"nothing may be read", facts(fallback(vm), ciliumIs(diagnose.Forbidden), podNetwork), []string{node, cannot}},
		{"only the dataplane is not known", facts(fallback(vm), podNetwork, withServer, bypass), []string{dataplane}},
		{"Dataplane V2", facts(fallback(vm), podNetwork, withServer, v2), []string{google}},
		{"hostNetwork says it all", facts(fallback(vm), hostNetwork), nil},
		{"all is known", facts(fallback(vm), known, bypass), nil},
		{"GKE's server", facts(fallback(gke), ipMasqIs(diagnose.Forbidden)), []string{masq, annotation}},
		{"an outage", facts(failed(unknown, failure(identity.Timeout, 0), nil, nil)), []string{ciliumLater}},
		{"the pool", facts(verdict(identity.Unbound, pool, gke)), []string{annotation}},
		{"no expectation", facts(verdict(identity.UnknownExpectation, app, gke)), []string{annotation}},
		{"a match", facts(match(gke), ciliumIs(diagnose.Forbidden), ipMasqIs(diagnose.Forbidden)), []string{cannot, masq}},
		{"a match, and the ConfigMaps are read", facts(match(gke), bypass, ipMasq("")), []string{dataplane}},
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
