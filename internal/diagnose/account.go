package diagnose

import (
	"fmt"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Causes in annotations, in the expectation, and in IAM.

// expectationOutdated: WI_EXPECTED_EMAILS wins over the annotations, and nobody
// changes it when they are changed. It may be misspelt, as the flag -expect may be.
func expectationOutdated(f Facts) opinion {
	configured, observed := f.Expectation.Source == identity.SourceConfig, f.Verdict.Identity
	expects := "By " + f.configuredBy() + ", " + quote(f.Expectation.String()) + " is right"
	switch {
	case !f.Verdict.State.Accuses() || f.vmAnswers():
	case !configured && f.Expectation.Known():
		return rulesOut("%s is not set.", f.configuredBy())
	case !configured || observed == "":
	case f.Annotations != nil && f.annotated() == string(observed) && f.gkeAnswers():
		return proves("%s, and the annotation of the Kubernetes ServiceAccount names what the server gives: %s.",
			expects, quote(string(observed)))
	case f.Annotations != nil && f.annotated() == string(observed):
		return suggests("%s, and the annotation of the Kubernetes ServiceAccount names %s.", expects, quote(string(observed)))
	case f.Annotations[identity.AnnotationReturnPrincipal] == "true" && observed.Kind() == identity.Principal:
		return proves("%s, and the annotation %s of the Kubernetes ServiceAccount is \"true\", which asks for the principal.",
			expects, identity.AnnotationReturnPrincipal)
	case f.annotated() != "" && f.Expectation.Accepts(identity.Identity(f.annotated())):
		return rulesOut("The annotation of the Kubernetes ServiceAccount names the same as %s.", f.configuredBy())
	case f.in(identity.Mismatch):
		return suggests("%s, and the server gives %s%s.", expects, quote(string(observed)), f.resemblance())
	}
	return opinion{}
}

// resemblance is what the observed identity has in common with the only expected one.
func (f Facts) resemblance() string {
	if len(f.Expectation.Accepted) != 1 {
		return ""
	}
	expected, observed := string(f.Expectation.Accepted[0]), string(f.Verdict.Identity)
	name, project, _ := strings.Cut(expected, "@")
	otherName, otherProject, isAccount := strings.Cut(observed, "@")
	switch letters := identity.Distance(expected, observed); {
	case letters == 0: // said in other words
	case letters == 1:
		return ", which differs in one letter"
	case letters <= identity.MaxTypo:
		return fmt.Sprintf(", which differs in %d letters", letters)
	case !isAccount:
	case name == otherName:
		return ", which has the same name in another project"
	case project == otherProject:
		return ", another account of the same project"
	}
	return ""
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
	case f.misspeltKey() != "":
		// It is there, under another name.
	case f.Annotations != nil && observed.Kind() == identity.WorkloadPool:
		return proves("The Kubernetes ServiceAccount has no annotation %s, and the server gives what it gives "+
			"without: the workload pool %s.", key, quote(string(observed)))
	case f.Annotations != nil && f.Annotations[identity.AnnotationReturnPrincipal] != "true":
		return suggests("The Kubernetes ServiceAccount has no annotation %s.", key)
	case f.Annotations == nil && f.Expectation.Source == identity.SourceConfig:
		return suggests("The server gives %s, as for a Kubernetes ServiceAccount without the annotation %s; what is "+
			"expected comes from %s.", quote(string(observed)), key, f.configuredBy())
	}
	return opinion{}
}

// annotationMisspelt: a key that is not the right one is no annotation, and a value
// that is no email of a service account leads to none.
func annotationMisspelt(f Facts) opinion {
	const key = identity.AnnotationServiceAccount
	switch {
	case f.in(identity.UnknownExpectation) && f.Expectation.Invalid != "":
		return proves("The annotation %s is %s, which is not the email of a service account.", key, quote(f.Expectation.Invalid))
	case f.in(identity.Unbound) && f.misspeltKey() != "":
		return proves("The Kubernetes ServiceAccount has no annotation %s, and has %s.", key, quote(f.misspeltKey()))
	}
	return opinion{}
}

// annotationMisspeltRisk: the pool is what is expected without an annotation. Nobody
// who has written one meant that.
func annotationMisspeltRisk(f Facts) opinion {
	if f.Expectation.Source != identity.SourceWorkloadPool || f.misspeltKey() == "" {
		return opinion{}
	}
	return suggests("The workload pool is right for a Kubernetes ServiceAccount without the annotation %s. But it has %s, "+
		"which looks as if it was meant to be that.", identity.AnnotationServiceAccount, quote(f.misspeltKey()))
}

// misspeltKey is a key among the annotations that was likely meant to be the one of a
// service account, where that is not there.
func (f Facts) misspeltKey() string {
	if f.annotated() != "" {
		return ""
	}
	return identity.NearMiss(f.Annotations)
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
	case f.in(identity.Mismatch) && f.gkeAnswers() && observed.Kind() == identity.ServiceAccount &&
		f.Expectation.Source == identity.SourceAnnotation:
		return suggests("The annotation names %s, and GKE's metadata server gives %s%s: it may hold what the annotation "+
			"was before.", expected, quote(string(observed)), f.resemblance())
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
		return proves("IAM says that it does not know the service account %s%s.", quote(string(f.Verdict.Identity)),
			f.named())
	}
	return opinion{}
}

// named says who names the service account that is not there.
func (f Facts) named() string {
	switch {
	case f.Expectation.Source == identity.SourceAnnotation && f.Expectation.Accepts(f.Verdict.Identity):
		return ", which the annotation of the Kubernetes ServiceAccount names: it is misspelt there, or was deleted"
	case f.Expectation.Source == identity.SourceConfig:
		return ", which the server has from the annotation of the Kubernetes ServiceAccount: it is misspelt there, or was deleted"
	}
	return ""
}

// bindingMissing: IAM's 403 is about a permission "on resource (or it may not
// exist)", so it proves nothing.
func bindingMissing(f Facts) opinion {
	switch f.refusal() {
	case identity.Denied:
		if blocked := f.blocked(); blocked != "" {
			return rulesOut("IAM says that something else is in the way: %s.", blocked)
		}
		return suggests("IAM refuses a token of %s with 403, most often because the Kubernetes ServiceAccount lacks "+
			"roles/iam.workloadIdentityUser on it. An account that does not exist or is disabled gets "+
			"the same answer.", quote(string(f.Verdict.Identity)))
	case identity.NoServiceAccount:
		return rulesOut("IAM does not know the service account at all.")
	default:
		return opinion{}
	}
}

// apiBlocked: IAM names what is in the way, and asks for no role.
func apiBlocked(f Facts) opinion {
	blocked := f.blocked()
	if blocked == "" {
		return opinion{}
	}
	return proves("IAM refuses a token of %s with 403, and says why: %s.", quote(string(f.Verdict.Identity)), blocked)
}

// blocked is what IAM says is in the way of the token, empty if nothing.
func (f Facts) blocked() string {
	if f.refusal() == "" {
		return ""
	}
	_, failure := f.failure()
	return failure.Blocked
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
		return suggests("%s has %s, which the probe ignores and other clients obey. If it is set in Pods of workloads "+
			"too, they do not get the identity that is probed.", f.thePod(), strings.Join(set, ", "))
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
