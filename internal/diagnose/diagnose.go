// Package diagnose says why a verdict is bad, what will break one that is good,
// and what to do about either.
//
// It is pure: facts in, findings out, no I/O, no clock, no logging. It never
// decides a verdict and accuses nobody; a finding is for the person who was
// paged. A cause needs evidence of its own: that the VM's metadata server answers
// fits six causes alike, and so suggests none of them; where nothing tells more, all
// that are left are listed, with how to tell them apart, and Missing says what could
// not be known. What rules a cause out must be
// live and about this node: the answers to a probe, the agent's own Pod, and what was
// read of the Node and the ServiceAccount since the verdict. A file of settings is not:
// what runs may have read another one, or be told otherwise for this node alone.
//
// The facts about Cilium that no link is given for were measured with Cilium
// 1.20 on Kubernetes 1.35, with GKE's DNAT rule and a server on 169.254.169.252:988.
package diagnose

import (
	"cmp"
	"slices"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Cause is why Pods get a wrong identity or none, or what will bring that about.
type Cause string

// The causes, a closed set.
const (
	// EnvironmentOverride: a variable sends the probe, or other clients, elsewhere.
	EnvironmentOverride Cause = "environment_override"
	// HostNetwork: the agent's own Pod is in the node's network, and so is the node.
	HostNetwork Cause = "host_network"
	// NodePoolGCEMetadata: the node pool has no GKE metadata server.
	NodePoolGCEMetadata Cause = "node_pool_gce_metadata"
	// CiliumBPFHostRouting: eBPF host routing skips netfilter, and with it the rule
	// that takes requests to GKE's metadata server (Cilium issues 28655 and 36685).
	CiliumBPFHostRouting Cause = "cilium_bpf_host_routing"
	// CiliumNoConntrack: Cilium keeps packets of Pods from connection tracking, and so
	// from NAT (install-no-conntrack-iptables-rules).
	CiliumNoConntrack Cause = "cilium_no_conntrack"
	// RedirectMissing: the node has no rule that takes requests to GKE's metadata server.
	RedirectMissing Cause = "redirect_missing"
	// LocalRedirectDormant: a CiliumLocalRedirectPolicy whose backend is not ready
	// lets requests through to the VM's server (Cilium issue 42574).
	LocalRedirectDormant Cause = "local_redirect_dormant"
	// CiliumBPFMasqueradeLinkLocal: Cilium's own ip-masq-agent masquerades link-local
	// destinations, which could hide a Pod's address. No measurement has shown it.
	CiliumBPFMasqueradeLinkLocal Cause = "cilium_bpf_masquerade_link_local"
	// IPMasqAgentLinkLocal: the same by the ip-masq-agent that writes iptables rules.
	IPMasqAgentLinkLocal Cause = "ip_masq_agent_link_local"
	// SourceNAT: something else hides the Pod's address from GKE's metadata server.
	SourceNAT Cause = "source_nat"
	// ExpectationOutdated: WI_EXPECTED_EMAILS says something else than the annotations.
	ExpectationOutdated Cause = "expectation_outdated"
	// AnnotationMissing: the Kubernetes ServiceAccount names no service account.
	AnnotationMissing Cause = "annotation_missing"
	// AnnotationMisspelt: its key or its value is not what was meant.
	AnnotationMisspelt Cause = "annotation_misspelt"
	// AnnotationChanged: it was changed, and not everybody knows yet.
	AnnotationChanged Cause = "annotation_changed"
	// GSAMissing: IAM does not know the service account.
	GSAMissing Cause = "gsa_missing"
	// IAMBindingMissing: the Kubernetes ServiceAccount may not use it.
	IAMBindingMissing Cause = "iam_binding_missing"
	// IAMAPIBlocked: nobody gets a token from it, whatever his roles.
	IAMAPIBlocked Cause = "iam_api_blocked"
	// Throttled: the metadata server, STS or IAM has too much to do.
	Throttled Cause = "throttled"
	// STSBlocked: the metadata server does not reach STS or IAM.
	STSBlocked Cause = "sts_blocked"
	// TokenUnusable: the metadata server gives the identity, and a token that is none.
	TokenUnusable Cause = "token_unusable"
	// NetworkPolicy: the requests are dropped on the way.
	NetworkPolicy Cause = "network_policy"
	// MetadataServerDown: nothing listens, or it only fails.
	MetadataServerDown Cause = "metadata_server_down"
	// NotAMetadataServer: a proxy or metadata concealment answers.
	NotAMetadataServer Cause = "not_a_metadata_server"
	// NodeIdentityExpected: the VM's server answers with what happens to be expected.
	NodeIdentityExpected Cause = "node_identity_expected"
	// PooledConnections: after a repair, connections to the wrong server live on.
	PooledConnections Cause = "pooled_connections"
)

// Causes lists all causes, in the order in which findings of the same confidence
// are ranked.
func Causes() []Cause { return causesOf(func(rule) bool { return true }) }

// SuspectedCauses lists those that can explain a bad verdict.
func SuspectedCauses() []Cause { return causesOf(func(r rule) bool { return r.suspect != nil }) }

// RiskCauses lists those that can threaten a good one.
func RiskCauses() []Cause { return causesOf(func(r rule) bool { return r.risk != nil }) }

func causesOf(want func(rule) bool) []Cause {
	var causes []Cause
	for _, r := range rules() {
		if want(r) {
			causes = append(causes, r.cause)
		}
	}
	return causes
}

// Confidence is how much the facts say about a cause.
type Confidence string

// The confidences, a closed set.
const (
	// Proves: the facts leave no other explanation that is known.
	Proves Confidence = "proves"
	// Suggests: the facts fit, and so would others; or a setting is known and what
	// runs is not, since Cilium reads its ConfigMap only when it starts.
	Suggests Confidence = "suggests"
	// Possible: nothing speaks for it but that nothing speaks against it. Why says how
	// to tell.
	Possible Confidence = "possible"
	// RulesOut: live facts about this node contradict it.
	RulesOut Confidence = "rules_out"
)

// Word says it to people.
func (c Confidence) Word() string {
	switch c {
	case Proves:
		return "certain"
	case Suggests:
		return "likely"
	case RulesOut:
		return "excluded"
	case Possible:
	}
	return "possible"
}

// Finding is what the facts say about one cause.
type Finding struct {
	Cause Cause
	// Title names the cause for people.
	Title      string
	Confidence Confidence
	// Why quotes the facts that it rests on, in a few sentences. What comes from
	// outside in it is short and printable.
	Why    string
	Remedy Remedy
	// Runbook is a link to the section about the cause.
	Runbook string
}

// Remedy is what to do about a cause, or about a fact that is missing.
type Remedy struct {
	Text string
	// Commands are lines for a shell. Words in capital letters are to be filled in.
	Commands []string
}

// Diagnosis is all that the facts say. Suspects are empty for a good verdict,
// Risks and RuledOut the other way round. A bad verdict without suspects has no
// known cause.
type Diagnosis struct {
	// Suspects explain a bad verdict, the most likely one first. A proof stands alone,
	// and what is only possible is listed only if there is nothing else.
	Suspects []Finding
	// Risks are what can break a good verdict, or makes it worth less than it seems.
	Risks []Finding
	// RuledOut are the causes of a bad verdict that the facts exclude.
	RuledOut []Finding
	// Missing are the facts that would have told more.
	Missing []Gap
}

// Diagnose judges every cause by the facts.
func Diagnose(f Facts) Diagnosis {
	d := Diagnosis{Missing: missing(f)}
	if f.Verdict.State == identity.Match {
		d.Risks = findings(f, func(r rule) func(Facts) opinion { return r.risk })
		return d
	}
	for _, found := range findings(f, func(r rule) func(Facts) opinion { return r.suspect }) {
		switch {
		case found.Confidence == RulesOut:
			found.Remedy = Remedy{}
			d.RuledOut = append(d.RuledOut, found)
		case len(d.Suspects) == 0 || d.Suspects[0].Confidence == Suggests && found.Confidence == Suggests,
			d.Suspects[0].Confidence == Possible:
			d.Suspects = append(d.Suspects, found)
		}
	}
	return d
}

// RestsOnCilium reports whether anything that is found rests on the settings of Cilium,
// so that it may end when somebody corrects them.
func (d Diagnosis) RestsOnCilium() bool {
	return slices.ContainsFunc(slices.Concat(d.Suspects, d.Risks), func(f Finding) bool {
		return f.Confidence != Possible && slices.Contains([]Cause{CiliumBPFHostRouting, CiliumNoConntrack, LocalRedirectDormant}, f.Cause)
	})
}

// exclude reports whether the facts are good enough for a rule to rule something out
// by them: those of the node that Pods are on, and no older than the verdict.
func (f Facts) exclude(ask func(Facts) opinion) bool {
	if f.Environment.MetadataHost != "" {
		return false
	}
	if f.OldSettings {
		f.Settings = Settings{}
	}
	return ask(f).confidence == RulesOut
}

// findings asks one question of every rule, and ranks the answers.
func findings(f Facts, question func(rule) func(Facts) opinion) []Finding {
	var all []Finding
	for _, r := range rules() {
		ask := question(r)
		if ask == nil || !f.judged() { // without a verdict there is nothing to explain
			continue
		}
		o := ask(f)
		if o.confidence == "" || o.confidence == RulesOut && (!f.exclude(ask) || f.in(identity.UnknownExpectation)) {
			continue // nobody suspects what is wrong where nothing is known to be
		}
		// A probe of another server than Pods ask proves nothing about them.
		if o.confidence == Proves && (f.mixed() || f.Environment.MetadataHost != "") {
			o.confidence = Suggests
		}
		found := Finding{
			Cause:      r.cause,
			Title:      r.title,
			Confidence: o.confidence,
			Why:        o.why,
			Remedy:     r.remedy(f),
			Runbook:    r.page(f.Verdict.State),
		}
		if o.foremost {
			all = slices.Insert(all, 0, found)
		} else {
			all = append(all, found)
		}
	}
	rank := []Confidence{Proves, Suggests, Possible, RulesOut}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Compare(slices.Index(rank, a.Confidence), slices.Index(rank, b.Confidence))
	})
	return all
}

// Guide is what is always true of a cause, in the words that are used everywhere.
type Guide struct {
	Cause Cause
	// Title names it for people, without a stop at the end.
	Title string
	// Remedy is the first thing to do, one sentence.
	Remedy string
	// Runbook is a link to the section about it.
	Runbook string
	// States are those that it explains, in their order; Match, if it may threaten one.
	States []identity.State
}

// Guides are those of all causes, in the order of Causes.
func Guides() []Guide {
	var guides []Guide
	for _, r := range rules() {
		first, _, _ := strings.Cut(r.remedy(Facts{}).Text, ". ")
		states := slices.Clone(r.states)
		if r.risk != nil {
			states = append(states, identity.Match)
		}
		guides = append(guides, Guide{r.cause, r.title, strings.TrimSuffix(first, ".") + ".", r.page(""), states})
	}
	return guides
}
