package metadata_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret = "s3cr3t-of-the-simulator"
	app    = identity.Identity("app@demo-project.iam.gserviceaccount.com")
	node   = identity.Identity("123456789012-compute@developer.gserviceaccount.com")
)

// simulate runs a simulator for the test.
func simulate(t *testing.T) *simulator.Simulator {
	t.Helper()
	s, err := simulator.New(simulator.Options{MetadataAddress: "127.0.0.1:0", Tokens: simulator.Tokens{Secret: secret, Lifetime: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	return s
}

func set(t *testing.T, s *simulator.Simulator, fault string) {
	t.Helper()
	f, err := simulator.ParseFault(fault, nil)
	if err == nil {
		err = s.SetFault(f)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func probe(t *testing.T, host string, timeout time.Duration) identity.Observation {
	t.Helper()
	return metadata.New(host, timeout, "test/1").Probe(t.Context(), true)
}

// reasons are those of the three requests, "ok" for an answer.
func reasons(o identity.Observation) string {
	var s []string
	for _, r := range o.Requests() {
		switch {
		case !r.Live():
			s = append(s, "not asked")
		case r.Failure != nil:
			s = append(s, string(r.Failure.Reason))
		default:
			s = append(s, "ok")
		}
	}
	return strings.Join(s, ", ")
}

func TestProbeOfEveryFault(t *testing.T) {
	const everything = 300 * time.Millisecond // the deadline, for faults that outlast it
	tests := []struct {
		fault   string
		reasons string // of email, token, server
		email   identity.Identity
		server  identity.Server
	}{
		{"healthy", "ok, ok, ok", app, identity.ServerGKE},
		{"bypass", "ok, ok, ok", node, identity.ServerVM},
		{"snat", "ok, ok, ok", node, identity.ServerGKE},
		{"snat-error", "server_error, server_error, ok", "", identity.ServerGKE},
		{"unknown-pod", "pod_unknown, pod_unknown, ok", "", identity.ServerGKE},
		{"mixed", "ok, ok, ok", app, identity.ServerVM},
		{"swap", "ok, ok, ok", "other@demo-project.iam.gserviceaccount.com", identity.ServerGKE},
		{"unannotated", "ok, ok, ok", "demo-project.svc.id.goog", identity.ServerGKE},
		{"no-binding", "ok, denied, ok", app, identity.ServerGKE},
		{"no-gsa", "ok, no_service_account, ok", app, identity.ServerGKE},
		{"leaky", "ok, server_error, ok", app, identity.ServerGKE},
		{"expiring", "ok, ok, ok", app, identity.ServerGKE},
		{"expired", "ok, malformed, ok", app, identity.ServerGKE},
		{"not-found", "not_found, not_found, not_found", "", identity.ServerUnknown}, // as any server may answer
		{"concealed", "denied, malformed, denied", "", identity.ServerUnknown},
		{"throttled", "throttled, throttled, throttled", "", identity.ServerUnknown},
		{"queue-timeout", "throttled, throttled, throttled", "", identity.ServerUnknown},
		{"server-error", "server_error, server_error, server_error", "", identity.ServerUnknown},
		{"unavailable", "server_error, server_error, server_error", "", identity.ServerUnknown},
		{"slow", "timeout, timeout, timeout", "", identity.ServerUnknown},
		{"silent", "timeout, timeout, timeout", "", identity.ServerUnknown},
		{"trickle", "timeout, timeout, timeout", "", identity.ServerUnknown},
		{"stall", "timeout, timeout, ok", "", identity.ServerGKE},
		{"reset", "unreachable, unreachable, unreachable", "", identity.ServerUnknown},
		{"refused", "unreachable, unreachable, unreachable", "", identity.ServerUnknown},
		{"not-json", "ok, malformed, ok", app, identity.ServerGKE},
		{"not-email", "malformed, ok, ok", "", identity.ServerGKE},
		{"proxy", "not_found, not_found, not_found", "", identity.ServerUnknown},
		{"sidecar", "ok, ok, ok", app, identity.ServerGKE},
		{"html", "malformed, malformed, malformed", "", identity.ServerUnknown},
		{"empty", "malformed, malformed, malformed", "", identity.ServerUnknown},
		{"binary", "malformed, malformed, malformed", "", identity.ServerUnknown},
		{"huge", "malformed, malformed, malformed", "", identity.ServerUnknown},
		{"redirect", "redirect, redirect, redirect", "", identity.ServerUnknown},
		{"content-type", "ok, ok, ok", app, identity.ServerGKE},
	}
	s := simulate(t)
	for _, tt := range tests {
		t.Run(tt.fault, func(t *testing.T) {
			set(t, s, tt.fault)
			deadline := 5 * time.Second
			if strings.Contains(tt.reasons, "timeout") || tt.fault == "unavailable" {
				deadline = everything
			}
			o := probe(t, s.MetadataAddr().String(), deadline)
			if got := reasons(o); got != tt.reasons {
				t.Errorf("reasons %q, want %q: %+v", got, tt.reasons, o)
			}
			if o.Email.Identity != tt.email || o.Server.Server != tt.server {
				t.Errorf("observed %q from %s, want %q from %s", o.Email.Identity, o.Server.Server, tt.email, tt.server)
			}
			for _, r := range o.Requests() {
				if printed := fmt.Sprintf("%+v %v", r, r.Failure); strings.Contains(printed, secret) {
					t.Errorf("the token was printed: %s", printed)
				}
			}
			v := identity.Judge(identity.Expect(app), nil, o)
			if printed := fmt.Sprintf("%+v %#v %+v", o, o, v); strings.Contains(printed, secret) || strings.Contains(printed, "ya29") {
				t.Errorf("the token was printed: %s", printed)
			}
		})
	}
}

func TestEveryRequestIsANewConnection(t *testing.T) {
	s := simulate(t)
	p := metadata.New(s.MetadataAddr().String(), time.Second, "test/1")
	const probes = 5
	for range probes {
		p.Probe(t.Context(), true)
	}
	if got := s.Connections(); got != 3*probes {
		t.Errorf("%d connections for %d probes of three requests, want %d", got, probes, 3*probes)
	}
}

func TestATokenIsAskedForOnlyOnDemand(t *testing.T) {
	s := simulate(t)
	o := metadata.New(s.MetadataAddr().String(), time.Second, "test/1").Probe(t.Context(), false)
	if o.Token.Live() || s.Requests("token") != 0 {
		t.Errorf("a token was asked for: %+v, %d requests", o.Token, s.Requests("token"))
	}
}

func TestTheTokenIsReducedToItsTypeAndLifetime(t *testing.T) {
	s := simulate(t)
	o := probe(t, s.MetadataAddr().String(), time.Second)
	if o.Token.Type != "Bearer" || o.Token.Lifetime != time.Hour {
		t.Errorf("token %+v, want a Bearer token of an hour", o.Token)
	}
}

func TestALifetimeIsFromASecondToADay(t *testing.T) {
	for _, tt := range []struct {
		expiresIn string
		want      time.Duration // below 0: malformed
	}{
		{`,"expires_in":3599`, 3599 * time.Second},
		{`,"expires_in":1`, time.Second},
		{`,"expires_in":86400`, 24 * time.Hour},
		{`,"expires_in":86401`, 24 * time.Hour},
		{`,"expires_in":9223372037`, 24 * time.Hour},
		{`,"expires_in":9223372036854775807`, 24 * time.Hour},
		{"", 0}, // not known
		{`,"expires_in":0`, -1},
		{`,"expires_in":-9223372036854775808`, -1},
		{`,"expires_in":9223372036854775808`, -1},
		{`,"expires_in":null`, -1},
		{`,"expires_in":""`, -1},
		{`,"expires_in":[1]`, -1},
		{`,"expires_in":true`, -1},
	} {
		t.Run(tt.expiresIn, func(t *testing.T) {
			s := serveRaw(t, map[string]answer{"token": ok(`{"access_token":"ya29.x"` + tt.expiresIn + `,"token_type":"Bearer"}`)}, nil)
			got := probe(t, s.host(), 5*time.Second).Token
			switch {
			case tt.want < 0 && (got.Failure == nil || got.Failure.Reason != identity.Malformed):
				t.Errorf("token %+v, want it malformed", got)
			case tt.want >= 0 && (!got.OK() || got.Lifetime != tt.want):
				t.Errorf("token %+v, want a lifetime of %s", got, tt.want)
			}
		})
	}
}

// The client library and net/http would obey these variables. Either of them
// could make a broken node look right. The probe is made in a process of its own,
// because net/http reads the environment once, and of 0.0.0.0, which reaches this
// host but is not exempt from proxies as 127.0.0.1 is.
func TestTheEnvironmentDoesNotRedirectProbes(t *testing.T) {
	if host := os.Getenv("TEST_PROBE_HOST"); host != "" {
		fmt.Println("observed", probe(t, host, 5*time.Second).Email.Identity)
		return
	}
	decoy := simulate(t) // answers as expected
	asked := simulate(t)
	set(t, asked, "bypass")
	_, port, err := net.SplitHostPort(asked.MetadataAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	child.Env = append(os.Environ(), "TEST_PROBE_HOST=0.0.0.0:"+port, "GCE_METADATA_HOST="+decoy.MetadataAddr().String())
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		child.Env = append(child.Env, name+"=http://"+decoy.MetadataAddr().String())
	}
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "observed "+string(node)) {
		t.Errorf("%v: %s, want the %s of the server that was to be asked", err, out, node)
	}
	if decoy.Connections() != 0 {
		t.Errorf("%d connections to the server that the environment names", decoy.Connections())
	}
}

// answering serves one answer to every request, and counts requests and bytes
// that the client took.
func answering(t *testing.T, h http.HandlerFunc) (host string, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), requests
}

// A 503 is what the client library would ask for six times, until the deadline
// replaces it by a timeout.
func TestAServerErrorIsOneRequestAndKeepsItsStatus(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	host, requests := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		w.(http.Flusher).Flush()
		<-release // the body does not end before the deadline
	})
	o := metadata.New(host, 200*time.Millisecond, "test/1").Probe(t.Context(), false)
	if f := o.Email.Failure; f == nil || f.Reason != identity.ServerError || f.Status != http.StatusServiceUnavailable {
		t.Errorf("failure %+v, want server_error with status 503", f)
	}
	if got := requests.Load(); got != 2 {
		t.Errorf("%d requests for an email and a machine type, want 2", got)
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	s := simulate(t)
	set(t, s, "redirect")
	probe(t, s.MetadataAddr().String(), time.Second)
	if got := s.Connections(); got != 3 {
		t.Errorf("%d connections for three redirects, want 3", got)
	}
}

func TestAHugeBodyIsCut(t *testing.T) {
	s := simulate(t)
	set(t, s, "huge")
	before := s.BytesWritten()
	o := probe(t, s.MetadataAddr().String(), 5*time.Second)
	if f := o.Email.Failure; f == nil || !strings.Contains(f.Detail, "larger than") {
		t.Errorf("failure %+v, want one that names the size", f)
	}
	// Buffers of the kernel hold more than is read.
	if got := s.BytesWritten() - before; got > 15<<20 {
		t.Errorf("the server wrote %d bytes of 30 MB, want it to be cut off", got)
	}
}

// recorded are answers of real servers, and what they mean.
func TestRecordedAnswers(t *testing.T) {
	const noBinding = "Unable to generate access token; IAM returned 403 Forbidden: Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).\n"
	tests := []struct {
		name     string
		endpoint string
		status   int
		server   string
		body     string
		want     identity.Reason // empty: an answer
	}{
		{"the KSA lacks the role (camunda issue 31106)", "token", 403, "", noBinding, identity.Denied},
		{"no such account (argo-workflows issue 4592)", "token", 404, "", "Unable to generate access token; IAM returned 404 Not Found: Requested entity was not found.\n", identity.NoServiceAccount},
		{"no Gaia id", "token", 404, "", "Unable to generate access token; IAM returned 404 Not Found: Not found; Gaia id not found for email app@x.iam.gserviceaccount.com\n", identity.NoServiceAccount},
		{"a server that starts", "token", 404, "", "Not Found", identity.NotFound},
		{"internal error (google-cloud-java issue 5747)", "token", 500, "", "GKE Metadata Server: Internal Server Error", identity.ServerError},
		{"header lost (google-cloud-ruby issue 3750)", "token", 403, "", "GKE Metadata Server encountered an error: Missing required header \"Metadata-Flavor\": \"Google\"\n", identity.Malformed},
		{"concealed (k8s-metadata-proxy)", "token", 403, "", "This metadata endpoint is concealed\n", identity.Malformed},
		{"another 403 for the token", "token", 403, "", "no", identity.Denied},
		{"a token (gcp-metadata issue 215)", "token", 200, "", `{"access_token":"ya29.REDACTED","expires_in":3599,"token_type":"Bearer"}`, ""},
		{"a token that has expired", "token", 200, "", `{"access_token":"ya29.REDACTED","expires_in":-1,"token_type":"Bearer"}`, identity.Malformed},
		{"no access_token", "token", 200, "", `{"expires_in":3599,"token_type":"Bearer"}`, identity.Malformed},
		{"another type", "token", 200, "", `{"access_token":"ya29.REDACTED","expires_in":3599,"token_type":"MAC"}`, identity.Malformed},
		{"two documents", "token", 200, "", `{"access_token":"ya29.REDACTED","expires_in":3599,"token_type":"Bearer"}{}`, identity.Malformed},
		{"JSON of something else", "token", 200, "", `[1,2]`, identity.Malformed},
		{"an empty object", "token", 200, "", `{}`, identity.Malformed},
		{"no content", "token", 204, "", "", identity.Malformed},
		{"an email", "email", 200, "Metadata Server for VM", "NODE_SA@PROJECT-ID.iam.gserviceaccount.com", ""},
		{"the pool (argo-cd issue 20368)", "email", 200, "", "PROJECT-ID.svc.id.goog", ""},
		{"a teapot", "email", 418, "", "short and stout", identity.Malformed},
		{"not the metadata of this server", "email", 401, "", "", identity.Denied},
		{"the GKE server knows no machine type", "machine-type", 404, "GKE Metadata Server", "Not Found", ""},
		{"any server knows no machine type", "machine-type", 404, "", "Not Found", identity.NotFound},
		{"the VM server's 404 (gcp-metadata issue 657)", "machine-type", 404, "Metadata Server for VM", "<!DOCTYPE html>\n<html lang=en>\n", identity.Malformed},
		{"a machine type", "machine-type", 200, "Metadata Server for VM", "projects/123456789012/machineTypes/e2-medium", ""},
		{"a page instead of a machine type", "machine-type", 200, "nginx", "<html>Log in</html>", identity.Malformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			host, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Metadata-Flavor"); got != "Google" {
					t.Errorf("Metadata-Flavor: %q, want Google", got)
				}
				if got := r.UserAgent(); got != "test/1" {
					t.Errorf("User-Agent: %q, want test/1", got)
				}
				if tt.server != "" {
					w.Header().Set("Server", tt.server)
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			})
			o := probe(t, host, 5*time.Second)
			request := map[string]identity.Request{"email": o.Email.Request, "token": o.Token.Request, "machine-type": o.Server.Request}[tt.endpoint]
			switch f := request.Failure; {
			case tt.want == "" && f != nil:
				t.Errorf("failure %v, want an answer", f)
			case tt.want != "" && (f == nil || f.Reason != tt.want || f.Status != tt.status):
				t.Errorf("failure %+v, want %s with status %d", f, tt.want, tt.status)
			case f != nil && tt.endpoint == "token" && tt.body != "" && strings.Contains(f.Detail, tt.body):
				t.Errorf("the detail %q repeats the body of the token endpoint", f.Detail)
			}
			if request.ServerHeader != tt.server {
				t.Errorf("Server header %q, want %q", request.ServerHeader, tt.server)
			}
		})
	}
}

func TestAnErrorIsQuotedOnOneShortLine(t *testing.T) {
	host, _ := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		_, _ = w.Write([]byte("<h1>Bad\r\n\x1b[31mgateway\x00\n" + strings.Repeat("long ", 1000)))
	})
	f := probe(t, host, time.Second).Email.Failure
	if f == nil || !strings.HasPrefix(f.Detail, "<h1>Bad [31mgateway long") || len(f.Detail) > 200 || strings.ContainsAny(f.Detail, "\n\r\x00\x1b") {
		t.Errorf("failure %+v, want a short line without control characters", f)
	}
}

// A broken server, or a proxy that mixes up its answers, may put a token anywhere.
func TestATokenInForeignWordsIsNotShown(t *testing.T) {
	const token = "ya29.c.c0ASRK0GZs7mJ"
	host, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "proxy "+token)
		if strings.HasSuffix(r.URL.Path, "/identity") {
			fmt.Fprint(w, "e30."+base64.RawURLEncoding.EncodeToString([]byte(`{"aud":"a","google":{"compute_engine":{"instance_name":"`+token+`"}}}`))+".c2ln")
			return
		}
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, strings.Repeat("x ", 75)+token)
	})
	p := metadata.New(host, 5*time.Second, "test/1")
	o, claims := p.Probe(t.Context(), true), p.Claims(t.Context())
	if o.Email.ServerHeader != "proxy [redacted]" || !strings.HasPrefix(o.Email.Failure.Detail, "x x x") || claims.Machine != "[redacted]" {
		t.Errorf("observation %+v, claims %+v, want the words without the token", o, claims)
	}
	for _, r := range o.Requests() {
		if printed := fmt.Sprintf("%+v %+v", r, claims); strings.Contains(printed, "ya29") {
			t.Errorf("the token is shown: %s", printed)
		}
	}
}

func TestServersThatAreNotThere(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	garbage, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer garbage.Close()
	go func() {
		for {
			c, err := garbage.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1000))
			_, _ = c.Write([]byte("220 mail.example.com ESMTP\r\n"))
			c.Close()
		}
	}()
	full := unacceptedBacklog(t)
	tests := []struct {
		name, host string
		want       identity.Reason
		detail     string
	}{
		{"nothing listens", closed.Addr().String(), identity.Unreachable, "refused"},
		{"not HTTP", garbage.Addr().String(), identity.Malformed, "not HTTP"},
		{"connects are not answered", full, identity.Timeout, "no connection"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := metadata.New(tt.host, 500*time.Millisecond, "test/1").Probe(t.Context(), false).Email.Failure
			if f == nil {
				t.Fatal("no failure")
			}
			if f.Reason != tt.want || !strings.Contains(f.Detail, tt.detail) {
				t.Errorf("failure %+v, want %s with %q", f, tt.want, tt.detail)
			}
		})
	}
}

// unacceptedBacklog is an address where the kernel no longer answers connects.
func unacceptedBacklog(t *testing.T) string {
	t.Helper()
	address := listenWithoutBacklog(t)
	for range 4 { // fills the queue
		go func() {
			d := net.Dialer{Timeout: 300 * time.Millisecond}
			if c, err := d.DialContext(t.Context(), "tcp", address); err == nil {
				t.Cleanup(func() { c.Close() })
			}
		}()
	}
	time.Sleep(100 * time.Millisecond) // the kernel's queue is nothing to wait on
	return address
}

func TestACancelledProbeReturnsAtOnce(t *testing.T) {
	s := simulate(t)
	set(t, s, "silent")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan identity.Observation, 1)
	go func() { done <- metadata.New(s.MetadataAddr().String(), time.Hour, "test/1").Probe(ctx, true) }()
	cancel(errors.New("stop"))
	if o := <-done; o.Email.Failure == nil {
		t.Errorf("observation %+v, want failures", o)
	}
}
