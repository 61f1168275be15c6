package identity

import (
	"fmt"
	"slices"
	"strings"
)

// State is the verdict on a node's identity, in one word.
type State string

// The states, a closed set.
const (
	// NodeFallback: the identity is not the expected one, and it is the node's.
	NodeFallback State = "node_fallback"
	// Mismatch: the identity is neither expected nor known as the node's.
	Mismatch State = "mismatch"
	// Unbound: the workload pool or principal answers where a service account is expected.
	Unbound State = "unbound"
	// TokenDenied: the identity is right, but IAM refuses the token.
	TokenDenied State = "token_denied"
	// Unavailable: no answer, or one that says nothing about the identity.
	Unavailable State = "unavailable"
	// UnknownExpectation: there is nothing to compare the identity with.
	UnknownExpectation State = "unknown_expectation"
	// Stale: no probe has finished for too long. Only a reader of the last
	// verdict can tell, so Judge never returns it.
	Stale State = "stale"
	// Starting: no verdict yet. Judge never returns it.
	Starting State = "starting"
	// Match: the expected identity, and a token.
	Match State = "match"
)

// States lists all states in the order of precedence: where the evidence
// allows several, the first is the verdict.
func States() []State {
	return []State{NodeFallback, Mismatch, Unbound, TokenDenied, Unavailable, UnknownExpectation, Stale, Starting, Match}
}

// VerdictStates lists the states that Judge returns, in the same order.
func VerdictStates() []State {
	return []State{NodeFallback, Mismatch, Unbound, TokenDenied, Unavailable, UnknownExpectation, Match}
}

// Meaning is one sentence for people.
func (s State) Meaning() string {
	switch s {
	case NodeFallback:
		return "Pods on this node get the node's own identity instead of theirs."
	case Mismatch:
		return "Pods get a Google identity that is neither the expected one nor known as the node's."
	case Unbound:
		return "The workload pool or the principal answers where a Google service account is expected."
	case TokenDenied:
		return "The identity is right, but IAM refuses to issue a token for it."
	case Unavailable:
		return "The metadata server gives no answer, or one that says nothing about the identity."
	case UnknownExpectation:
		return "The identity cannot be judged: what is expected is not known, or may have changed since it was read."
	case Stale:
		return "The last verdict is too old: the probe loop has stopped or hangs."
	case Starting:
		return "No verdict yet: the first probes are under way."
	case Match:
		return "Pods get the expected identity, and a token for it."
	}
	return ""
}

// Accuses reports whether the state says that Pods get a wrong identity, which
// must rest on a fresh expectation.
func (s State) Accuses() bool { return s == NodeFallback || s == Mismatch || s == Unbound }

// Inconclusive reports whether the state says nothing about the identity, and
// may therefore pass by itself while a node or a Pod starts.
func (s State) Inconclusive() bool { return s == Unavailable || s == UnknownExpectation }

// Verdict is a state with the evidence it rests on.
type Verdict struct {
	State State
	// Identity is the observed one, empty if the server gave none.
	Identity Identity
	// Server is who answered.
	Server Server
	// Why says in one sentence what the state rests on.
	Why string
}

// Same reports whether two verdicts state the same on the same evidence, in
// whatever words.
func (v Verdict) Same(w Verdict) bool {
	return v.State == w.State && v.Identity == w.Identity && v.Server == w.Server
}

// NodeAccounts are the patterns of service accounts known to be a node's.
type NodeAccounts []Pattern

// DefaultNodeAccounts are the Compute Engine default service accounts, one of which a
// node pool has if it is created without another. In old projects they are
// NUMBER@project.gserviceaccount.com (spinnaker issue 1341) or
// NUMBER-compute@project.gserviceaccount.com, and in a sovereign cloud
// NUMBER-compute@developer.s3ns-system.iam.gserviceaccount.com, by its prefix (S3NS
// documentation, "Key differences between Cloud de Confiance and Google Cloud").
func DefaultNodeAccounts() NodeAccounts {
	return NodeAccounts{
		"*-compute@developer.gserviceaccount.com", "*@project.gserviceaccount.com",
		"*-compute@developer.*-system.iam.gserviceaccount.com",
	}
}

func (n NodeAccounts) contain(id Identity) bool {
	return slices.ContainsFunc(n, func(p Pattern) bool { return p.Match(id) })
}

// Judge compares what was observed with what was expected. It takes the
// observation for what it is: evidence of one moment, in which each request
// may have met another server. Repeating the probe is the caller's part.
func Judge(want Expectation, nodes NodeAccounts, got Observation) Verdict {
	v := Verdict{Server: got.Server.Server, Identity: got.Email.Identity}
	if v.Server == "" {
		v.Server = ServerUnknown
	}
	say := func(s State, format string, args ...any) Verdict {
		v.State, v.Why = s, fmt.Sprintf(format, args...)
		return v
	}

	if !got.Email.OK() {
		// Even where the VM server is known to have answered another request, it
		// did not say who the Pod is: a node without a service account has none to give.
		v.Identity = ""
		// That GKE's server repeats an annotation which is no email is not confirmed. One
		// that does says what the annotation is, and nothing is wrong with it.
		if want.Invalid != "" && strings.EqualFold(got.Email.Instead, want.Invalid) {
			return say(UnknownExpectation, "the annotation %s is %q, which is not the email of a service account, and the metadata server repeats it",
				AnnotationServiceAccount, want.Invalid)
		}
		return say(Unavailable, "the request for the email failed: %s", describe(got.Email.Request))
	}

	id := got.Email.Identity
	if want.Accepts(id) {
		// The expected identity from the VM server is no failure: the node pool's
		// own service account may be the expected one. It is a risk, shown by Server.
		switch f := got.Token.Failure; {
		case got.Token.OK():
			return say(Match, "the %s metadata server gives the expected identity and a token", v.Server)
		case f != nil && (f.Reason == Denied || f.Reason == NoServiceAccount):
			return say(TokenDenied, "the token was refused: %s", describe(got.Token.Request))
		default:
			return say(Unavailable, "the request for the token failed: %s", describe(got.Token.Request))
		}
	}

	switch {
	// What the VM server says is the node's identity, whatever its name. It knows no
	// pools and principals: one of these beside it came from the other server.
	case got.Server.Server == ServerVM && id.Kind() == ServiceAccount:
		return say(NodeFallback, "the VM metadata server answered, and it gives the node's identity to every Pod")
	case nodes.contain(id):
		return say(NodeFallback, "the email is a node's service account")
	case want.Invalid != "" && !want.Known():
		return say(UnknownExpectation, "the annotation %s is %q, which is not the email of a service account", AnnotationServiceAccount, want.Invalid)
	case !want.Known():
		return say(UnknownExpectation, "nothing is known to compare the identity with")
	case id.Kind() != ServiceAccount && want.wantsServiceAccount():
		return say(Unbound, "the %s answers where a service account is expected", strings.ReplaceAll(string(id.Kind()), "_", " "))
	}
	return say(Mismatch, "the identity is not the expected one")
}

func describe(r Request) string {
	switch {
	case r.Failure != nil:
		return r.Failure.Error()
	case !r.Known():
		return "it was not made"
	}
	return "it succeeded"
}
