package simulator

import (
	"cmp"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// GKE is the GKE metadata server of a node: it attributes each request to a Pod
// by the source address, and hands out the identity of that Pod.
//
// It serves the paths that GKE documents and nothing else. That is what tells it
// from the VM server: instance/machine-type does not exist here.
type GKE struct {
	// Node is what the server tells about the machine and its project.
	Node Node
	// Pods are the callers that it knows, by source address.
	Pods map[netip.Addr]Pod
	// Fallback is the Pod of every other source; nil means that the server
	// does not know them and fails, as a real one does.
	Fallback *Pod
	// Tokens makes the access tokens.
	Tokens Tokens

	// attribute replaces the table where Pods come and go, and when a fault is to
	// confuse the server.
	attribute func(netip.Addr) (Pod, bool)
}

// Bodies as recorded from real servers.
const (
	gkeNoFlavor      = "GKE Metadata Server encountered an error: Missing required header \"Metadata-Flavor\": \"Google\"\n"
	gkeInternalError = "GKE Metadata Server: Internal Server Error"
	notFound         = "Not Found\n"
)

// ServeHTTP answers like a GKE metadata server.
func (g *GKE) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Metadata-Flavor") != "Google" {
		say(w, http.StatusForbidden, gkeNoFlavor)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		say(w, http.StatusMethodNotAllowed, "Method Not Allowed\n")
		return
	}
	g.write(w, g.find(r))
}

func (g *GKE) find(r *http.Request) answer {
	switch r.URL.Path {
	case "/":
		return listing("computeMetadata/")
	case "/computeMetadata/":
		return listing("v1/")
	}
	path, ok := strings.CutPrefix(r.URL.Path, root)
	if !ok {
		return answer{status: http.StatusNotFound}
	}
	below, ok := strings.CutPrefix(path, accounts)
	if !ok {
		leaves := g.Node.shared()
		leaves[accounts] = "" // so that instance/ lists it
		return leaves.find(path)
	}
	pod, ok := g.pod(source(r))
	if !ok {
		// Real servers fail here without an identity. Which status the client
		// sees is not documented; 500 is the one that says the least.
		return answer{http.StatusInternalServerError, leaf, gkeInternalError}
	}
	return g.account(pod).find(below, r.URL.Query())
}

func (g *GKE) pod(from netip.Addr) (Pod, bool) {
	if g.attribute != nil {
		return g.attribute(from)
	}
	if pod, ok := g.Pods[from]; ok {
		return pod, true
	}
	if g.Fallback != nil {
		return *g.Fallback, true
	}
	return Pod{}, false
}

// account of a Pod. Only a linked KSA has an identity document: the others get
// 404, which clients report but no document confirms.
func (g *GKE) account(pod Pod) account {
	email := pod.email(g.Node)
	a := account{email: email, tokens: g.Tokens}
	if pod.linked() {
		a.identity = func(audience, _ string) string { return g.Tokens.idToken(email, audience, nil) }
	}
	return a
}

// write labels an answer as recorded: a token came with its type alone, without
// the headers that name the server; errors came as plain text.
func (g *GKE) write(w http.ResponseWriter, a answer) {
	switch {
	case a.status == http.StatusNotFound:
		say(w, a.status, notFound)
		return
	case a.status != http.StatusOK:
		say(w, a.status, a.body)
		return
	case a.form == document:
		w.Header().Set("Content-Type", "application/json")
	default:
		w.Header().Set("Content-Type", "application/text")
		w.Header().Set("Metadata-Flavor", "Google")
		w.Header().Set("Server", "GKE Metadata Server")
		if a.form == leaf {
			w.Header().Set("Etag", digest(a.body))
		}
	}
	w.WriteHeader(a.status)
	_, _ = w.Write([]byte(a.body)) // fails only when the client has gone
}

// attributing is the same server with another idea of who asks.
func (g *GKE) attributing(attribute func(netip.Addr) (Pod, bool)) *GKE {
	confused := *g
	confused.attribute = attribute
	return &confused
}

// changing is the same server with another idea of what a Pod is, once it knows
// which Pod it is.
func (g *GKE) changing(change func(Pod) Pod) *GKE {
	return g.attributing(func(from netip.Addr) (Pod, bool) {
		pod, ok := g.pod(from)
		return change(pod), ok
	})
}

// neighbour attributes a request to another Pod: the linked one with the next
// address, in a ring. Where the table has no other, it makes one up.
func (g *GKE) neighbour(from netip.Addr) (Pod, bool) {
	own, ok := g.pod(from)
	if !ok {
		return Pod{}, false
	}
	ring := slices.SortedFunc(maps.Keys(g.Pods), func(a, b netip.Addr) int {
		// What comes after the own address sorts before what wraps around.
		return cmp.Or(cmp.Compare(wraps(a, from), wraps(b, from)), a.Compare(b))
	})
	for _, address := range ring {
		if other := g.Pods[address]; other.linked() && other.email(g.Node) != own.email(g.Node) {
			return other, true
		}
	}
	return Pod{
		Namespace: own.Namespace, ServiceAccount: "neighbour",
		GSA: "neighbour@" + g.Node.ProjectID + ".iam.gserviceaccount.com",
	}, true
}

func wraps(address, from netip.Addr) int {
	if address.Compare(from) > 0 {
		return 0
	}
	return 1
}

// source is the address that a request came from, without port and zone.
func source(r *http.Request) netip.Addr {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // in no table
	}
	return from.Addr().Unmap().WithZone("")
}

// say answers in plain text, exactly as given.
func say(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) // fails only when the client has gone
}
