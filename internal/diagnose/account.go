package diagnose

import (
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Causes in annotations, in the expectation, and in IAM.

// expectationOutdated: WI_EXPECTED_EMAILS wins over the annotations, and nobody
// changes it when they are changed.
func expectationOutdated(f Facts) opinion {
	configured, observed := f.Expectation.Source == identity.SourceConfig, f.Verdict.Identity
	switch {
	case !f.Verdict.State.Accuses() || f.vmAnswers():
	case !configured && f.Expectation.Known():
		return rulesOut("WI_EXPECTED_EMAILS is not set.")
	case !configured || f.Annotations == nil || observed == "":
	case f.annotated() == string(observed) && f.gkeAnswers():
		return proves("WI_EXPECTED_EMAILS expects %s, and the annotation of the Kubernetes ServiceAccount names "+
			"what the server gives: %s.", quote(f.Expectation.String()), quote(string(observed)))
	case f.annotated() == string(observed):
		return suggests("WI_EXPECTED_EMAILS expects %s, and the annotation of the Kubernetes ServiceAccount "+
			"names %s.", quote(f.Expectation.String()), quote(string(observed)))
	case f.Annotations[identity.AnnotationReturnPrincipal] == "true" && observed.Kind() == identity.Principal:
		return proves("WI_EXPECTED_EMAILS expects %s, and the annotation %s of the Kubernetes ServiceAccount is "+
			"\"true\", which asks for the principal.",
			quote(f.Expectation.String()), identity.AnnotationReturnPrincipal)
	case f.annotated() != "" && f.Expectation.Accepts(identity.Identity(f.annotated())):
		return rulesOut("WI_EXPECTED_EMAILS and the annotation of the Kubernetes ServiceAccount agree.")
	}
	return opinion{}
}

// annotationMissing: for a ServiceAccount without the annotation GKE's server
// answers with the pool (GoogleCloudPlatform/k8s-stackdriver issue 353).
func annotationMissing(f Facts) opinion {
	const key = identity.AnnotationServiceAccount
	observed := f.Verdict.Identity
	switch {
	case !f.in(identity.Unbound):
	case f.annotated() != "":
		return rulesOut("The Kubernetes ServiceAccount has the annotation %s=%s.", key, quote(f.annotated()))
	case f.Annotations != nil && observed.Kind() == identity.WorkloadPool:
		return proves("The Kubernetes ServiceAccount has no annotation %s, and the server gives what it gives "+
			"without: the workload pool %s.", key, quote(string(observed)))
	case f.Annotations != nil && f.Annotations[identity.AnnotationReturnPrincipal] != "true":
		return suggests("The Kubernetes ServiceAccount has no annotation %s.", key)
	case f.Annotations == nil && f.Expectation.Source == identity.SourceConfig:
		return suggests("The server gives %s, as for a Kubernetes ServiceAccount without the annotation %s; what is "+
			"expected comes from WI_EXPECTED_EMAILS.", quote(string(observed)), key)
	}
	return opinion{}
}

// annotationChanged: the metadata server and the API server's cache learn of a
// change at different moments.
func annotationChanged(f Facts) opinion {
	const key = identity.AnnotationServiceAccount
	observed, expected := f.Verdict.Identity, quote(f.Expectation.String())
	named := f.Expectation.Source == identity.SourceAnnotation && f.annotated() == string(observed)
	var o opinion
	switch {
	case !f.Verdict.State.Accuses() || f.Expectation.Source == identity.SourceConfig || f.vmAnswers():
		return o
	case f.in(identity.Unbound) && f.Annotations != nil && f.annotated() == "":
		return o // it is missing, however long
	case named:
		o = proves("The annotation %s names what the server gives, %s, and the agent expects "+
			"what it named before: %s.", key, quote(string(observed)), expected)
	case f.Replaced.Accepts(observed):
		o = proves("What is expected was changed from %s to %s, and the server still gives what it was before: %s.",
			quote(f.Replaced.String()), expected, quote(string(observed)))
	case f.in(identity.Unbound) && f.annotated() != "":
		return suggests("The annotation %s=%s is there, and the server answers as if it were not: it may have been "+
			"added a moment ago.", key, quote(f.annotated()))
	default:
		return o
	}
	if !f.gkeAnswers() { // it could as well be the node's identity from the VM's server
		o.confidence = Suggests
	}
	return o
}

// gsaMissing: IAM answers 404 for an account that it does not know.
func gsaMissing(f Facts) opinion {
	if reason := f.refusal(); reason == identity.NoServiceAccount {
		return proves("IAM says that it does not know the service account %s.", quote(string(f.Verdict.Identity)))
	}
	return opinion{}
}

// bindingMissing: IAM's 403 is about a permission "on resource (or it may not
// exist)", so it proves nothing.
func bindingMissing(f Facts) opinion {
	switch f.refusal() {
	case identity.Denied:
		return suggests("IAM refuses a token of %s with 403, most often because the Kubernetes ServiceAccount lacks "+
			"roles/iam.workloadIdentityUser on it. An account that does not exist or is disabled gets "+
			"the same answer.", quote(string(f.Verdict.Identity)))
	case identity.NoServiceAccount:
		return rulesOut("IAM does not know the service account at all.")
	default:
		return opinion{}
	}
}

// refusal is the reason with which a token is refused. The VM's server asks no
// permission of a Pod.
func (f Facts) refusal() identity.Reason {
	endpoint, failure := f.failure()
	if !f.in(identity.TokenDenied) || endpoint != identity.EndpointToken || f.vmAnswers() {
		return ""
	}
	return failure.Reason
}

// environmentOverride: the agent ignores what other clients obey, so only its own
// setting can explain a verdict.
func environmentOverride(f Facts) opinion {
	if host := f.Environment.MetadataHost; host != "" {
		return proves("WI_METADATA_HOST is %s: this server is probed instead of %s, which says nothing about the "+
			"identity of Pods.", quote(host), metadataIPv4)
	}
	if set := f.obeyed(); len(set) > 0 {
		return rulesOut("The probe asks %s itself, and ignores %s.", metadataIPv4, strings.Join(set, ", "))
	}
	return rulesOut("The probe asks %s itself.", metadataIPv4)
}

// environmentRisk: what is set in the agent's Pod is often set in all of them, by
// an admission webhook for instance.
func environmentRisk(f Facts) opinion {
	if f.Environment.MetadataHost != "" {
		return environmentOverride(f)
	}
	if set := f.obeyed(); len(set) > 0 {
		return suggests("The agent's Pod has %s, which the probe ignores and other clients obey. If it is set in "+
			"Pods of workloads too, they do not get the identity that is probed.", strings.Join(set, ", "))
	}
	return opinion{}
}

// obeyed are the variables by which client libraries ask somebody else than the
// metadata server, or ask it through a proxy. Where exceptions from a proxy are set,
// they are taken to be right.
func (f Facts) obeyed() []string {
	set := map[string]bool{}
	for _, v := range f.Environment.Variables {
		set[v] = true
	}
	names := []string{"GCE_METADATA_HOST", "GOOGLE_APPLICATION_CREDENTIALS"}
	if !set["NO_PROXY"] && !set["no_proxy"] {
		names = append(names, "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
	}
	var obeyed []string
	for _, n := range names {
		if set[n] {
			obeyed = append(obeyed, n)
		}
	}
	return obeyed
}
