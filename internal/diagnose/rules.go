package diagnose

import (
	"fmt"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// rule is all that is known about one cause.
type rule struct {
	cause   Cause
	suspect func(Facts) opinion // of a bad verdict; nil: never
	risk    func(Facts) opinion // of a good one; nil: never
	remedy  func(Facts) Remedy
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

		fallback = "WorkloadIdentityNodeFallback.md#"
		outage   = "WorkloadIdentityMetadataUnavailable.md#"
		foreign  = "WorkloadIdentityMismatch.md#"
		unbound  = "WorkloadIdentityUnbound.md#causes-and-fixes"
		denied   = "WorkloadIdentityTokenDenied.md#"
		risk     = "WorkloadIdentityMasqueradeRisk.md#"
	)
	address := pages{
		"":          fallback + "5-something-hides-the-pods-address-gke",
		mismatch:    foreign + "1-it-is-the-node-pools-account",
		unavailable: outage + "3-the-server-cannot-tell-which-pod-asks",
		match:       risk + "2-link-local-addresses-are-masqueraded",
	}
	return []rule{
		{
			cause:   HostNetwork,
			suspect: hostNetwork,
			risk:    ifVM(hostNetwork),
			remedy:  leaveHostNetwork,
			pages:   pages{"": fallback + "4-the-agents-pod-is-hostnetwork-vm"},
		},
		{
			cause:   NodePoolGCEMetadata,
			suspect: nodePool,
			risk:    ifVM(nodePool),
			remedy:  enableMetadataServer,
			pages:   pages{"": fallback + "3-a-node-pool-without-gkes-metadata-server-vm"},
		},
		{
			cause:   CiliumBPFHostRouting,
			suspect: hostRouting,
			risk:    hostRoutingRisk,
			remedy:  useLegacyRouting,
			pages: pages{
				"":    fallback + "1-cilium-with-ebpf-host-routing-vm-the-most-likely-one",
				match: risk + "1-ebpf-host-routing-is-about-to-come-the-most-likely-one",
			},
		},
		{
			cause:   LocalRedirectDormant,
			suspect: localRedirect,
			risk:    localRedirectRisk,
			remedy:  dropLocalRedirect,
			pages:   pages{"": fallback + "2-a-local-redirect-policy-of-cilium-that-is-dormant-vm"},
		},
		{
			cause:   CiliumBPFMasqueradeLinkLocal,
			suspect: ciliumLinkLocal,
			risk:    ciliumLinkLocalRisk,
			remedy:  excludeLinkLocal,
			pages:   address,
		},
		{
			cause:   IPMasqAgentLinkLocal,
			suspect: agentLinkLocal,
			risk:    agentLinkLocalRisk,
			remedy:  excludeLinkLocal,
			pages:   address,
		},
		{
			cause:   ExpectationOutdated,
			suspect: expectationOutdated,
			remedy:  correctExpectation,
			pages: pages{
				"":               fallback + "6-none-of-these",
				mismatch:         foreign + "4-wi_expected_emails-is-out-of-date",
				identity.Unbound: unbound,
			},
		},
		{
			cause:   AnnotationMissing,
			suspect: annotationMissing,
			remedy:  annotate,
			pages:   pages{"": unbound},
		},
		{
			cause:   AnnotationChanged,
			suspect: annotationChanged,
			remedy:  waitForAnnotation,
			pages: pages{
				"":               foreign + "3-the-annotation-was-changed-a-moment-ago",
				identity.Unbound: unbound,
			},
		},
		{
			cause:   SourceNAT,
			suspect: sourceNAT,
			remedy:  findSourceNAT,
			pages:   address,
		},
		{
			cause:   GSAMissing,
			suspect: gsaMissing,
			remedy:  correctAccount,
			pages:   pages{"": denied + "2-the-google-service-account-does-not-exist-no_service_account-404"},
		},
		{
			cause:   IAMBindingMissing,
			suspect: bindingMissing,
			remedy:  bind,
			pages:   pages{"": denied + "1-the-binding-is-missing-denied-403-the-most-likely-one"},
		},
		{
			cause:   Throttled,
			suspect: throttled,
			remedy:  askLess,
			pages:   pages{"": outage + "4-throttled"},
		},
		{
			cause:   STSBlocked,
			suspect: stsBlocked,
			remedy:  openSTS,
			pages:   pages{"": outage + "5-sts-or-iam-is-not-reached"},
		},
		{
			cause:   NetworkPolicy,
			suspect: networkPolicy,
			remedy:  allowEgress,
			pages:   pages{"": outage + "2-a-networkpolicy"},
		},
		{
			cause:   MetadataServerDown,
			suspect: serverDown,
			remedy:  restartServer,
			pages:   pages{"": outage + "1-gke-metadata-server-is-down-or-a-redirect-leads-past-it"},
		},
		{
			cause:   NotAMetadataServer,
			suspect: notAMetadataServer,
			remedy:  findProxy,
			pages:   pages{"": outage + "causes-and-fixes"},
		},
		{
			cause:  NodeIdentityExpected,
			risk:   nodeIdentityExpected,
			remedy: findWhyVM,
			pages:  pages{"": risk + "3-the-vms-metadata-server-answers-already"},
		},
		{
			cause:  PooledConnections,
			risk:   pooledConnections,
			remedy: restartPods,
			pages:  pages{"": fallback + "over"},
		},
		// What is found out about another server than the Pods' comes first, since it is
		// the agent's warning already that it is another.
		{
			cause:   EnvironmentOverride,
			suspect: environmentOverride,
			risk:    environmentRisk,
			remedy:  unsetVariables,
			pages:   pages{"": fallback + "6-none-of-these"},
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
}

func proves(why string, a ...any) opinion   { return opinion{Proves, fmt.Sprintf(why, a...)} }
func suggests(why string, a ...any) opinion { return opinion{Suggests, fmt.Sprintf(why, a...)} }
func rulesOut(why string, a ...any) opinion { return opinion{RulesOut, fmt.Sprintf(why, a...)} }
