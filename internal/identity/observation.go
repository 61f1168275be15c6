package identity

import (
	"fmt"
	"iter"
	"time"
)

// Endpoint is one of the three questions of a probe. Each is asked on a TCP
// connection of its own, so that for a moment two of them can be answered by
// different servers.
type Endpoint string

// The endpoints, by what they tell.
const (
	// EndpointEmail is service-accounts/default/email: who the Pod is.
	EndpointEmail Endpoint = "email"
	// EndpointToken is service-accounts/default/token: whether it can act.
	EndpointToken Endpoint = "token"
	// EndpointServer is instance/machine-type: who answers.
	EndpointServer Endpoint = "server"
)

// Endpoints lists all endpoints.
func Endpoints() []Endpoint { return []Endpoint{EndpointEmail, EndpointToken, EndpointServer} }

// Server is the metadata server that answered.
type Server string

// The metadata servers that a Pod may reach at the same address.
const (
	// ServerGKE knows Pods. It answers 404 to instance/machine-type, as any server does to
	// a path that it does not know: what makes it one is another answer, or a mark of it.
	ServerGKE Server = "gke"
	// ServerVM is the Compute Engine metadata server, to which every Pod is the
	// node. It answers 200 to instance/machine-type
	// (kubernetes-sigs/gcp-compute-persistent-disk-csi-driver issue 421).
	ServerVM Server = "vm"
	// ServerUnknown: it could not be told.
	ServerUnknown Server = "unknown"
)

// Reason is why a request has no usable answer.
type Reason string

// The reasons, a closed set.
const (
	// Timeout: no answer, or not all of it, by the deadline.
	Timeout Reason = "timeout"
	// Unreachable: refused, reset, no route, or the name was not found.
	Unreachable Reason = "unreachable"
	// Throttled: 429, or 499, which the GKE server answers when its queue is full.
	Throttled Reason = "throttled"
	// ServerError: any 5xx.
	ServerError Reason = "server_error"
	// Denied: 401 or 403. From the token endpoint: IAM refuses the token.
	Denied Reason = "denied"
	// NoServiceAccount: IAM does not know the service account (token endpoint only).
	NoServiceAccount Reason = "no_service_account"
	// PodUnknown: the server says that it does not know which Pod asks, by its address.
	PodUnknown Reason = "pod_unknown"
	// NotFound: 404 for a path that should exist, as a server that starts may answer;
	// for the machine type, where nothing tells that a metadata server answered so.
	NotFound Reason = "not_found"
	// Redirect: any 3xx. It is never followed: the metadata servers send none.
	Redirect Reason = "redirect"
	// Malformed: everything else, such as an answer that is empty, too large, not
	// JSON, or not an identity.
	Malformed Reason = "malformed"
	// LocalResources: the process or its node had no file descriptor, no memory or no
	// local port for a connection, so that the server was not asked.
	LocalResources Reason = "local_resources"
)

// Reasons lists the reasons with which a request to the endpoint can fail.
func Reasons(e Endpoint) []Reason {
	common := []Reason{Timeout, Unreachable, Throttled, ServerError, Denied, Redirect, Malformed, LocalResources}
	switch e {
	case EndpointEmail:
		return append(common, NotFound, PodUnknown)
	case EndpointToken:
		return append(common, NotFound, PodUnknown, NoServiceAccount)
	case EndpointServer:
		return append(common, NotFound)
	}
	return common
}

// Failure is a request without a usable answer. It never holds a body of the
// token endpoint.
type Failure struct {
	Reason Reason
	// Status is the HTTP status, 0 if there was none.
	Status int
	// Connected, where there is no status: a TCP connection came about, and no answer on it.
	Connected bool
	// Detail says in words what happened, for people.
	Detail string
	// Blocked is what IAM says is in the way of a token, which no role changes, in words
	// for people. It is empty if it says nothing like that.
	Blocked string
}

// Error is the failure as one line.
func (f *Failure) Error() string {
	if f.Status == 0 {
		return fmt.Sprintf("%s: %s", f.Reason, f.Detail)
	}
	return fmt.Sprintf("%s: HTTP %d: %s", f.Reason, f.Status, f.Detail)
}

// Origin is where an answer is from.
type Origin int8

// The origins. A valid token is not asked for by each probe: IAM and STS have quotas.
const (
	// NeverAsked: there is no answer at all.
	NeverAsked Origin = iota
	// Asked: this probe made the request, so the answer is live.
	Asked
	// Reused: an earlier probe made it. Such an answer tells what is known of the
	// token, and never that a server answers now.
	Reused
)

// Request is one question to the metadata server and how it went.
type Request struct {
	Origin Origin
	// Took is the time from dialing to the end of the body.
	Took time.Duration
	// ServerHeader is the Server header of the answer. It is a hint for people:
	// errors may lack it, and no documentation promises it.
	ServerHeader string
	// Genuine: only a metadata server answers so. It is an identity, a token or a machine
	// type, or has a header or a text of one.
	Genuine bool
	// Proxy is what an answer that is not Genuine has of a proxy or a web server, in words
	// for people, such as: the header "server: envoy". It is empty if it has nothing.
	Proxy string
	// Passed is what a Genuine answer has of a proxy on its way, in such words.
	Passed  string
	Failure *Failure
}

// Live reports whether this probe made the request.
func (r Request) Live() bool { return r.Origin == Asked }

// Known reports whether this probe or an earlier one made the request.
func (r Request) Known() bool { return r.Origin != NeverAsked }

// OK reports whether the request was made, by this probe or an earlier one, and
// got a usable answer.
func (r Request) OK() bool { return r.Known() && r.Failure == nil }

// Observation is what one probe found out.
type Observation struct {
	Email  Email
	Token  Token
	Server Responder
	// Void: a request failed, and while it was under way the process did not run for
	// long enough to explain that. Nothing may be concluded from the observation.
	Void bool
}

// Email is the answer to EndpointEmail.
type Email struct {
	Request
	Identity Identity
	// Instead is what a server gave instead of an identity, as Shown.
	Instead string
}

// Token is the answer to EndpointToken, without the token: it stays in
// internal/metadata.
type Token struct {
	Request
	// Type is the kind of token, Bearer.
	Type string
	// Lifetime is how much longer the token was valid when it came, from a second to
	// a day; 0 if the server did not say (RFC 6749, section 5.1, allows that).
	Lifetime time.Duration
}

// Responder is the answer to EndpointServer.
type Responder struct {
	Request
	Server Server
}

// Claims are what the metadata server's identity token says about who made it,
// without the token: it stays in internal/metadata.
type Claims struct {
	// Server is the one whose tokens have such claims, empty or unknown if there was
	// no token. Only those of the VM server have the claim google.compute_engine
	// (gravitational/teleport issue 28636).
	Server Server
	// Machine is the name of the VM in that claim.
	Machine string
	// Identity is the one for which the token was made, empty if it does not say.
	Identity Identity
}

// Genuine reports whether any answer of the probe is one that only a metadata server
// gives. A token of an earlier probe is none.
func (o Observation) Genuine() bool {
	for _, r := range o.Requests() {
		if r.Live() && r.Genuine {
			return true
		}
	}
	return o.Email.Live() && o.Email.OK() || o.Token.Live() && o.Token.OK()
}

// Requests are the observation's requests by endpoint, in the order of Endpoints.
func (o Observation) Requests() iter.Seq2[Endpoint, Request] {
	return func(yield func(Endpoint, Request) bool) {
		_ = yield(EndpointEmail, o.Email.Request) && yield(EndpointToken, o.Token.Request) && yield(EndpointServer, o.Server.Request)
	}
}
