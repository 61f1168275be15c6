package cluster

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

// pod is what the exporter has in a Pod: the folder of credentials, the way to
// the API server, and the client that is made from both.
type pod struct {
	self        kube.Self
	client      *kube.Client
	link        *link
	credentials string

	mu       sync.Mutex
	tokens   []string
	reasons  []kube.Reason
	requests []request
}

// request is what went out on the wire, below all that client-go does to it, and
// what came back.
type request struct {
	at         time.Time
	url        string
	token      string
	retryAfter string
	flow       string // the UID of the FlowSchema by which the API server took it
}

// pod returns a Pod that runs as the ServiceAccount.
func (c *namespaced) pod(t *testing.T, account string) *pod {
	t.Helper()
	return c.podWith(t, c.token(t, account, nil))
}

// podWith returns a Pod whose volume of credentials holds the token.
func (c *namespaced) podWith(t *testing.T, token string) *pod {
	t.Helper()
	host, port := c.address(t)
	p := &pod{link: newLink(t, host, port), credentials: t.TempDir()}
	must(t, os.WriteFile(filepath.Join(p.credentials, "ca.crt"), c.config.CAData, 0o600))
	p.renew(t, token)

	linkHost, linkPort := p.link.address()
	t.Setenv("KUBERNETES_SERVICE_HOST", linkHost)
	t.Setenv("KUBERNETES_SERVICE_PORT", linkPort)
	config, err := kube.Config(os.Getenv, p.credentials)
	must(t, err)
	// The certificate is for the server, not for the proxy before it.
	config.ServerName = host
	if c.config.ServerName != "" {
		config.ServerName = c.config.ServerName
	}
	config.QPS = -1 // tests read more often than agents
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &wire{pod: p, next: next} })
	p.client, err = kube.NewClient(config, "e2e-kube", p.observe)
	must(t, err)
	p.self, err = kube.SelfFromToken(p.credentials)
	must(t, err)
	return p
}

// renew replaces the token in one step, as the kubelet does.
func (p *pod) renew(t *testing.T, token string) {
	t.Helper()
	p.mu.Lock()
	p.tokens = append(p.tokens, token)
	p.mu.Unlock()
	next := filepath.Join(p.credentials, "next")
	must(t, os.WriteFile(next, []byte(token), 0o600))
	must(t, os.Rename(next, filepath.Join(p.credentials, "token")))
}

func (p *pod) observe(_ kube.Resource, r kube.Reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reasons = append(p.reasons, r)
}

// result is what came of one read.
type result struct {
	expectation identity.Reading
	err         error
	reason      kube.Reason
	request     request
	connections int
	took        time.Duration
}

// read reads the expectation of the Pod's own ServiceAccount.
func (p *pod) read(t *testing.T) result {
	t.Helper()
	return p.readOf(t, p.self, patience)
}

// readOf reads the expectation of any ServiceAccount.
func (p *pod) readOf(t *testing.T, self kube.Self, timeout time.Duration) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return p.readBy(ctx, t, self)
}

// readBy reads, and checks what must hold whatever comes of it: it is one
// request, on one connection at most, and it tells no secret.
func (p *pod) readBy(ctx context.Context, t *testing.T, self kube.Self) result {
	t.Helper()
	_ = clientLog.take() // of others
	reasons, requests := p.reasonsFrom(0), p.requestsFrom(0)
	connections := p.link.accepted()
	begin := time.Now()
	e, err := p.client.Expectation(ctx, self)
	r := result{expectation: e, err: err, took: time.Since(begin), connections: p.link.accepted() - connections}

	newReasons, newRequests := p.reasonsFrom(len(reasons)), p.requestsFrom(len(requests))
	if len(newReasons) != 1 || len(newRequests) != 1 || r.connections > 1 {
		t.Errorf("a read was %d requests, observed as %q, on %d connections, want one of each (%v)", len(newRequests), newReasons, r.connections, err)
		return r
	}
	r.reason, r.request = newReasons[0], newRequests[0]
	if (err == nil) != e.Known() {
		t.Errorf("expectation %q and error %v, want one of them", e, err)
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q is not one line", err)
	}
	if line := clientLog.take(); line != "" {
		t.Errorf("client-go wrote past the log: %s", line)
		p.withoutSecrets(t, line)
	}
	p.withoutSecrets(t, fmt.Sprint(err, r.reason))
	return r
}

func (p *pod) reasonsFrom(n int) []kube.Reason {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.reasons[n:])
}

func (p *pod) requestsFrom(n int) []request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests[n:])
}

// withoutSecrets fails if the text quotes a token. The first part of a token is
// the same in all of them and no secret.
func (p *pod) withoutSecrets(t *testing.T, text string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, token := range p.tokens {
		for _, part := range strings.Split(token, ".")[1:] {
			if strings.Contains(text, part[:16]) {
				t.Errorf("a text of %d bytes has a part of the token in it", len(text)) // and is not repeated here
				return
			}
		}
	}
}

// eventually reads until the result is as wanted, because the API server sees a
// change only when it arrives in its caches.
func (p *pod) eventually(t *testing.T, what string, wanted func(result) bool) result {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // another process
		r := p.read(t)
		if wanted(r) {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %s after %s: expectation %q, reason %q, error %v", what, patience, r.expectation, r.reason, r.err)
		}
	}
}

// reads fails unless the result is the expectation.
func (r result) reads(t *testing.T, want string) {
	t.Helper()
	if r.err != nil || r.reason != "" || r.expectation.String() != want {
		t.Errorf("expectation %q, reason %q, error %v; want %q", r.expectation, r.reason, r.err, want)
	}
}

// fails fails unless the result is an error for the reason that says all the parts.
func (r result) fails(t *testing.T, want kube.Reason, parts ...string) {
	t.Helper()
	if r.err == nil || r.reason != want {
		t.Errorf("expectation %q, reason %q, error %v; want the reason %q", r.expectation, r.reason, r.err, want)
		return
	}
	for _, part := range parts {
		if !strings.Contains(r.err.Error(), part) {
			t.Errorf("error %q lacks %q", r.err, part)
		}
	}
}

// wire notes each request of a Pod.
type wire struct {
	pod  *pod
	next http.RoundTripper
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := request{at: time.Now(), url: r.URL.RequestURI(), token: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")}
	answer, err := w.next.RoundTrip(r)
	if err == nil {
		sent.retryAfter, sent.flow = answer.Header.Get("Retry-After"), answer.Header.Get("X-Kubernetes-PF-FlowSchema-UID")
	}
	w.pod.mu.Lock()
	defer w.pod.mu.Unlock()
	w.pod.requests = append(w.pod.requests, sent)
	return answer, err
}

// WrappedRoundTripper leads to what closes idle connections.
func (w *wire) WrappedRoundTripper() http.RoundTripper { return w.next }
