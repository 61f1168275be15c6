package simulator

import (
	"net/http"
	"net/netip"
	"time"
)

// Names that code refers to; the others are known to the table only.
const (
	Healthy = "healthy"
	Flap    = "flap"
)

// FaultKind describes a fault for the one who chooses it.
type FaultKind struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Parameters  []string `json:"parameters"`
}

// Faults lists all faults in a stable order: who answers, whose identity, what
// IAM says, a server in trouble, a broken transport, nonsense, and mixtures.
func Faults() []FaultKind { return faultsOf(ServeBoth) }

func faultsOf(serve Serve) []FaultKind {
	var list []FaultKind
	for _, k := range kinds() {
		if serve.has(k.needs) {
			list = append(list, FaultKind{k.name, k.description, k.takes.names()})
		}
	}
	return list
}

// kind is a fault: who must be served for it, and the handler that plays it.
type kind struct {
	name        string
	needs       Serve // empty: whichever is served
	takes       parameters
	play        func(servers, Fault) http.Handler
	description string
}

// kinds is the closed set of faults. A function instead of a variable, so that
// nobody can change it.
func kinds() []kind {
	none := parameters{}
	return []kind{
		{Healthy, "", none, healthy, "nothing is wrong: the GKE server knows the Pod and hands out its identity"},
		{"bypass", ServeVM, none, bypass, "the VM server answers everything, as the node"},
		{"notrack", ServeVM, none, bypass, "the same answers as for bypass, where Cilium keeps packets of Pods from connection tracking"},
		{"snat", ServeGKE, none, snat, "the GKE server answers, but takes the Pod for the node"},
		{"snat-error", ServeGKE, none, snatError, "the GKE server cannot attribute the request: 500 where an identity is asked for"},
		{"unknown-pod", ServeGKE, none, unknownPod, "email and token are refused with 403, because no Pod has the address, as an emulator says"},
		{"mixed", ServeBoth, none, mixed, "instance/machine-type is answered by the VM server, the rest by the GKE server"},
		{"alternate", ServeBoth, none, alternate, "connections go in turns to the GKE server and to the VM server"},

		{"swap", ServeGKE, none, swap, "the GKE server hands out the identity of another Pod"},
		{"stranger", ServeGKE, none, stranger, "the GKE server hands out stranger@other-project.iam.gserviceaccount.com"},
		{"unannotated", ServeGKE, none, unannotated, "the workload pool is handed out, as for a KSA without annotation"},
		{"principal", ServeGKE, none, principal, "the principal:// form is handed out instead of an email"},

		{"no-binding", "", none, onCredentials(http.StatusForbidden, iamNoBinding), "email is right, but IAM refuses the token: 403, workloadIdentityUser is missing"},
		{"no-gsa", "", none, onCredentials(http.StatusNotFound, iamNoAccount), "email is right, but IAM does not know the GSA: token 404"},
		{"sts-blocked", "", parameters{delay: 2 * time.Second}, stsBlocked, "email is right, but the token ends in 504 after a delay: egress to STS is blocked"},
		{"expiring", "", none, expiring, "tokens live for 20 s more"},
		{"expired", "", none, expired, "tokens have 0 s to live"},
		{"leaky", "", none, leaky, "the token ends in 500 with an access token in the text of the error"},

		{"not-found", "", none, starting, "email and token are 404 Not Found: a server that is starting"},
		{"concealed", "", none, everywhere(http.StatusForbidden, concealedBody), "403 for everything: the endpoint is concealed"},
		{"throttled", "", none, everywhere(http.StatusTooManyRequests, "Too Many Requests\n"), "429 for everything"},
		{"queue-timeout", "", none, everywhere(499, "Client Closed Request\n"), "499 for everything: too many connections wait for the server"},
		{"server-error", "", none, everywhere(http.StatusInternalServerError, gkeInternalError), "500 for everything"},
		{"unavailable", "", none, dripping(http.StatusServiceUnavailable), "503 for everything, with a body that trickles and does not end"},

		{"slow", "", parameters{delay: 5 * time.Second}, slow, "right answers after a delay"},
		{"trickle", "", none, dripping(http.StatusOK), "200 and a body that never ends, a byte every 100 ms"},
		{"stall", "", none, stall, "right headers and the first half of the body; the rest never comes"},
		{"silent", "", none, silent, "connections are accepted and requests never answered"},
		{"reset", "", none, reset, "connections are accepted and reset when the request has come"},
		{refused, "", none, healthy, "nothing listens: the kernel refuses connections"},

		{"not-json", "", none, notJSON, "the token is not JSON; email is right"},
		{"not-email", "", none, notEmail, "email is not an email; the token is right"},
		{"proxy", "", none, proxy, "the proxy of a mesh answers, which has no route: 404 without a body, server: envoy"},
		{"sidecar", "", none, sidecar, "right answers that passed the proxy of a mesh, with its headers"},
		{"html", "", none, html, "a captive portal: an HTML page with 200 for everything"},
		{"content-type", "", none, contentType, "right bodies with the type text/html"},
		{"empty", "", none, everywhere(http.StatusOK, ""), "200 and an empty body for everything"},
		{"binary", "", none, binary, "200 and random bytes for everything, NUL among them"},
		{"huge", "", none, huge, "200 and a body of 10 MB for everything"},
		{"redirect", ServeBoth, none, redirect, "302 to where the VM server answers: who follows gets the node's identity"},

		{Flap, "", parameters{every: 5 * time.Second, of: "bypass"}, nil, "switches between another fault and healthy, beginning with the fault"},
	}
}

// refused is played by the listener; its handler answers nobody.
const refused = "refused"

// servers are what a fault can be made of.
type servers struct {
	gke *GKE
	vm  *VM
	// front is the one that answers Pods when nothing is wrong: the GKE server,
	// or the VM server when that alone is served.
	front http.Handler
}

func (s servers) withLifetime(lifetime time.Duration) http.Handler {
	if s.front == s.vm {
		vm := *s.vm
		vm.Tokens.Lifetime = lifetime
		return &vm
	}
	gke := *s.gke
	gke.Tokens.Lifetime = lifetime
	return &gke
}

func healthy(s servers, _ Fault) http.Handler  { return s.front }
func bypass(s servers, _ Fault) http.Handler   { return s.vm }
func expiring(s servers, _ Fault) http.Handler { return s.withLifetime(20 * time.Second) }
func expired(s servers, _ Fault) http.Handler  { return s.withLifetime(0) }

func mixed(s servers, _ Fault) http.Handler { return at(s.gke, s.vm, "machine-type") }

// alternate decides by connection, not by request: so does the kernel, which
// keeps the route that the first packet took.
func alternate(s servers, _ Fault) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if connectionOf(r).number%2 == 0 {
			s.gke.ServeHTTP(w, r)
			return
		}
		s.vm.ServeHTTP(w, r)
	})
}

func snat(s servers, _ Fault) http.Handler {
	return s.gke.attributing(func(netip.Addr) (Pod, bool) {
		return Pod{GSA: s.gke.Node.ServiceAccount}, true
	})
}

func snatError(s servers, _ Fault) http.Handler {
	return s.gke.attributing(func(netip.Addr) (Pod, bool) { return Pod{}, false })
}

func swap(s servers, _ Fault) http.Handler { return s.gke.attributing(s.gke.neighbour) }

func stranger(s servers, _ Fault) http.Handler {
	return s.gke.changing(func(p Pod) Pod {
		p.GSA, p.ReturnPrincipal = "stranger@other-project.iam.gserviceaccount.com", false
		return p
	})
}

func unannotated(s servers, _ Fault) http.Handler {
	return s.gke.changing(func(p Pod) Pod {
		p.GSA, p.ReturnPrincipal = "", false
		return p
	})
}

func principal(s servers, _ Fault) http.Handler {
	return s.gke.changing(func(p Pod) Pod {
		p.GSA, p.ReturnPrincipal = "", true
		return p
	})
}
