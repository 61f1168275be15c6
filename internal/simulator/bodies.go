package simulator

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
)

// Bodies as recorded from real servers.
const (
	iamNoBinding = "Unable to generate access token; IAM returned 403 Forbidden: " +
		"Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).\n" +
		"This error could be caused by a missing IAM policy binding on the target IAM service account.\n" +
		"For more information, refer to the Workload Identity documentation:\n" +
		"\thttps://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity#authenticating_to\n\n"
	iamNoAccount  = "Unable to generate access token; IAM returned 404 Not Found: Requested entity was not found.\n"
	concealedBody = "This metadata endpoint is concealed\n"
)

// at sends requests whose last path element is one of names to one handler, and
// the others to another.
func at(others, named http.Handler, names ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(names, path.Base(r.URL.Path)) {
			named.ServeHTTP(w, r)
			return
		}
		others.ServeHTTP(w, r)
	})
}

// saying is a handler with one answer.
func saying(status int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { say(w, status, body) })
}

func everywhere(status int, body string) func(servers, Fault) http.Handler {
	return func(servers, Fault) http.Handler { return saying(status, body) }
}

// onCredentials fails where IAM is asked. The email comes from the annotation
// alone, which is why it proves little. That identity fails with the same text
// as token is not recorded.
func onCredentials(status int, body string) func(servers, Fault) http.Handler {
	return func(s servers, _ Fault) http.Handler {
		return at(s.front, saying(status, body), "token", "identity")
	}
}

func starting(s servers, _ Fault) http.Handler {
	return at(s.front, saying(http.StatusNotFound, notFound), "email", "token")
}

func notJSON(s servers, _ Fault) http.Handler {
	return at(s.front, saying(http.StatusOK, "access_token=none&token_type=Bearer\n"), "token")
}

func notEmail(s servers, _ Fault) http.Handler {
	return at(s.front, saying(http.StatusOK, "hello world\n"), "email")
}

// leaky echoes the answer that it was about to give.
func leaky(s servers, _ Fault) http.Handler {
	return at(s.front, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		right := captured(s.front, r)
		say(w, http.StatusInternalServerError, fmt.Sprintf("cannot store the cached credential %s\n", right.body.String()))
	}), "token")
}

// unknownPod refuses as the emulator matheuscscp/gke-metadata-server does.
func unknownPod(s servers, _ Fault) http.Handler {
	return at(s.front, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		// Writing fails only when the client has gone.
		_ = json.NewEncoder(w).Encode(map[string]string{
			"error": fmt.Sprintf("client ip address does not match any pods running on the node %s: %s", s.gke.Node.Name, source(r)),
		})
	}), "email", "token", "identity")
}

// proxy is Envoy without a route (census-instrumentation/opencensus-java issue 1855).
func proxy(servers, Fault) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Server", "envoy")
		w.WriteHeader(http.StatusNotFound)
	})
}

// sidecar replaces the name of the server, as Envoy does (istio issue 10951).
func sidecar(s servers, _ Fault) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		right := captured(s.front, r)
		right.header.Set("Server", "envoy")
		right.header.Set("X-Envoy-Upstream-Service-Time", "2")
		right.writeHeader(w)
		_, _ = w.Write(right.body.Bytes()) // fails only when the client has gone
	})
}

func html(servers, Fault) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		// Writing fails only when the client has gone.
		_, _ = w.Write([]byte("<!DOCTYPE html>\n<html><head><title>Sign in to the network</title></head>\n" +
			"<body><h1>Welcome, guest@hotel.example</h1><form action=\"/login\"><button>Accept</button></form></body></html>\n"))
	})
}

func contentType(s servers, _ Fault) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		right := captured(s.front, r)
		right.header.Set("Content-Type", "text/html; charset=utf-8")
		right.writeHeader(w)
		_, _ = w.Write(right.body.Bytes()) // fails only when the client has gone
	})
}

func binary(servers, Fault) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		noise := make([]byte, 512)
		_, _ = rand.Read(noise) // never fails
		copy(noise, "\x00\xff\xfe\x1b[31m\r\n")
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(noise) // fails only when the client has gone
	})
}

// hugeSize is far more than any answer of a metadata server.
const hugeSize = 10 << 20

func huge(servers, Fault) http.Handler {
	block := []byte(strings.Repeat("0123456789abcdef", 4096))
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/text")
		for sent := 0; sent < hugeSize; sent += len(block) {
			if _, err := w.Write(block); err != nil {
				return // the client has read enough
			}
		}
	})
}

// redirect moves the VM server below a prefix and sends everybody there.
func redirect(s servers, _ Fault) http.Handler {
	const prefix = "/moved"
	moved := http.StripPrefix(prefix, s.vm)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, prefix+"/") {
			moved.ServeHTTP(w, r)
			return
		}
		http.Redirect(w, r, prefix+r.URL.RequestURI(), http.StatusFound)
	})
}

// capture is an answer that is kept, to be spoiled before it is sent.
type capture struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func captured(h http.Handler, r *http.Request) *capture {
	kept := &capture{header: http.Header{}, status: http.StatusOK}
	h.ServeHTTP(kept, r)
	return kept
}

func (c *capture) Header() http.Header            { return c.header }
func (c *capture) WriteHeader(status int)         { c.status = status }
func (c *capture) Write(text []byte) (int, error) { return c.body.Write(text) }

func (c *capture) writeHeader(w http.ResponseWriter) {
	maps.Copy(w.Header(), c.header)
	w.WriteHeader(c.status)
}
