package diagnose_test

import (
	"net/http"
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
			"the server starts",
			facts(failed(unknown, failure(identity.NotFound, 404), failure(identity.NotFound, 404), dropped)),
			"suggests metadata_server_down", "",
		},
		{
			"the server starts, and looks like GKE's by the 404 for the machine type",
			facts(failed(gke, failure(identity.NotFound, 404), failure(identity.NotFound, 404), nil)),
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
			"a page for an email", facts(failed(unknown, failure(identity.Malformed, 200), nil, nil)),
			"suggests not_a_metadata_server", "",
		},
		{
			"a forbidden email", facts(failed(unknown, failure(identity.Denied, 403), nil, nil)),
			"suggests not_a_metadata_server", "",
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
