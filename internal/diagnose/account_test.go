package diagnose_test

import (
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// What is expected may be what is wrong.
func TestTheExpectation(t *testing.T) {
	diagnoses(t, []row{
		{
			"WI_EXPECTED_EMAILS is out of date",
			facts(
				configured(app), verdict(identity.Mismatch, other, gke),
				annotations(identity.AnnotationServiceAccount, " Other@project.iam.gserviceaccount.com "),
			),
			"proves expectation_outdated", "",
		},
		{
			"the annotation names the node's account",
			facts(
				configured(app), verdict(identity.NodeFallback, node, gke),
				annotations(identity.AnnotationServiceAccount, string(node)),
			),
			"proves expectation_outdated", "",
		},
		{
			"the annotation names the node's account, and the server is not known",
			facts(configured(app), fallback(unknown), annotations(identity.AnnotationServiceAccount, string(node))),
			"suggests expectation_outdated", "",
		},
		{
			"the annotation names the node's account, and the VM's server answers",
			facts(configured(app), fallback(vm), annotations(identity.AnnotationServiceAccount, string(node))),
			allOfVM, "",
		},
		{
			"WI_EXPECTED_EMAILS and the annotation agree",
			facts(
				configured(app), verdict(identity.Mismatch, other, gke),
				annotations(identity.AnnotationServiceAccount, string(app)),
			),
			"suggests source_nat", "expectation_outdated",
		},
		{
			"the principal is asked for",
			facts(
				configured(app), verdict(identity.Unbound, principal, gke),
				annotations(identity.AnnotationReturnPrincipal, "true"),
			),
			"proves expectation_outdated", "",
		},
		{
			"no annotation, and one is configured",
			facts(configured(app), verdict(identity.Unbound, pool, gke), annotations()),
			"proves annotation_missing", "",
		},
		{
			"no annotation, and the principal that is asked for is not given",
			facts(
				configured(app), verdict(identity.Unbound, pool, gke),
				annotations(identity.AnnotationReturnPrincipal, "true"),
			),
			"proves annotation_missing", "",
		},
		{
			"no annotation, whatever was expected before",
			facts(verdict(identity.Unbound, principal, gke), annotations(), replaced(annotated(principal))),
			"suggests annotation_missing", "",
		},
		{
			"no annotation any more",
			facts(verdict(identity.Unbound, pool, gke), annotations(), replaced(annotated(other))),
			"proves annotation_missing", "expectation_outdated",
		},
		{
			"no annotation, and the principal is asked for by nobody",
			facts(configured(app), verdict(identity.Unbound, principal, gke), annotations()),
			"suggests annotation_missing", "",
		},
		{
			"the pool, and the annotations are not known", facts(configured(app), verdict(identity.Unbound, pool, gke)),
			"suggests annotation_missing", "",
		},
		{"the pool, and only the annotation could have told", facts(verdict(identity.Unbound, pool, gke)), "", ""},
		{
			"the annotation is there and not seen",
			facts(verdict(identity.Unbound, pool, gke), annotations(identity.AnnotationServiceAccount, string(app))),
			"suggests annotation_changed", "annotation_missing",
		},
		{
			"the annotation was just added",
			facts(
				verdict(identity.Unbound, pool, gke), annotations(identity.AnnotationServiceAccount, string(app)),
				replaced(identity.Expectation{
					Accepted: []identity.Pattern{"project.svc.id.goog"},
					Source:   identity.SourceWorkloadPool,
				}),
			),
			"proves annotation_changed", "",
		},
		{
			"the annotation was changed, and the server gives the old one",
			facts(
				verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, string(app)),
				replaced(annotated(other)),
			),
			"proves annotation_changed", "",
		},
		{
			"the annotation was changed, and the agent has the old one",
			facts(
				verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, string(other)),
			),
			"proves annotation_changed", "",
		},
		{
			"the annotation was changed, to something else",
			facts(
				verdict(identity.Mismatch, other, gke), annotations(identity.AnnotationServiceAccount, string(app)),
				replaced(annotated(node)),
			),
			"suggests annotation_changed, suggests source_nat", "",
		},
		{
			"the annotation was changed, and the server is not known",
			facts(verdict(identity.Mismatch, other, unknown), replaced(annotated(other))),
			"suggests annotation_changed", "",
		},
		{
			"the annotation was changed from the node's account, which the VM's server gives",
			facts(fallback(vm), replaced(annotated(node))),
			allOfVM, "",
		},
	})
}

// What IAM says of the account.
func TestIAM(t *testing.T) {
	diagnoses(t, []row{
		{"the binding is missing", facts(refused(identity.Denied, 403)), "suggests iam_binding_missing", ""},
		{"IAM says what is in the way", facts(refused(identity.Denied, 403), blocked), "proves iam_api_blocked", "iam_binding_missing"},
		{
			"the account does not exist", facts(refused(identity.NoServiceAccount, 404)),
			"proves gsa_missing", "iam_binding_missing",
		},
		{"the last probe failed otherwise than the verdict says", facts(refused(identity.Timeout, 0)), "", ""},
		{"the last probe got a token", facts(verdict(identity.TokenDenied, app, gke)), "", ""},
		{"the last probe asked for none", facts(verdict(identity.TokenDenied, app, gke), reused), "", ""},
		{
			"the VM's server refuses the token",
			facts(refused(identity.Denied, 403), func(f *diagnose.Facts) { f.Verdict.Server = vm }),
			allOfVM, "",
		},
	})
}

// Another server than the one that Pods ask is probed.
func TestAnotherServerIsProbed(t *testing.T) {
	diagnoses(t, []row{
		{
			"another server is probed", facts(fallback(vm), hostNetwork, bypass, probes("127.0.0.1:10980")),
			"suggests host_network, suggests environment_override", "",
		},
		{
			"another server is probed, and it gives the right identity",
			facts(match(gke), known, bypass, probes("127.0.0.1:10980")),
			"suggests cilium_bpf_host_routing, suggests environment_override", "",
		},
		{
			"variables that the probe ignores", facts(fallback(vm), variables("GCE_METADATA_HOST")),
			allOfVM, "environment_override",
		},
	})
}
