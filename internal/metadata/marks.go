package metadata

import (
	"bytes"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// An answer may be that of a proxy on the way. Not all proxies name themselves, and no
// documentation says by what an error of Google's servers can be told: many an answer
// has no mark at all.

// maxSearched is how much of a body is searched. Texts of errors are shorter.
const maxSearched = 4 << 10

// isGenuine reports whether only a metadata server answers so. Through a proxy the
// header Server is lost, and the others stay.
func isGenuine(status int, header http.Header, body []byte) bool {
	server := header.Get("Server")
	if header.Get("Metadata-Flavor") == "Google" || status == 499 ||
		strings.HasPrefix(server, "GKE Metadata Server") || strings.HasPrefix(server, vmServer) {
		return true
	}
	// As they were recorded from GKE's server, which gives most errors without a header.
	return slices.ContainsFunc([]string{
		"GKE Metadata Server", "Unable to generate access token", "Failed to generate federated token", "IAM returned",
		"Could not recursively fetch uri", `Missing required header "Metadata-Flavor"`,
	}, func(text string) bool { return bytes.Contains(body, []byte(text)) })
}

// vmServer is how the VM's metadata server names itself.
const vmServer = "Metadata Server for VM"

// markOfProxy is the header that the answer has of a proxy or a web server, empty if none.
func markOfProxy(header http.Header) string {
	named := func(name string) string {
		return `the header "` + strings.ToLower(name) + ": " + foreign.Text(header.Get(name), maxExcerpt) + `"`
	}
	// Who names itself is no metadata server of Google, which has a name of its own or none.
	if server := strings.ToLower(header.Get("Server")); server != "" && !strings.Contains(server, "metadata") {
		return named("Server")
	}
	if header.Get("Via") != "" {
		return named("Via")
	}
	// Linkerd says so of its own errors alone (linkerd2-proxy, "l5d-proxy-error").
	if header.Get("L5d-Proxy-Error") != "" {
		return named("L5d-Proxy-Error")
	}
	var ofProxy []string
	for name := range header {
		if strings.HasPrefix(name, "X-Envoy-") || strings.HasPrefix(name, "X-Kong-") || strings.HasPrefix(name, "X-Squid-") {
			ofProxy = append(ofProxy, strings.ToLower(name))
		}
	}
	if len(ofProxy) == 0 {
		return ""
	}
	return `the header "` + foreign.Text(slices.Min(ofProxy), maxExcerpt) + `"`
}

func isPage(header http.Header, body []byte) bool {
	begin := bytes.TrimSpace(body)
	begins := func(with string) bool {
		return len(begin) >= len(with) && bytes.EqualFold(begin[:len(with)], []byte(with))
	}
	return strings.HasPrefix(header.Get("Content-Type"), "text/html") || begins("<!doctype html") || begins("<html")
}

var saysNoPod = regexp.MustCompile(`(?i)\bcaller is not authenticated\b|\battestation failed\b` +
	`|\bunable to find pod\b|\bno pods? (with|for|found|matches)\b|\bnot match any pods?\b|\bpod ([^ ]+ ){0,5}not found\b` +
	`|\b(unknown|unattested) ((source|client|pod|ip) ){0,2}(pod|caller|ip|address)\b` +
	`|\berror looking up pod by ip address\b`) // matheuscscp/gke-metadata-server issue 426: two have it

// knowsNoPod reports whether the server says that it does not know who asks: that
// there is no Pod with the address, or that nobody vouches for it. GKE's server logs
// such a text (gcpdiag rule gke/ERR/2023_011), and emulators answer it. What IAM says
// of an account is something else.
func knowsNoPod(status int, header http.Header, body []byte) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusInternalServerError:
	default:
		return false
	}
	body = body[:min(len(body), maxSearched)]
	if isPage(header, body) || bytes.Contains(body, []byte("IAM returned")) || bytes.Contains(body, []byte("iam.serviceAccounts")) {
		return false
	}
	return saysNoPod.Match(body)
}

// settle gives a 404 for the machine type its meaning: of a metadata server it is
// GKE's, and any other server answers so as well. The answers beside it tell.
func settle(o *identity.Observation) {
	if f := o.Server.Failure; f != nil && f.Reason == identity.NotFound && o.Genuine() {
		o.Server.Server, o.Server.Failure = identity.ServerGKE, nil
	}
}
