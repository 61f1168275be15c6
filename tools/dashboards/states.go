package main

import (
	"fmt"
	"strconv"
	"strings"
)

// state is one that a node can be in.
type state struct {
	name, colour string
	// rank is higher the worse the state is: graphs need numbers, and tables sort.
	rank    int
	runbook string
}

// The colours differ in hue for most people, and in brightness for all: light
// and dark alternate, whatever is wrong is darker than what is right, and all of
// them can be told from a white and from a black page. A test measures it.
var states = []state{
	{"node_fallback", "#B81D2C", 9, "WorkloadIdentityNodeFallback"},
	{"mismatch", "#E07B28", 8, "WorkloadIdentityMismatch"},
	{"unbound", "#8F4E00", 7, "WorkloadIdentityUnbound"},
	{"token_denied", "#B39B00", 6, "WorkloadIdentityTokenDenied"},
	{"unavailable", "#8A3FA0", 5, "WorkloadIdentityMetadataUnavailable"},
	{"unknown_expectation", "#C77FB5", 4, "WorkloadIdentityExpectationUnknown"},
	{"stale", "#5A5E66", 3, "WorkloadIdentityProbeStale"},
	{"starting", "#878D97", 2, ""},
	{"match", "#7CCBF5", 1, ""},
}

// The colours of what is not a state.
var (
	good    = states[len(states)-1].colour
	warning = states[1].colour
	bad     = states[0].colour
)

// ranks is a query that gives each series of the states its rank. The last part
// of the selector is left open: ranks("metric{state=%q}").
func ranks(selector string, of []state) string {
	var lines []string
	for _, s := range of {
		lines = append(lines, fmt.Sprintf("  %d * "+selector, s.rank, s.name))
	}
	return strings.Join(lines, "\nor\n")
}

// byRank shows ranks as states.
func byRank() []Mapping {
	m := Mapping{Type: "value", Options: map[string]Result{}}
	for i, s := range states {
		m.Options[strconv.Itoa(s.rank)] = Result{Text: s.name, Color: s.colour, Index: i}
	}
	return []Mapping{m}
}

// byState gives the series or columns of states their colour.
func byState() []Override {
	var overrides []Override
	for _, s := range states {
		overrides = append(overrides, named(s.name, Property{"color", Color{"fixed", s.colour}}))
	}
	return overrides
}

// cause is one that the agent suspects, with what to do about it.
type cause struct{ name, remedy string }

var causes = []cause{
	{"cilium_bpf_host_routing", "Cilium routes past the redirection to GKE's metadata server. Set bpf.masquerade=false, or bpf.hostLegacyRouting=true; restart the Cilium agents, then Pods that keep connections."},
	{"cilium_bpf_masquerade_link_local", "Cilium hides the Pods' addresses from the metadata server. Set masqLinkLocal=false and add 169.254.0.0/16 to nonMasqueradeCIDRs."},
	{"ip_masq_agent_link_local", "ip-masq-agent hides the Pods' addresses from the metadata server. Set masqLinkLocal=false in its ConfigMap and add 169.254.0.0/16 to nonMasqueradeCIDRs."},
	{"local_redirect_dormant", "A local redirect policy has no ready backend, so requests pass it. Get gke-metadata-server ready on this node."},
	{"node_pool_gce_metadata", "The node pool hands out its own identity. Update it with --workload-metadata=GKE_METADATA."},
	{"host_network", "The agent runs in the node's network and sees the node's identity. Deploy it without hostNetwork."},
	{"annotation_missing", "The Kubernetes ServiceAccount has no annotation iam.gke.io/gcp-service-account. Add it, or set WI_EXPECTED_EMAILS."},
	{"annotation_changed", "The annotation was changed a moment ago. Wait two minutes; restart gke-metadata-server on this node if it stays."},
	{"iam_binding_missing", "IAM refuses the token. Grant roles/iam.workloadIdentityUser on the Google service account to the Kubernetes ServiceAccount."},
	{"expectation_outdated", "WI_EXPECTED_EMAILS says something else than the annotation of the Kubernetes ServiceAccount. Correct the setting, or remove it."},
	{"source_nat", "Something hides the Pods' addresses from GKE's metadata server. Look for source NAT on the node and for a proxy; if the account is that of the node pool, name it in WI_NODE_SERVICE_ACCOUNTS."},
	{"not_a_metadata_server", "A proxy or metadata concealment answers instead of a metadata server. Exclude 169.254.169.254/32 and 169.254.169.252/32 from what a mesh intercepts, or find the proxy."},
	{"token_unusable", "The metadata server gives a token that no client can use. Read the log of gke-metadata-server, and delete its Pod so that it asks for new tokens."},
	{"gsa_missing", "The Google service account does not exist. Correct the annotation, or create the account."},
	{"metadata_server_down", "GKE's metadata server does not answer on this node. Look at the Pods of gke-metadata-server in kube-system, and at their logs."},
	{"network_policy", "A NetworkPolicy blocks the metadata server. Allow 169.254.169.252/32 on port 988, and 169.254.169.254/32 on port 80."},
	{"sts_blocked", "The metadata server cannot reach Google's STS or IAM. Allow egress to sts.googleapis.com and iamcredentials.googleapis.com."},
	{"throttled", "Google's STS or IAM throttles the project. Ask for a higher quota, or start fewer Pods at once."},
	{"node_identity_expected", "The VM's metadata server answers, with the identity that happens to be expected. Find out why requests pass GKE's metadata server, before another account is expected."},
	{"pooled_connections", "After a repair, connections to the wrong metadata server live on. Restart the Pods that keep connections to it."},
	{"environment_override", "A variable such as GCE_METADATA_HOST or GOOGLE_APPLICATION_CREDENTIALS replaces the metadata server in Pods. Remove it."},
}

// byCause shows causes as their remedies.
func byCause() []Mapping {
	m := Mapping{Type: "value", Options: map[string]Result{
		"none": {Text: "Nothing is suspected: no setting that breaks Workload Identity was found."},
	}}
	for i, c := range causes {
		m.Options[c.name] = Result{Text: c.remedy, Index: i + 1}
	}
	return []Mapping{m}
}
