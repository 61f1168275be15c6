package metadata_test

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
)

// reply is an answer of HTTP.
type reply struct {
	status int
	header string // "Name: value" lines
	body   string
}

func (r reply) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for line := range strings.Lines(r.header) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		w.Header().Set(name, value)
	}
	w.WriteHeader(r.status)
	_, _ = w.Write([]byte(r.body))
}

// replies serves these answers by the last part of the path. The one for "" is for all others.
func replies(t *testing.T, by map[string]reply) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := by[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]
		if !ok {
			a = by[""]
		}
		a.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// bareGKE is a GKE server as its errors were recorded, without a header of its own.
func bareGKE(change map[string]reply) map[string]reply {
	by := map[string]reply{
		"email": {200, "", string(app)},
		"token": {200, "Content-Type: application/json", `{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}`},
		"":      {404, "", "Not Found\n"},
	}
	maps.Copy(by, change)
	return by
}

const html = "<!DOCTYPE html>\n<html><body><h1>Not Found</h1></body></html>\n"

// Any server answers 404 to a path that it does not know. So does a proxy without a route.
func TestWhoAnsweredWhereTheMachineTypeIsNotFound(t *testing.T) {
	const unknown, gke, vm = identity.ServerUnknown, identity.ServerGKE, identity.ServerVM
	notFound := "not_found, not_found, not_found"
	for _, tt := range []struct {
		name    string
		by      map[string]reply
		server  identity.Server
		reasons string
		proxy   string // of the email
	}{
		{
			"Envoy has no route (opencensus-java issue 1855)",
			map[string]reply{"": {404, "server: envoy", ""}},
			unknown, notFound, `the header "server: envoy"`,
		},
		{
			"Envoy has no healthy upstream (istio issue 29109)",
			map[string]reply{"": {503, "server: istio-envoy", "no healthy upstream"}},
			unknown,
			"server_error, server_error, server_error", `the header "server: istio-envoy"`,
		},
		{
			"Envoy under REGISTRY_ONLY",
			map[string]reply{"": {502, "server: envoy", ""}},
			unknown,
			"server_error, server_error, server_error", `the header "server: envoy"`,
		},
		{
			"Squid",
			map[string]reply{"": {502, "Server: squid/5.7\nContent-Type: text/html", html}},
			unknown,
			"server_error, server_error, server_error", `the header "server: squid/5.7"`,
		},
		{
			"nginx",
			map[string]reply{"": {404, "Server: nginx/1.27.0\nContent-Type: text/html", html}},
			unknown, notFound,
			`the header "server: nginx/1.27.0"`,
		},
		{
			"Python's http.server",
			map[string]reply{"": {404, "Server: SimpleHTTP/0.6 Python/3.12.3\nContent-Type: text/html;charset=utf-8", html}},
			unknown, notFound,
			`the header "server: SimpleHTTP/0.6 Python/3.12.3"`,
		},
		{"a proxy by its Via", map[string]reply{"": {404, "Via: 1.1 gateway", ""}}, unknown, notFound, `the header "via: 1.1 gateway"`},
		{
			"Envoy under another name",
			map[string]reply{"": {404, "X-Envoy-Decorator-Operation: x", ""}},
			unknown, notFound,
			`the header "x-envoy-decorator-operation"`,
		},
		{"a page", map[string]reply{"": {404, "Content-Type: text/html", "gone"}}, unknown, notFound, "an HTML page"},
		{"a page without a type", map[string]reply{"": {404, "", "\n <HTML><body>gone"}}, unknown, notFound, "an HTML page"},
		{"a mux of Go", map[string]reply{"": {404, "", "404 page not found\n"}}, unknown, notFound, ""},
		{"nobody in particular", map[string]reply{"": {404, "", "Not Found\n"}}, unknown, notFound, ""},
		{"a server of another name", map[string]reply{"": {404, "Server: gunicorn-of-somebody", ""}}, unknown, notFound, `the header "server: gunicorn-of-somebody"`},
		{"a metadata server of another name", map[string]reply{"": {404, "Server: gce-metadata-emulator", ""}}, unknown, notFound, ""},
		{
			"Linkerd does not reach it",
			map[string]reply{"": {502, "l5d-proxy-error: endpoint 169.254.169.254:80: client error (Connect)", ""}},
			unknown,
			"server_error, server_error, server_error", `the header "l5d-proxy-error: endpoint 169.254.169.254:80: client error (Connect)"`,
		},

		{
			"healthy answers that passed a sidecar (istio issue 10951)",
			map[string]reply{
				"email":        {200, "server: envoy\nmetadata-flavor: Google\nx-envoy-upstream-service-time: 2", string(app)},
				"token":        {200, "server: envoy\ncontent-type: application/json", `{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}`},
				"machine-type": {404, "server: envoy\nx-envoy-upstream-service-time: 1", "Not Found\n"},
			},
			gke, "ok, ok, ok", "",
		},
		{"an email and nothing else", map[string]reply{"email": {200, "", string(app)}, "": {404, "", ""}}, gke, "ok, not_found, ok", ""},
		{
			"a token and nothing else",
			map[string]reply{"token": bareGKE(nil)["token"], "": {404, "", ""}},
			gke, "not_found, ok, ok", "",
		},
		{
			"IAM's refusal and nothing else",
			map[string]reply{"token": {403, "", "Unable to generate access token; IAM returned 403 Forbidden: Permission denied\n"}, "": {404, "", ""}},
			gke, "not_found, denied, ok", "",
		},
		{"the 404 itself has the flavor", map[string]reply{"": {404, "Metadata-Flavor: Google", ""}}, gke, "not_found, not_found, ok", ""},
		{
			"the flavor, through a sidecar",
			map[string]reply{"": {404, "Metadata-Flavor: Google\nserver: envoy\nContent-Type: text/html", html}},
			gke, "not_found, not_found, ok", "",
		},
		{"the 404 itself has the name", map[string]reply{"": {404, "Server: GKE Metadata Server", ""}}, gke, "not_found, not_found, ok", ""},
		{"an error that GKE's server alone has", map[string]reply{"email": {500, "", "Could not recursively fetch uri\n"}, "": {404, "", ""}}, gke, "server_error, not_found, ok", ""},
		{"the queue of GKE's server", map[string]reply{"email": {499, "", ""}, "": {404, "", ""}}, gke, "throttled, not_found, ok", ""},
		{
			"the VM's 404 (gcp-metadata issue 657)",
			map[string]reply{"": {404, "Server: Metadata Server for VM\nMetadata-Flavor: Google\nContent-Type: text/html", html}},
			unknown, "not_found, not_found, malformed", "",
		},
		{
			"a machine type in a page", bareGKE(map[string]reply{"machine-type": {200, "Content-Type: text/html", "<html>machineTypes/</html>"}}),
			unknown, "ok, ok, malformed", "",
		},
		{"a machine type", bareGKE(map[string]reply{"machine-type": {200, "", "projects/1/machineTypes/e2-medium"}}), vm, "ok, ok, ok", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := probe(t, replies(t, tt.by), 5*time.Second)
			if got := reasons(o); got != tt.reasons || o.Server.Server != tt.server {
				t.Errorf("%s from %s, want %s from %s", got, o.Server.Server, tt.reasons, tt.server)
			}
			if o.Email.Proxy != tt.proxy {
				t.Errorf("the email has of a proxy %q, want %q", o.Email.Proxy, tt.proxy)
			}
			if want := tt.server != unknown || o.Email.OK(); tt.proxy != "" && o.Genuine() || want && !o.Genuine() {
				t.Errorf("genuine: %t, want %t", o.Genuine(), want)
			}
		})
	}
}

// A right answer that came through a proxy has its mark, and one that did not has none,
// whatever its type.
func TestWhatAnIdentityHasPassed(t *testing.T) {
	for header, want := range map[string]string{
		"server: istio-envoy\nmetadata-flavor: Google": `the header "server: istio-envoy"`,
		"x-envoy-upstream-service-time: 3":             `the header "x-envoy-upstream-service-time"`,
		"Server: GKE Metadata Server":                  "",
		"Content-Type: text/html":                      "",
		"":                                             "",
	} {
		e := probe(t, replies(t, bareGKE(map[string]reply{"email": {200, header, string(app)}})), 5*time.Second).Email
		if !e.OK() || !e.Genuine || e.Proxy != "" || e.Passed != want {
			t.Errorf("%q: %+v, want an identity that has passed %q", header, e, want)
		}
	}
}

// Not each probe asks for a token, and the other answers may not tell.
func TestWithoutATokenTheOtherAnswersTellWhoAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		by   map[string]reply
		want identity.Server
	}{
		"the email is one":             {bareGKE(nil), identity.ServerGKE},
		"only the token would tell it": {bareGKE(map[string]reply{"email": {404, "", "Not Found\n"}}), identity.ServerUnknown},
	} {
		o := metadata.New(replies(t, tt.by), 5*time.Second, "test/1").Probe(t.Context(), false)
		if o.Server.Server != tt.want {
			t.Errorf("%s: %s answers, want %s: %+v", name, o.Server.Server, tt.want, o)
		}
	}
}

// A server that begins to answer has said who it is, though the rest never comes.
func TestTheHeadersTellWhoAnswersBeforeTheBody(t *testing.T) {
	s := serveRaw(t, map[string]answer{
		"email": held("HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\nContent-Length: 3\r\n\r\na"),
		"token": held(""),
	}, nil)
	o := probe(t, s.host(), 400*time.Millisecond)
	if got := reasons(o); got != "timeout, timeout, ok" || o.Server.Server != identity.ServerGKE {
		t.Errorf("%s from %s, want timeout, timeout, ok from gke", got, o.Server.Server)
	}
}

// A server that refuses the Pod by name is one that cannot tell it.
func TestAServerThatDoesNotKnowThePod(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer reply
		want   identity.Reason // of the email and the token
	}{
		{"the log of GKE's server (gcpdiag gke/ERR/2023_011)", reply{500, "", `Unable to find pod: retry budget exhausted, ip "10.0.0.9" not recorded in the snapshot`}, identity.PodUnknown},
		{"the same", reply{403, "", "Caller is not authenticated\n"}, identity.PodUnknown},
		{"an emulator by the address", reply{403, "Content-Type: application/json", `{"error":"client ip address does not match any pods running on the node n1: 10.0.0.9"}`}, identity.PodUnknown},
		{"an emulator by the list of Pods", reply{500, "Content-Type: application/json", `{"error": "error looking up pod by ip address: no pods found in the node matching cluster ip 10.0.0.9"}`}, identity.PodUnknown},
		{"an emulator by the kernel", reply{403, "Content-Type: application/json", `{"error": "kernel attestation failed: attestation lookup: connection not found"}`}, identity.PodUnknown},
		{"JSON", reply{403, "Content-Type: application/json", `{"error":"no pod with ip 10.0.0.9"}`}, identity.PodUnknown},
		{"JSON of an address", reply{403, "Content-Type: application/json", `{"error":"unattested address","address":"10.0.0.9:4711"}`}, identity.PodUnknown},
		{"an address that is not known", reply{401, "", "Unknown source IP address 10.0.0.9\n"}, identity.PodUnknown},
		{"a server of another cloud (kube2iam issue 363)", reply{404, "", "pod with specificed IP not found\n"}, identity.PodUnknown},
		{"behind a proxy", reply{403, "server: envoy", `{"error":"pod not found for ip 10.0.0.9"}`}, identity.PodUnknown},

		{"IAM about an account", reply{403, "", "Unable to generate access token; IAM returned 403 Forbidden: caller is not authenticated for pod not found\n"}, identity.Denied},
		{"Envoy's own refusal", reply{403, "server: envoy", "RBAC: access denied"}, identity.Denied},
		{"a refusal", reply{403, "", "Forbidden"}, identity.Denied},
		{"a page", reply{403, "Content-Type: text/html", "<html>Unknown IP address</html>"}, identity.Denied},
		{"another status", reply{503, "", "pod not found"}, identity.ServerError},
		{"a path", reply{404, "", "404 page not found\n"}, identity.NotFound},
		{"a name", reply{500, "", "dial tcp: lookup metadata: no address associated with hostname"}, identity.ServerError},
		{"a podcast", reply{404, "", "podcast not found"}, identity.NotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := probe(t, replies(t, map[string]reply{"": tt.answer}), 5*time.Second)
			for _, r := range []identity.Request{o.Email.Request, o.Token.Request} {
				if r.Failure == nil || r.Failure.Reason != tt.want {
					t.Errorf("failure %+v, want %s", r.Failure, tt.want)
				}
				if known := tt.want == identity.PodUnknown; known && !r.Genuine {
					t.Error("who knows of Pods is taken for no metadata server")
				}
			}
			if r := o.Server.Failure; r != nil && r.Reason == identity.PodUnknown {
				t.Errorf("the machine type has the reason %s, which is none of its reasons", r.Reason)
			}
			if d := o.Token.Failure.Detail; strings.Contains(d, "10.0.0.9") {
				t.Errorf("the detail %q repeats the body of the token endpoint", d)
			}
		})
	}
}

// STS refuses, and GKE's server says so. Nothing of the body is repeated.
func TestATokenThatSTSRefuses(t *testing.T) {
	const body = `Failed to generate federated token using STS: googleapi: got HTTP response code 400 with body: {"error":"invalid_target"}`
	o := probe(t, replies(t, bareGKE(map[string]reply{"token": {400, "", body}})), 5*time.Second)
	f := o.Token.Failure
	if f == nil || f.Reason != identity.Malformed || !strings.Contains(f.Detail, "STS refuses") || strings.Contains(f.Detail, "invalid_target") {
		t.Errorf("failure %+v, want that STS refuses", f)
	}
	if !o.Token.Genuine || o.Server.Server != identity.ServerGKE {
		t.Errorf("genuine %t from %s, want that GKE's server answers", o.Token.Genuine, o.Server.Server)
	}
}
