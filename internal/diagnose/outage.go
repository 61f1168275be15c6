package diagnose

import (
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Causes why there is no usable answer. None says anything about a wrong identity.

// outage is the failure that the verdict Unavailable rests on.
func (f Facts) outage() (identity.Endpoint, *identity.Failure) {
	if !f.in(identity.Unavailable) || f.vmAnswers() {
		return "", nil
	}
	return f.failure()
}

// answered reports whether any request of the last probe got a usable answer. A
// token of an earlier probe is none: it does not say that a server answers now.
func (f Facts) answered() bool {
	return f.anyRequest(identity.Request.OK)
}

// heard reports whether anything came back at all, by whomever: a proxy before a
// server that is down answers, too.
func (f Facts) heard() bool {
	return f.anyRequest(func(r identity.Request) bool { return r.OK() || r.Failure.Status != 0 })
}

// proxied is the first request of the last probe that failed by an answer with the
// mark of a proxy, and that mark; empty if there is none.
func (f Facts) proxied() (identity.Endpoint, *identity.Failure, string) {
	for endpoint, r := range f.Observation.Requests() {
		if r.Live() && r.Failure != nil && r.Proxy != "" {
			return endpoint, r.Failure, foreign.Text(r.Proxy, 128)
		}
	}
	return "", nil, ""
}

// passed is the mark of a proxy that the answer with the identity has passed, empty if
// there is none.
func (f Facts) passed() string {
	if e := f.Observation.Email; e.Live() && e.OK() {
		return foreign.Text(e.Passed, 128)
	}
	return ""
}

// all reports whether every request of the last probe failed for this reason.
func (f Facts) all(reason identity.Reason) bool {
	return !f.anyRequest(func(r identity.Request) bool { return r.OK() || r.Failure.Reason != reason })
}

// anyRequest reports whether this is true of any request that the last probe made.
func (f Facts) anyRequest(is func(identity.Request) bool) bool {
	for _, r := range f.Observation.Requests() {
		if r.Live() && is(r) {
			return true
		}
	}
	return false
}

// throttled: 429 and 499 are answers of the server itself, the second one when its
// queue of 500 connections is full.
func throttled(f Facts) opinion {
	endpoint, failure := f.outage()
	if failure == nil || failure.Reason != identity.Throttled {
		return opinion{}
	}
	if _, _, mark := f.proxied(); mark != "" {
		return suggests("The request for the %s was answered with HTTP %d, too many requests, by a proxy or by the "+
			"server behind it.", endpoint, failure.Status)
	}
	return proves("The request for the %s was answered with HTTP %d: too many requests.", endpoint, failure.Status)
}

// stsBlocked: the email needs nobody outside of the node, and a token does.
func stsBlocked(f Facts) opinion {
	endpoint, failure := f.outage()
	switch {
	case failure == nil:
	case endpoint == identity.EndpointToken && failure.Reason == identity.Timeout:
		return suggests("The server gives the email and no token by the deadline, for which it asks STS and IAM.")
	case endpoint == identity.EndpointToken && failure.Reason == identity.ServerError:
		return suggests("The server gives the email and fails with HTTP %d to get a token, for which it asks STS "+
			"and IAM.", failure.Status)
	}
	return opinion{}
}

// tokenUnusable: who gives the identity is a metadata server, so a token that cannot
// be one, or has expired, is that server's fault, or of STS, which it asks.
func tokenUnusable(f Facts) opinion {
	endpoint, failure := f.outage()
	if failure == nil || endpoint != identity.EndpointToken || failure.Reason != identity.Malformed || f.Observation.Token.Proxy != "" {
		return opinion{}
	}
	return suggests("The server gives the email, and for the token an answer that no client can use: %s.", quote(failure.Error()))
}

// serverDown: what a proxy answers says nothing about the server behind it.
func serverDown(f Facts) opinion {
	endpoint, failure := f.outage()
	_, _, mark := f.proxied()
	switch {
	case failure == nil, mark != "" && !f.answered():
	case f.all(identity.ServerError):
		return suggests("The metadata server answers every request with an error, HTTP %d.", failure.Status)
	case failure.Reason == identity.NotFound && mark == "":
		return suggests("A server answers, and does not know the path for the %s, as one that starts.", endpoint)
	case f.answered():
		return rulesOut("The metadata server answers a part of the requests of a probe.")
	case f.heard():
		return brokenAnswers(failure)
	case failure.Reason == identity.Unreachable:
		if on, quoted := f.cilium().flag(localRedirectPolicy, No); on == Yes {
			return suggests("No request of the probe reached a server (%s), and %s: a local redirect policy may "+
				"lead past the address on which gke-metadata-server listens.", quote(failure.Detail), quoted)
		}
		return suggests("No request of the probe reached a server: %s.", quote(failure.Detail))
	case failure.Reason == identity.Timeout:
		return suggests("No request of the probe was answered by the deadline, as by a server that hangs.")
	}
	return opinion{}
}

// brokenAnswers is what is said of the server where something comes back, and no
// answer is whole. Other answers, such as a redirect, are others' to explain.
func brokenAnswers(failure *identity.Failure) opinion {
	switch failure.Reason {
	case identity.Timeout, identity.Unreachable, identity.ServerError:
		return suggests("No request of the probe got a whole answer, as from a server that hangs or fails: %s.",
			quote(failure.Error()))
	default:
		return opinion{}
	}
}

// networkPolicy: policies drop packets without a word, all to one address alike.
func networkPolicy(f Facts) opinion {
	_, failure := f.outage()
	switch {
	case failure == nil:
	case f.answered():
		return rulesOut("A server answers a part of the requests of a probe, and a policy would drop all of them.")
	case f.anyRequest(func(r identity.Request) bool { return r.Failure.Connected }):
		return rulesOut("Connections to the server come about, which a policy would not let.")
	case f.all(identity.Timeout) && !f.heard():
		return suggests("No connection came about by the deadline, as if a policy dropped its packets.")
	}
	return opinion{}
}

// notAMetadataServer: no metadata server redirects. Other answers may be those of one,
// unless they have the mark of a proxy, or the whole probe has none that only a metadata
// server gives.
func notAMetadataServer(f Facts) opinion {
	endpoint, failure := f.outage()
	if failure == nil {
		return opinion{}
	}
	if at, failed, mark := f.proxied(); failed != nil {
		return suggests("Something else than a metadata server answered the request for the %s, as it has %s: %s.",
			at, mark, quote(failed.Error()))
	}
	switch reason := failure.Reason; {
	case reason != identity.Redirect && f.Observation.Genuine():
	case reason == identity.NotFound:
		return suggests("A server answers, and nothing that it says is what only a metadata server says: %s.", quote(failure.Error()))
	case reason == identity.Redirect, reason == identity.Malformed, reason == identity.Denied:
		return suggests("The answer to the request for the %s is none of a metadata server: %s.", endpoint, quote(failure.Error()))
	}
	return opinion{}
}
