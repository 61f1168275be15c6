package diagnose_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Why there is no usable answer.
func TestOutages(t *testing.T) {
	diagnoses(t, []row{
		{"nothing listens", facts(allFailed(failure(identity.Unreachable, 0))), "suggests metadata_server_down", ""},
		{
			"nothing listens where a policy leads", facts(allFailed(failure(identity.Unreachable, 0)), redirect),
			"suggests metadata_server_down", "",
		},
		{
			"all requests are dropped", facts(allFailed(dropped)),
			"suggests network_policy, suggests metadata_server_down", "",
		},
		{
			"connections come about, and nothing is said on them", facts(allFailed(hung)),
			"suggests metadata_server_down", "network_policy",
		},
		{
			"one connection comes about, and nothing is said on it", facts(failed(unknown, dropped, dropped, hung)),
			"suggests metadata_server_down", "network_policy",
		},
		{
			"all requests are dropped, and no token was asked for",
			facts(
				failed(unknown, dropped, nil, dropped),
				func(f *diagnose.Facts) { f.Observation.Token = identity.Token{} },
			),
			"suggests network_policy, suggests metadata_server_down", "",
		},
		{
			"all requests are dropped, and a token is at hand",
			facts(failed(unknown, dropped, nil, dropped), reused),
			"suggests network_policy, suggests metadata_server_down", "",
		},
		{
			"nothing listens, and a token is at hand",
			facts(failed(unknown, failure(identity.Unreachable, 0), nil, failure(identity.Unreachable, 0)), reused),
			"suggests metadata_server_down", "",
		},
		{
			"the server only fails, and a token is at hand",
			facts(failed(unknown, failure(identity.ServerError, 500), nil, failure(identity.ServerError, 500)), reused),
			"suggests metadata_server_down", "",
		},
		{
			"a token is at hand, and one request is answered", facts(failed(gke, dropped, nil, nil), reused),
			"", "network_policy, metadata_server_down",
		},
		{
			"some are dropped and some refused",
			facts(failed(unknown, dropped, failure(identity.Unreachable, 0), dropped)),
			"suggests metadata_server_down", "",
		},
		{"one request is dropped", facts(failed(gke, dropped, nil, nil)), "", "network_policy, metadata_server_down"},
		{
			"no answer is dropped on the way, and none comes to its end",
			facts(failed(unknown, failure(identity.Timeout, 200), dropped, dropped)),
			"suggests metadata_server_down", "",
		},
		{
			"a reset, and an error of the server",
			facts(failed(unknown, failure(identity.Unreachable, 0), nil, failure(identity.ServerError, 503)), reused),
			"suggests metadata_server_down", "",
		},
		{
			"the server only fails, or a proxy does that", facts(allFailed(failure(identity.ServerError, 500))),
			"suggests metadata_server_down", "",
		},
		{
			// The first probe of the three began before, and was told by GKE's server.
			"the server only fails, since the midst of a probe",
			facts(allFailed(failure(identity.ServerError, 500)), func(f *diagnose.Facts) { f.Verdict.Server = gke }),
			"suggests metadata_server_down", "",
		},
		{
			"the server starts, or is none",
			facts(failed(unknown, failure(identity.NotFound, 404), failure(identity.NotFound, 404), dropped)),
			"suggests metadata_server_down, suggests not_a_metadata_server", "",
		},
		{
			"404 for everything, as of a mux of Go or of a server that starts", facts(allFailed(failure(identity.NotFound, 404))),
			"suggests metadata_server_down, suggests not_a_metadata_server", "",
		},
		{
			"the server starts, and is GKE's by its name",
			facts(failed(gke, failure(identity.NotFound, 404), failure(identity.NotFound, 404), nil), genuine),
			"suggests metadata_server_down", "network_policy",
		},
		{
			"the server has no tokens yet", facts(failed(gke, nil, failure(identity.NotFound, 404), nil)),
			"suggests metadata_server_down", "",
		},
		{"no token by the deadline", facts(failed(gke, nil, dropped, nil)), "suggests sts_blocked", "network_policy"},
		{
			"504 for the token", facts(failed(gke, nil, failure(identity.ServerError, 504), nil)),
			"suggests sts_blocked", "",
		},
		{
			"429 for the token", facts(failed(gke, nil, failure(identity.Throttled, http.StatusTooManyRequests), nil)),
			"proves throttled", "",
		},
		{
			"499 for the email",
			facts(failed(gke, failure(identity.Throttled, 499), failure(identity.Throttled, 499), nil)),
			"proves throttled", "",
		},
		{
			"a proxy's redirect", facts(failed(unknown, failure(identity.Redirect, 302), nil, nil)),
			"suggests not_a_metadata_server", "",
		},
		{
			"a page for everything", facts(allFailed(failure(identity.Malformed, 200)), marked("an HTML page")),
			"suggests not_a_metadata_server", "",
		},
		{
			"a page for an email, and a token", facts(failed(gke, failure(identity.Malformed, 200), nil, nil), marked("an HTML page")),
			"suggests not_a_metadata_server", "metadata_server_down, network_policy",
		},
		{
			"nonsense for an email", facts(failed(unknown, failure(identity.Malformed, 200), dropped, dropped)),
			"suggests not_a_metadata_server", "",
		},
		{
			"nonsense for an email, from a metadata server",
			facts(failed(gke, failure(identity.Malformed, 200), dropped, nil), genuine), "", "",
		},
		{
			"a forbidden email", facts(failed(unknown, failure(identity.Denied, 403), dropped, dropped)),
			"suggests not_a_metadata_server", "",
		},
		{
			"an email that GKE's server alone forbids so",
			facts(failed(gke, failure(identity.Denied, 403), dropped, nil), genuine), "", "",
		},
		{
			"an outage of which the last probe knows nothing",
			facts(verdict(identity.Unavailable, "", unknown), redirect),
			"", "",
		},
		{
			"an outage without any observation",
			facts(func(f *diagnose.Facts) { f.Verdict.State = identity.Unavailable }),
			"", "",
		},
	})
}

// Where there is no verdict there is nothing to explain.
func TestNothingToExplain(t *testing.T) {
	diagnoses(t, []row{
		{"no expectation", facts(verdict(identity.UnknownExpectation, other, gke), bypass, hostNetwork), "", ""},
		{"the start", facts(verdict(identity.Starting, "", unknown), bypass, hostNetwork), "", ""},
		{"a loop that has stopped", facts(verdict(identity.Stale, node, vm), bypass, hostNetwork), "", ""},
		{"no facts at all", diagnose.Facts{}, "", ""},
	})
}

// What a proxy on the way answers says nothing about the metadata server behind it.
func TestAProxyIsNoMetadataServer(t *testing.T) {
	notFound, bad := failure(identity.NotFound, 404), failure(identity.ServerError, 503)
	diagnoses(t, []row{
		{"Envoy has no route (opencensus-java issue 1855)", facts(allFailed(notFound), envoy), "suggests not_a_metadata_server", ""},
		{"Envoy has no healthy upstream (istio issue 29109)", facts(allFailed(bad), envoy), "suggests not_a_metadata_server", ""},
		{"Squid does not reach it", facts(allFailed(failure(identity.ServerError, 502)), marked(`the header "server: squid/5.7"`)), "suggests not_a_metadata_server", ""},
		{"a web server with the address", facts(allFailed(notFound), marked(`the header "server: nginx"`)), "suggests not_a_metadata_server", ""},
		{
			"while no token is asked for", facts(failed(unknown, notFound, nil, notFound), envoy, reused),
			"suggests not_a_metadata_server", "",
		},
		{
			"and some requests are dropped", facts(failed(unknown, dropped, dropped, notFound), envoy),
			"suggests not_a_metadata_server", "",
		},
		{
			"for the token alone", facts(failed(gke, nil, notFound, nil), envoy),
			"suggests not_a_metadata_server", "metadata_server_down, network_policy",
		},
		{
			"for the token, which takes too long", facts(failed(gke, nil, failure(identity.ServerError, 504), nil), envoy),
			"suggests sts_blocked, suggests not_a_metadata_server", "",
		},
		{
			"for the email alone, which is no sign that the Pod's address is hidden", facts(failed(gke, bad, nil, nil), envoy),
			"suggests not_a_metadata_server", "",
		},
		{
			"it throttles, or somebody behind it does", facts(allFailed(failure(identity.Throttled, 429)), envoy),
			"suggests throttled, suggests not_a_metadata_server", "",
		},
		{"right answers that passed a sidecar (istio issue 10951)", facts(match(gke), envoy), "", ""},
	})
	for mark, want := range map[string]string{
		`the header "server: envoy"`:       "traffic.sidecar.istio.io/excludeOutboundIPRanges",
		`the header "server: istio-envoy"`: "holdApplicationUntilProxyStarts",
		`the header "server: squid/5.7"`:   "NO_PROXY",
		"":                                 "metadata concealment",
	} {
		found := diagnose.Diagnose(facts(allFailed(failure(identity.Malformed, 503)), marked(mark))).Suspects[0]
		if !strings.Contains(found.Why, mark) || !strings.Contains(found.Remedy.Text, want) {
			t.Errorf("%s: it is %q and the remedy %q, want one with %s", mark, found.Why, found.Remedy.Text, want)
		}
	}
}

// Who gives the identity is a metadata server, whatever became of the token.
func TestATokenThatIsUnusable(t *testing.T) {
	malformed := failure(identity.Malformed, 200)
	diagnoses(t, []row{
		{"it has expired (external-secrets issue 6744)", facts(failed(gke, nil, malformed, nil)), "suggests token_unusable", "network_policy"},
		{"STS refuses (a public report)", facts(failed(gke, nil, failure(identity.Malformed, 400), nil)), "suggests token_unusable", ""},
		{"nobody tells which server it is", facts(failed(unknown, nil, malformed, dropped)), "suggests token_unusable", ""},
		{"a page for a token", facts(failed(gke, nil, malformed, nil), marked("an HTML page")), "suggests not_a_metadata_server", ""},
		{"no email either", facts(failed(unknown, malformed, malformed, dropped)), "suggests not_a_metadata_server", ""},
		{"a redirect for a token", facts(failed(gke, nil, failure(identity.Redirect, 302), nil)), "suggests not_a_metadata_server", ""},
		{"the VM's", facts(failed(vm, nil, malformed, nil)), allOfVM, ""},
	})
}

// A server that refuses the Pod by name cannot tell it by its address, whoever it is.
func TestAPodThatTheServerDoesNotKnow(t *testing.T) {
	stranger := failure(identity.PodUnknown, 403)
	diagnoses(t, []row{
		{"GKE's server", facts(failed(gke, stranger, stranger, nil), genuine), "suggests source_nat", "metadata_server_down, network_policy"},
		{"a server that is not known", facts(failed(unknown, stranger, stranger, failure(identity.Denied, 403)), genuine), "suggests source_nat", ""},
		{"while a token is at hand", facts(failed(gke, stranger, nil, nil), reused, genuine), "suggests source_nat", ""},
		{"the token alone", facts(failed(gke, nil, stranger, nil)), "suggests source_nat", "metadata_server_down"},
		{
			"and link-local addresses are masqueraded", facts(failed(gke, stranger, stranger, nil), genuine, ipMasq(linkLocal)),
			"suggests ip_masq_agent_link_local", "",
		},
		{"the VM's server asks nobody", facts(failed(vm, stranger, stranger, nil)), allOfVM, ""},
	})
}
