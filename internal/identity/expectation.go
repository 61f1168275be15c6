package identity

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Source is where an expectation comes from.
type Source string

// The sources of an expectation, the first that is set wins.
const (
	// SourceConfig is WI_EXPECTED_EMAILS.
	SourceConfig Source = "config"
	// SourceAnnotation is the annotation of the Pod's Kubernetes ServiceAccount.
	SourceAnnotation Source = "annotation"
	// SourceWorkloadPool is the absence of that annotation: GKE then answers
	// with the workload pool or the principal.
	SourceWorkloadPool Source = "workload_pool"
	// SourceNone: nothing is configured, and the ServiceAccount was not read yet.
	SourceNone Source = "none"
)

// Annotations of a Kubernetes ServiceAccount that decide which identity GKE
// gives to its Pods (GKE documentation, "About Workload Identity Federation").
const (
	AnnotationServiceAccount  = "iam.gke.io/gcp-service-account"
	AnnotationReturnPrincipal = "iam.gke.io/return-principal-id-as-email"
)

// Expectation is the set of identities that the Pod may have. The zero value
// is the unknown expectation, which accepts and accuses nothing.
type Expectation struct {
	Accepted []Pattern
	Source   Source
	// Invalid is an annotation that is not the email of a service account, as Shown. What
	// is expected is then not known, and the metadata server may repeat it.
	Invalid string
}

// Reading is an expectation as it was read.
type Reading struct {
	Expectation
	// Changed is when it was changed last, and Age how long ago that was when it was
	// read, both by the clock of whoever was asked. Changed is zero if not known.
	Changed time.Time
	Age     time.Duration
}

// Expect is the configured expectation: any one of these identities is right.
func Expect(ids ...Identity) Expectation {
	e := Expectation{Source: SourceConfig}
	for _, id := range ids {
		e.Accepted = append(e.Accepted, Exactly(id))
	}
	return e
}

// FromAnnotations is what GKE's metadata server should answer for the Pods of
// the Kubernetes ServiceAccount namespace/name with these annotations. project
// is the cluster's project, or empty if that is not known. For a ServiceAccount
// without annotation any workload pool is accepted. Of an annotation that is no email
// the expectation has what is Invalid, beside the error.
func FromAnnotations(annotations map[string]string, namespace, name, project string) (Expectation, error) {
	// What GKE answers when both annotations are set is not documented, so both are accepted.
	var principals []Pattern
	if annotations[AnnotationReturnPrincipal] == "true" {
		principals = []Pattern{Pattern(fmt.Sprintf("%s*/subject/ns/%s/sa/%s", principalScheme, namespace, name))}
	}
	annotated := annotations[AnnotationServiceAccount]
	if strings.TrimSpace(annotated) == "" {
		return Expectation{Accepted: append(workloadPools(project), principals...), Source: SourceWorkloadPool}, nil
	}
	id, err := Parse(annotated)
	if err == nil && id.Kind() != ServiceAccount {
		err = fmt.Errorf("a %s", id.Kind())
	}
	if err != nil {
		e := Expectation{Source: SourceAnnotation, Invalid: Shown(annotated)}
		return e, fmt.Errorf("annotation %s=%q of ServiceAccount %s/%s is not the email of a service account: %w",
			AnnotationServiceAccount, e.Invalid, namespace, name, err)
	}
	return Expectation{Accepted: append([]Pattern{Exactly(id)}, principals...), Source: SourceAnnotation}, nil
}

const poolSuffix = ".svc.id.goog"

// workloadPools are the project's own pool, for people to see, and any other: a cluster
// in a fleet has the pool of the fleet's host project. No more is told apart by that,
// since all Pods of a cluster have the same pool.
func workloadPools(project string) []Pattern {
	const anyPool Pattern = "*" + poolSuffix
	if pool := PoolOf(project); pool != "" {
		return []Pattern{Pattern(pool), anyPool}
	}
	return []Pattern{anyPool}
}

// PoolOf is the workload pool of a project. In a sovereign cloud, where the ID of a
// project begins with the cloud's prefix, s3ns:shop, that is shop.s3ns.svc.id.goog (S3NS
// documentation, "Key differences between Cloud de Confiance and Google Cloud"; secrets-store-csi-driver-provider-gcp
// issue 655). For a project with a domain in its ID, example.com:shop, no source tells
// it, and it is empty.
func PoolOf(project string) string {
	project, err := fold(project)
	if err != nil || project == "" {
		return ""
	}
	universe, name, ok := strings.Cut(project, ":")
	switch {
	case !ok:
		return project + poolSuffix
	case universe == "" || name == "" || strings.Contains(universe, "."):
		return ""
	}
	return name + "." + universe + poolSuffix
}

// Known reports whether anything is expected at all.
func (e Expectation) Known() bool { return len(e.Accepted) > 0 }

// Accepts reports whether the identity is one of the expected ones.
func (e Expectation) Accepts(id Identity) bool {
	return id != "" && slices.ContainsFunc(e.Accepted, func(p Pattern) bool { return p.Match(id) })
}

// wantsServiceAccount reports whether a service account, and not only a
// workload pool or principal, is expected.
func (e Expectation) wantsServiceAccount() bool {
	return slices.ContainsFunc(e.Accepted, func(p Pattern) bool { return Identity(p).Kind() == ServiceAccount })
}

// Equal reports whether the two expect the same from the same source.
func (e Expectation) Equal(f Expectation) bool {
	return e.Source == f.Source && e.Invalid == f.Invalid && slices.Equal(e.Accepted, f.Accepted)
}

// maxListed bounds what String lists, which becomes a label of a metric.
const maxListed = 256

// String lists the accepted identities, separated by commas: the first one, and
// as many more as there is room for in 256 bytes. Two expectations may be
// different and have the same text.
func (e Expectation) String() string {
	var b strings.Builder
	for i, p := range e.Accepted {
		more := ""
		if left := len(e.Accepted) - i - 1; left > 0 {
			more = fmt.Sprintf(", and %d more", left)
		}
		if i > 0 && b.Len()+len(",")+len(p)+len(more) > maxListed {
			fmt.Fprintf(&b, ", and %d more", len(e.Accepted)-i)
			break
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(string(p))
	}
	return b.String()
}
