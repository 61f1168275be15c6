package metadata

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// maxExcerpt is how much is shown to people of what the server says.
const maxExcerpt = 160

// exchange is one HTTP request and all that is known about its answer. It is
// the transport that the client library gets, because the library, left to
// itself, retries what should be counted, follows redirects, reads bodies
// without limit, and replaces a cause by "context deadline exceeded".
type exchange struct {
	prober   *Prober
	endpoint identity.Endpoint

	took         time.Duration
	status       int
	serverHeader string
	body         []byte
	genuine      bool
	mark         string // of a proxy, see markOfProxy
	page         bool   // it is HTML
	failure      *identity.Failure
}

// RoundTrip sends the request to the prober's host, on a connection of its own,
// and reads the whole answer. Everything but a 200 that was read to its end is
// returned as the failure: an error that the library takes as final, since it is
// not "temporary" and hides the network error it comes from.
func (x *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Host, r.Host, r.Close = x.prober.host, "", true
	r.Header.Set("User-Agent", x.prober.userAgent)

	c, err := connect(r.Context(), x.prober.dial, r.URL)
	if err != nil {
		x.failure = networkFailure(err, false)
		return nil, x.failure
	}
	defer c.close()
	res, err := c.ask(r)
	if err != nil {
		x.failure = networkFailure(err, true)
		return nil, x.failure
	}
	body, err := c.readBody(res)
	x.take(res.StatusCode, res.Header, body, err)
	if x.failure != nil {
		return nil, x.failure
	}
	// The library does not get the body, which it would copy into a string that nobody uses.
	return &http.Response{
		StatusCode: res.StatusCode, Status: res.Status, Header: res.Header, Request: r,
		Proto: res.Proto, ProtoMajor: res.ProtoMajor, ProtoMinor: res.ProtoMinor, Body: http.NoBody,
	}, nil
}

// take keeps what is known of the answer, whose body could be read but for the error.
func (x *exchange) take(status int, header http.Header, body []byte, err error) {
	x.status, x.serverHeader, x.body = status, foreign.Text(header.Get("Server"), maxExcerpt), body
	podUnknown := x.isAboutPod() && knowsNoPod(status, header, body)
	x.genuine = podUnknown || isGenuine(status, header, body)
	x.mark, x.page = markOfProxy(header), isPage(header, body)
	switch {
	// The status says more than what became of the body of an error.
	case status != http.StatusOK:
		x.failure = x.refusal(podUnknown)
	case err != nil:
		x.failure = networkFailure(err, true)
		x.failure.Status = status
	}
}

// networkFailure tells a server that does not answer from one that is not there.
func networkFailure(err error, connected bool) *identity.Failure {
	f := whyNoAnswer(err, connected)
	f.Connected = connected
	return f
}

func whyNoAnswer(err error, connected bool) *identity.Failure {
	var timeout net.Error
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case exhausted(err) != 0:
		return &identity.Failure{Reason: identity.LocalResources, Detail: "the connection failed on the side of the agent: " + exhausted(err).Error()}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		if connected {
			return &identity.Failure{Reason: identity.Timeout, Detail: "connected, but the answer did not come, or not all of it, by the deadline"}
		}
		return &identity.Failure{Reason: identity.Timeout, Detail: "no connection by the deadline: packets are dropped, or nothing has the address"}
	case errors.Is(err, context.Canceled):
		return &identity.Failure{Reason: identity.Timeout, Detail: "the probe was cancelled"}
	case errors.As(err, &dns):
		return &identity.Failure{Reason: identity.Unreachable, Detail: "the name of the metadata server was not found"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &identity.Failure{Reason: identity.Unreachable, Detail: "connection refused: nothing listens there, or a policy rejects it"}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return &identity.Failure{Reason: identity.Unreachable, Detail: "no route to the metadata server"}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE):
		return &identity.Failure{Reason: identity.Unreachable, Detail: "the connection was closed before the end of the answer"}
	case errors.Is(err, errTooLarge):
		return &identity.Failure{Reason: identity.Malformed, Detail: err.Error()}
	case errors.As(err, &op):
		return &identity.Failure{Reason: identity.Unreachable, Detail: "network error on " + op.Op}
	}
	// The error is not quoted: it may hold a part of the answer.
	return &identity.Failure{Reason: identity.Malformed, Detail: "the answer is not HTTP"}
}

// exhausted is the error of this process or its node that had nothing left for a
// connection, 0 if it was another one. The resolver keeps the text of an error alone.
func exhausted(err error) syscall.Errno {
	var dns *net.DNSError
	byName := errors.As(err, &dns)
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) || byName && strings.HasSuffix(dns.Err, e.Error()) {
			return e
		}
	}
	return 0
}

// isAboutPod reports whether the server must know the Pod to answer. A healthy one
// answers 404 to the other question at each probe, which nobody need search.
func (x *exchange) isAboutPod() bool {
	return x.endpoint == identity.EndpointEmail || x.endpoint == identity.EndpointToken
}

// refusal is the failure of an answer other than 200.
func (x *exchange) refusal(podUnknown bool) *identity.Failure {
	e, status := x.endpoint, x.status
	f := &identity.Failure{Status: status, Reason: identity.Malformed, Detail: excerpt(e, x.body)}
	switch {
	case podUnknown:
		f.Reason = identity.PodUnknown
	case status == http.StatusSwitchingProtocols:
		f.Detail = "the server changes to another protocol, which nobody asked for"
	case status >= 300 && status < 400:
		f.Reason = identity.Redirect
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		f.Reason = identity.Denied
	case status == http.StatusNotFound:
		f.Reason = identity.NotFound
	case status == http.StatusTooManyRequests, status == 499: // 499: the GKE server's queue timed out
		f.Reason = identity.Throttled
	case status >= 500 && status < 600:
		f.Reason = identity.ServerError
	}
	if e == identity.EndpointToken {
		f.Reason, f.Detail = tokenRefusal(f.Reason, x.body)
		if f.Reason == identity.Denied {
			f.Blocked = blockedBy(x.body)
		}
	}
	return f
}

// excerpt is the beginning of an error's body for people to read. Of the endpoints
// that give tokens it is not shown at all: a token need not look like one.
func excerpt(e identity.Endpoint, body []byte) string {
	if e == identity.EndpointToken || e == endpointIdentity {
		return "body withheld"
	}
	return cmp.Or(foreign.Text(string(body), maxExcerpt), "no body")
}
