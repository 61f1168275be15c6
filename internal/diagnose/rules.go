package diagnose

import (
	"fmt"
	"maps"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// rule is all that is known about one cause.
type rule struct {
	cause Cause
	// title is the cause in the words of people, without a stop at the end.
	title   string
	suspect func(Facts) opinion // of a bad verdict; nil: never
	risk    func(Facts) opinion // of a good one; nil: never
	remedy  func(Facts) Remedy
	// states are those that it explains. In others it is rarely suspected, where the VM's
	// server answers as well.
	states []identity.State
	// pages are the sections of the runbooks by state, the one for the empty state
	// is for all others.
	pages pages
}

type pages map[identity.State]string

// rules is the table of causes. Causes of which a fact decides come before those
// that are told from settings, and special ones before general ones.
func rules() []rule {
	const (
		match, unavailable, mismatch = identity.Match, identity.Unavailable, identity.Mismatch
		isNode, isPool, isDenied     = identity.NodeFallback, identity.Unbound, identity.TokenDenied
		isUnknown                    = identity.UnknownExpectation

		fallback = "WorkloadIdentityNodeFallback.md#"
		outage   = "WorkloadIdentityMetadataUnavailable.md#"
		foreign  = "WorkloadIdentityMismatch.md#"
		unbound  = "WorkloadIdentityUnbound.md#causes-and-fixes"
		denied   = "WorkloadIdentityTokenDenied.md#"
		risk     = "WorkloadIdentityMasqueradeRisk.md#"
		unknown  = "WorkloadIdentityExpectationUnknown.md#"
	)
	address := pages{
		"":          fallback + "7-something-hides-the-pods-address-gke",
		mismatch:    foreign + "1-it-is-the-node-pools-account",
		unavailable: outage + "3-the-server-cannot-tell-which-pod-asks",
		match:       risk + "3-link-local-addresses-are-masqueraded",
	}
	ofProxy := maps.Clone(address)
	ofProxy[isPool] = unbound
	return []rule{
		{
			cause:   HostNetwork,
			title:   "The Pod is hostNetwork, so it has the identity of its node",
			suspect: hostNetwork,
			risk:    ifVM(hostNetwork),
			remedy:  leaveHostNetwork,
			states:  []identity.State{isNode},
			pages:   pages{"": fallback + "5-the-agents-pod-is-hostnetwork-vm"},
		},
		{
			cause:   NodePoolGCEMetadata,
			title:   "The node pool has no GKE metadata server",
			suspect: nodePool,
			risk:    ifVM(nodePool),
			remedy:  enableMetadataServer,
			states:  []identity.State{isNode},
			pages:   pages{"": fallback + "4-a-node-pool-without-gkes-metadata-server-vm"},
		},
		{
			cause:   CiliumBPFHostRouting,
			title:   "eBPF host routing bypasses the GKE metadata server",
			suspect: hostRouting,
			risk:    hostRoutingRisk,
			remedy:  useLegacyRouting,
			states:  []identity.State{isNode},
			pages: pages{
				"":    fallback + "1-cilium-with-ebpf-host-routing-vm-the-most-likely-one",
				match: risk + "1-ebpf-host-routing-is-about-to-come-the-most-likely-one",
			},
		},
		{
			cause:   CiliumNoConntrack,
			title:   "Cilium's no-conntrack rules bypass the GKE metadata server",
			suspect: noConntrack,
			risk:    noConntrackRisk,
			remedy:  trackConnections,
			states:  []identity.State{isNode},
			pages: pages{
				"":    fallback + "2-ciliums-no-conntrack-rules-vm",
				match: risk + "2-no-conntrack-rules-are-about-to-come",
			},
		},
		{
			cause:   LocalRedirectDormant,
			title:   "A local redirect policy lets requests through to the VM's metadata server",
			suspect: localRedirect,
			risk:    localRedirectRisk,
			remedy:  dropLocalRedirect,
			states:  []identity.State{isNode},
			pages:   pages{"": fallback + "3-a-local-redirect-policy-of-cilium-that-is-dormant-vm"},
		},
		{
			cause:   RedirectMissing,
			title:   "The node has no rule that redirects requests to the GKE metadata server",
			suspect: redirectMissing,
			remedy:  restoreRedirect,
			states:  []identity.State{isNode},
			pages:   pages{"": fallback + "6-the-nodes-redirect-rule-is-missing-vm"},
		},
		{
			cause:   ExpectationOutdated,
			title:   "What is configured as expected is misspelt or out of date",
			suspect: expectationOutdated,
			remedy:  correctExpectation,
			states:  []identity.State{isNode, mismatch, isPool},
			pages: pages{
				"":               fallback + "8-none-of-these",
				mismatch:         foreign + "4-wi_expected_emails-is-out-of-date",
				identity.Unbound: unbound,
			},
		},
		{
			cause:   AnnotationMissing,
			title:   "The Kubernetes ServiceAccount has no annotation",
			suspect: annotationMissing,
			remedy:  annotate,
			states:  []identity.State{isPool},
			pages:   pages{"": unbound},
		},
		{
			cause:   AnnotationMisspelt,
			title:   "The annotation of the Kubernetes ServiceAccount is misspelt",
			suspect: annotationMisspelt,
			risk:    annotationMisspeltRisk,
			remedy:  correctAnnotation,
			states:  []identity.State{isPool, isUnknown},
			pages: pages{
				"":                          unbound,
				match:                       unbound,
				identity.TokenDenied:        denied + "2-the-google-service-account-does-not-exist-no_service_account-404",
				identity.UnknownExpectation: unknown + "6-the-annotation-is-misspelt",
			},
		},
		{
			cause:   AnnotationChanged,
			title:   "The annotation was changed, and the metadata server may not know yet",
			suspect: annotationChanged,
			remedy:  waitForAnnotation,
			states:  []identity.State{isNode, mismatch, isPool},
			pages: pages{
				"":               foreign + "3-the-annotation-was-changed-a-moment-ago",
				identity.Unbound: unbound,
			},
		},
		{
			cause:   CiliumBPFMasqueradeLinkLocal,
			title:   "Cilium masquerades requests to the metadata server",
			suspect: ciliumLinkLocal,
			risk:    ciliumLinkLocalRisk,
			remedy:  excludeLinkLocal,
			states:  []identity.State{isNode, mismatch, isDenied, unavailable},
			pages:   address,
		},
		{
			cause:   IPMasqAgentLinkLocal,
			title:   "The ip-masq-agent masquerades requests to the metadata server",
			suspect: agentLinkLocal,
			risk:    agentLinkLocalRisk,
			remedy:  excludeLinkLocal,
			states:  []identity.State{isNode, mismatch, isDenied, unavailable},
			pages:   address,
		},
		{
			cause:   SourceNAT,
			title:   "Something hides the Pod's address from the GKE metadata server",
			suspect: sourceNAT,
			remedy:  findSourceNAT,
			states:  []identity.State{isNode, mismatch, isPool, isDenied, unavailable},
			pages:   ofProxy,
		},
		{
			cause:   GSAMissing,
			title:   "The Google service account does not exist",
			suspect: gsaMissing,
			remedy:  correctAccount,
			states:  []identity.State{isDenied},
			pages:   pages{"": denied + "2-the-google-service-account-does-not-exist-no_service_account-404"},
		},
		{
			cause:   IAMBindingMissing,
			title:   "The Kubernetes ServiceAccount may not use the Google service account",
			suspect: bindingMissing,
			remedy:  bind,
			states:  []identity.State{isDenied},
			pages:   pages{"": denied + "1-the-binding-is-missing-denied-403-the-most-likely-one"},
		},
		{
			cause:   IAMAPIBlocked,
			title:   "The IAM Credentials API is off, or behind a perimeter",
			suspect: apiBlocked,
			remedy:  openIAM,
			states:  []identity.State{isDenied},
			pages:   pages{"": denied + "3-the-api-is-blocked-denied-403"},
		},
		{
			cause:   Throttled,
			title:   "Too many requests for tokens",
			suspect: throttled,
			remedy:  askLess,
			states:  []identity.State{unavailable},
			pages:   pages{"": outage + "4-throttled"},
		},
		{
			cause:   STSBlocked,
			title:   "The metadata server does not reach STS or IAM",
			suspect: stsBlocked,
			remedy:  openSTS,
			states:  []identity.State{unavailable},
			pages:   pages{"": outage + "5-sts-or-iam-is-not-reached"},
		},
		{
			cause:   TokenUnusable,
			title:   "The metadata server gives a token that cannot be used",
			suspect: tokenUnusable,
			remedy:  renewTokens,
			states:  []identity.State{unavailable},
			pages:   pages{"": outage + "causes-and-fixes"},
		},
		{
			cause:   NetworkPolicy,
			title:   "A network policy drops requests to the metadata server",
			suspect: networkPolicy,
			remedy:  allowEgress,
			states:  []identity.State{unavailable},
			pages:   pages{"": outage + "2-a-networkpolicy"},
		},
		{
			cause:   MetadataServerDown,
			title:   "The GKE metadata server does not answer",
			suspect: serverDown,
			remedy:  restartServer,
			states:  []identity.State{unavailable},
			pages:   pages{"": outage + "1-gke-metadata-server-is-down-or-a-redirect-leads-past-it"},
		},
		{
			cause:   NotAMetadataServer,
			title:   "A proxy or something else answers instead of a metadata server",
			suspect: notAMetadataServer,
			remedy:  findProxy,
			states:  []identity.State{unavailable},
			pages:   pages{"": outage + "causes-and-fixes"},
		},
		{
			cause:  NodeIdentityExpected,
			title:  "The VM's metadata server answers, with the identity that happens to be expected",
			risk:   nodeIdentityExpected,
			remedy: findWhyVM,
			pages:  pages{"": risk + "4-the-vms-metadata-server-answers-already"},
		},
		{
			cause:  PooledConnections,
			title:  "Connections to the wrong metadata server live on after the repair",
			risk:   pooledConnections,
			remedy: restartPods,
			pages:  pages{"": fallback + "over"},
		},
		// What is found out about another server than the Pods' comes first, since it is
		// the agent's warning already that it is another.
		{
			cause:   EnvironmentOverride,
			title:   "A variable sends requests for metadata elsewhere",
			suspect: environmentOverride,
			risk:    environmentRisk,
			remedy:  unsetVariables,
			states:  []identity.State{isNode, mismatch, isPool, isDenied, unavailable, isUnknown},
			pages:   pages{"": fallback + "8-none-of-these"},
		},
	}
}

// Runbooks is where the runbooks are published.
const Runbooks = "https://github.com/workload-identity-exporter/workload-identity-exporter/blob/main/alerts/runbooks/"

func (r rule) page(s identity.State) string {
	if p, ok := r.pages[s]; ok {
		return Runbooks + p
	}
	return Runbooks + r.pages[""]
}

// opinion is what a rule says; the zero value says nothing.
type opinion struct {
	confidence Confidence
	why        string
	// foremost: it comes before others of the same confidence.
	foremost bool
}

func say(c Confidence, why string, a ...any) opinion {
	return opinion{confidence: c, why: strings.TrimSpace(fmt.Sprintf(why, a...))}
}

func proves(why string, a ...any) opinion   { return say(Proves, why, a...) }
func suggests(why string, a ...any) opinion { return say(Suggests, why, a...) }
func possible(why string, a ...any) opinion { return say(Possible, why, a...) }
func rulesOut(why string, a ...any) opinion { return say(RulesOut, why, a...) }

func (o opinion) first() opinion {
	o.foremost = true
	return o
}
