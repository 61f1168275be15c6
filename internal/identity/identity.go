// Package identity holds the vocabulary of the exporter: which Google identity
// is expected, which one was observed, and the verdict on the two.
//
// It is pure: no I/O, no clock, no logging. Everything that decides whether a
// Pod's identity is right is in this package and can be read in one sitting.
package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
)

// Identity is a Google identity as the metadata server names it in its answer
// to service-accounts/default/email: a service account's email, a workload
// pool, or a principal. Values are trimmed and in lower case, so that two of
// them are the same identity exactly if they are equal.
type Identity string

// Kind is the sort of thing an Identity names.
type Kind string

// The kinds of identity that a metadata server answers with.
const (
	// ServiceAccount is an IAM service account, such as
	// app@project.iam.gserviceaccount.com.
	ServiceAccount Kind = "service_account"
	// WorkloadPool is the identity of a KSA without an annotation, such as
	// project.svc.id.goog (GoogleCloudPlatform/k8s-stackdriver issue 353).
	WorkloadPool Kind = "workload_pool"
	// Principal is the identity of a KSA with the annotation
	// iam.gke.io/return-principal-id-as-email, such as
	// principal://iam.googleapis.com/projects/1/.../subject/ns/demo/sa/app, or that of an
	// agent, such as principal://agents.global.org-1.system.id.goog/resources/... (GKE
	// documentation, "Request agent identity"). A principalSet is several, and none.
	Principal Kind = "principal"
)

const (
	// maxLength is that of an email or a workload pool: more than any has, and little
	// enough for a label of a metric.
	maxLength = 256
	// maxPrincipal is that of a principal. With a namespace of 63 and a
	// ServiceAccount of 253 bytes it has about 500.
	maxPrincipal = 512
)

const (
	emailCharacters  = "abcdefghijklmnopqrstuvwxyz0123456789.-_+"
	domainCharacters = "abcdefghijklmnopqrstuvwxyz0123456789.-"
	// A domain of an email with an underscore is a placeholder that was left in an
	// annotation, as in GSA_NAME@PROJECT_ID.iam.gserviceaccount.com. GKE repeats it, and it
	// is IAM that does not know it.
	emailDomainCharacters = domainCharacters + "_"

	poolCharacters      = domainCharacters + ":" // example.com:project
	principalCharacters = poolCharacters + "/_"
	principalScheme     = "principal://"
)

// Parse reads an identity, ignoring letter case and the white space around it.
// It accepts no universe domain more than another, because sovereign clouds
// have their own (project.eu0.iam.gserviceaccount.com, project.eu0.svc.id.goog),
// but nothing that could not be an identity: an answer such as a proxy's login
// page must not be compared with the expected identity and called wrong. Nor must
// a credential, which would be shown.
func Parse(s string) (Identity, error) {
	folded, err := fold(s)
	if err != nil {
		return "", err
	}
	id, most := Identity(folded), maxLength
	if strings.HasPrefix(folded, principalScheme) {
		most = maxPrincipal
	}
	switch {
	case id == "":
		return "", errors.New("empty, want an email, a workload pool or a principal")
	case len(id) > most:
		return "", fmt.Errorf("%d bytes, want at most %d", len(id), most)
	case isMember(folded):
		return "", refuseMember(folded)
	case id.Kind() == "":
		return "", errors.New("neither an email, nor a workload pool, nor a principal")
	// Namespaces and names in a principal are the user's, and may be a hash.
	case strings.Contains(folded, "ya29."), id.Kind() != Principal && foreign.Text(s, len(s)) != strings.TrimSpace(s):
		return "", errors.New("what looks like a credential")
	}
	return id, nil
}

// Shown is what people see of a text that should be an identity and is none, and what
// two of them are compared by: short, printable, and without a credential.
func Shown(s string) string { return foreign.Text(s, maxLength) }

const (
	memberPrefix    = "serviceaccount:"
	memberSetPrefix = "principalset:"
)

// isMember reports whether it is how IAM's policies name somebody, which is not how the
// metadata server does: serviceAccount:project.svc.id.goog[namespace/name].
func isMember(folded string) bool {
	return strings.HasPrefix(folded, memberPrefix) || strings.HasPrefix(folded, memberSetPrefix) ||
		strings.Contains(folded, ".svc.id.") && strings.Contains(folded, "[") && strings.HasSuffix(folded, "]")
}

// refuseMember names the identity that the member has in it, which is shorter: what a
// member is without its prefix and its brackets may be one again.
func refuseMember(folded string) error {
	if strings.HasPrefix(folded, memberSetPrefix) {
		return errors.New("a set of principals, want one of them")
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(folded, memberPrefix), "[")
	switch id, err := Parse(name); {
	case err != nil:
		return errors.New("an IAM member, want the email of a service account")
	case id.Kind() == WorkloadPool:
		return fmt.Errorf("an IAM member, want the email of the service account, or the workload pool %s", id)
	default:
		return fmt.Errorf("an IAM member, want %s", id)
	}
}

// fold is s in lower case, without the white space around it. It must be ASCII:
// the Kelvin sign and the dotted capital I become letters of ASCII in lower case,
// and would make an identity of somebody else's the expected one.
func fold(s string) (string, error) {
	if strings.IndexFunc(s, func(r rune) bool { return r > '~' }) >= 0 {
		return "", errors.New("not ASCII")
	}
	return strings.ToLower(strings.TrimSpace(s)), nil
}

// Kind tells what the identity names; it is empty if that is nothing known.
func (id Identity) Kind() Kind {
	s := string(id)
	if rest, ok := strings.CutPrefix(s, principalScheme); ok {
		host, path, _ := strings.Cut(rest, "/")
		if consistsOf(host, domainCharacters) && strings.Contains(host, ".") && hasLabels(host) && consistsOf(path, principalCharacters) {
			return Principal
		}
		return ""
	}
	if name, domain, ok := strings.Cut(s, "@"); ok {
		if consistsOf(name, emailCharacters) && consistsOf(domain, emailDomainCharacters) && strings.Contains(domain, ".") && hasLabels(domain) {
			return ServiceAccount
		}
		return ""
	}
	if project, universe, ok := strings.Cut(s, ".svc.id."); ok && consistsOf(project, poolCharacters) && consistsOf(universe, domainCharacters) && hasLabels(s) {
		return WorkloadPool
	}
	return ""
}

// hasLabels reports whether there is something before, between and behind the dots of a
// domain, and before a colon, as in example.com:project.svc.id.goog.
func hasLabels(domain string) bool {
	return !slices.Contains(strings.Split(strings.ReplaceAll(domain, ":", "."), "."), "")
}

// consistsOf reports whether s has at least one character, and none but those
// of the set.
func consistsOf(s, set string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return !strings.ContainsRune(set, r) }) < 0
}
