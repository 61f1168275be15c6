package metadata

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	fuzzed   = identity.Identity("app@demo-project.iam.gserviceaccount.com")
	goodness = "HTTP/1.1 200 OK\r\nServer: GKE Metadata Server\r\nMetadata-Flavor: Google\r\n"
	secret   = "ya29.c.fuzzed-7Qw2xZ9LrT4bVn8KpY3m"
	// The fuzzer writes a mark where the secret is to be, or it would soon have another.
	mark = "@T@"
	// much stands for more than is read of anything, which would be long to vary.
	much = "@M@"
)

func planted(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte(mark), []byte(secret))
	return bytes.Replace(b, []byte(much), bytes.Repeat([]byte("x"), 2*(maxHeader+maxFramed)), 1)
}

// leaks is a part of the secret in a text that somebody may see.
func leaks(shown string) string {
	const recognisable = 10
	for i := 0; i+recognisable <= len(secret); i++ {
		if part := secret[i : i+recognisable]; strings.Contains(shown, part) {
			return part
		}
	}
	return ""
}

// checkRequest holds what is true of every request, whatever was answered.
func checkRequest(t *testing.T, e identity.Endpoint, r identity.Request) {
	t.Helper()
	texts := []string{r.ServerHeader, r.Proxy}
	if f := r.Failure; f != nil {
		texts = append(texts, f.Error())
		if e != endpointIdentity && !slices.Contains(identity.Reasons(e), f.Reason) {
			t.Errorf("%s: the reason %q is none of the endpoint's", e, f.Reason)
		}
	}
	for _, s := range texts {
		checkText(t, s, 2*maxExcerpt)
	}
}

func checkText(t *testing.T, s string, most int) {
	t.Helper()
	if len(s) > most || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		t.Errorf("%q is not a line of at most %d printable bytes", s, most)
	}
	if part := leaks(s); part != "" {
		t.Errorf("%q of the secret is shown in %q", part, s)
	}
}

// isFuzzed reports whether the body is the expected email, byte by byte but for what
// no two identities differ in: letter case, and the white space around it.
func isFuzzed(body []byte) bool {
	return bytes.Equal(bytes.ToLower(bytes.TrimSpace(body)), []byte(fuzzed))
}

// canned is a connection on which there is an answer, whatever is asked.
type canned struct {
	net.Conn
	answer io.Reader
	read   int
}

func (c *canned) Read(b []byte) (int, error) {
	n, err := c.answer.Read(b)
	c.read += n
	return n, err
}
func (c *canned) Write(b []byte) (int, error)      { return len(b), nil }
func (c *canned) Close() error                     { return nil }
func (c *canned) SetDeadline(time.Time) error      { return nil }
func (c *canned) SetReadDeadline(time.Time) error  { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }

func cannedProber(c *canned) *Prober {
	p := New(DefaultHost, time.Minute, "test/1")
	p.dial = func(context.Context, string, string) (net.Conn, error) { return c, nil }
	return p
}

var questions = append(identity.Endpoints(), endpointIdentity)

// FuzzAnswer is the bytes of one answer to one of the questions.
func FuzzAnswer(f *testing.F) {
	length := func(body string) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body) }
	for _, s := range []string{
		goodness + length(string(fuzzed)),
		goodness + length(`{"access_token":"@T@","expires_in":3599,"token_type":"Bearer"}`),
		goodness + length("projects/1/machineTypes/e2-small"),
		"HTTP/1.1 100 Continue\r\n\r\n" + goodness + "Transfer-Encoding: chunked\r\n\r\n28\r\n" + string(fuzzed) + "\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.0 404 Not Found\r\nServer: @T@\r\nVia: 1.1 @T@\r\n\r\n@T@",
		"HTTP/1.1 500 @T@\r\nX-Envoy-@T@: 1\r\nContent-Type: text/html\r\n\r\n<html>@T@",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: http://x/@T@\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00",
		goodness + "X: @M@\r\n\r\n", goodness + "\r\n@M@", "@M@",
		goodness + "Transfer-Encoding: chunked\r\n\r\n1;@M@\r\nx\r\n0\r\n\r\n",
		"HTTP/2.0 200 OK\r\n\r\n", "\x15\x03\x01\x00\x02\x02\x46", "",
	} {
		for question := range questions {
			f.Add(uint8(question), []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, question uint8, answer []byte) {
		c := &canned{answer: bytes.NewReader(planted(answer))}
		x := cannedProber(c).ask(t.Context(), questions[int(question)%len(questions)])
		if most := maxHeader + maxFramed; c.read > most {
			t.Errorf("%d bytes were read, want at most %d", c.read, most)
		}
		checkAnswer(t, x)
	})
}

// FuzzBody is what is made of a whole answer, without the way there.
func FuzzBody(f *testing.F) {
	for _, body := range []string{
		string(fuzzed), " \tAPP@demo-project.iam.gserviceaccount.com\r\n", "demo-project.svc.id.goog", "serviceAccount:demo-project.svc.id.goog[a/b]",
		"principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/subject/ns/demo/sa/app",
		"@T@", "@T@@demo-project.iam.gserviceaccount.com", "\ufeff" + string(fuzzed), "\u212aapp@p.iam.gserviceaccount.com",
		"<!DOCTYPE html>@T@", "Unable to generate access token; IAM returned 403 Forbidden: @T@", "IAM returned 404", "Failed to generate federated token @T@",
		"Unable to find Pod for IP 10.0.0.1 @T@", "caller is not authenticated", "projects/1/machineTypes/x",
		`{"access_token":"@T@","expires_in":3599,"token_type":"Bearer"}`, `{"access_token":"@T@","expires_in":1e309}`,
	} {
		for question, status := range []int{200, 403, 404, 500} {
			f.Add(uint8(question), status, "GKE Metadata Server", "Via", "1.1 @T@", []byte(body))
			f.Add(uint8(question), 200, "envoy @T@", "Content-Type", "text/html; @T@", []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, question uint8, status int, server, name, value string, body []byte) {
		body = planted(body)[:min(len(planted(body)), maxBody)]
		header := http.Header{}
		header.Set("Server", string(planted([]byte(server))))
		header.Set(name, string(planted([]byte(value))))
		checkAnswer(t, read(questions[int(question)%len(questions)], status, header, body))
	})
}

// read is the exchange once its answer is there.
func read(e identity.Endpoint, status int, header http.Header, body []byte) *exchange {
	x := &exchange{endpoint: e}
	x.take(status, header, body, nil)
	return x
}

// checkAnswer holds what is true of each answer and of what is made of it.
func checkAnswer(t *testing.T, x *exchange) {
	t.Helper()
	e := x.endpoint
	checkRequest(t, e, x.request())
	switch e {
	case identity.EndpointEmail:
		a := parseEmail(x)
		checkRequest(t, e, a.Request)
		checkText(t, string(a.Identity), 512)
		checkText(t, a.Instead, 256)
		if a.OK() != (a.Identity != "") || (a.Identity == fuzzed) != (x.failure == nil && isFuzzed(x.body)) {
			t.Errorf("the identity of %q is %q, failure %v", x.body, a.Identity, a.Failure)
		}
	case identity.EndpointToken:
		a := parseToken(x)
		checkRequest(t, e, a.Request)
		if a.Lifetime < 0 || a.Lifetime > maxLifetime || a.OK() != (a.Type == "Bearer") {
			t.Errorf("the token is %+v", a)
		}
		// Of what else was answered nothing is repeated, secret or not.
		if a.Failure != nil && strings.ContainsAny(a.Failure.Detail, "\"\\{}@") {
			t.Errorf("the answer is quoted: %s", a.Failure)
		}
	case identity.EndpointServer:
		o := identity.Observation{Server: parseServer(x)}
		checkRequest(t, e, o.Server.Request)
		if o.Server.Server == identity.ServerVM != o.Server.OK() || o.Server.Server == identity.ServerGKE {
			t.Errorf("the server is %+v", o.Server)
		}
		if settle(&o); o.Server.Server == identity.ServerGKE && x.status != http.StatusNotFound {
			t.Errorf("GKE's server by the status %d", x.status)
		}
	default:
		checkClaims(t, parseClaims(x))
	}
}

func checkClaims(t *testing.T, c identity.Claims) {
	t.Helper()
	checkText(t, c.Machine, maxExcerpt)
	checkText(t, string(c.Identity), 512)
	if c.Server != identity.ServerVM && c.Machine != "" || c.Server == "" || c.Server == identity.ServerUnknown && c.Identity != "" {
		t.Errorf("claims %+v", c)
	}
}

// FuzzToken is the JSON of a token.
func FuzzToken(f *testing.F) {
	for _, s := range []string{
		`{"access_token":"@T@","expires_in":3599,"token_type":"Bearer"}`, `{"access_token":"@T@","token_type":"bearer"}`,
		`{"access_token":"@T@","expires_in":9223372036854775807}`, `{"access_token":"@T@","expires_in":-1}`, `{"access_token":"@T@","expires_in":null}`,
		`{"access_token":"@T@","expires_in":"3599"}`, `{"ACCESS_TOKEN":"@T@","access_token":1}`, `{"access_token":{"@T@":1}}`, `["@T@"]`,
		`{"access_token":"@T@","expiry":"@T@"}`, `{"access_token":"@T@","token_type":"@T@"}`, strings.Repeat("[", 10_000),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		checkAnswer(t, read(identity.EndpointToken, http.StatusOK, http.Header{}, planted(body)))
	})
}

// FuzzClaims is the payload of an identity token.
func FuzzClaims(f *testing.F) {
	for _, s := range []string{
		`{"aud":"workload-identity-exporter","email":"app@demo-project.iam.gserviceaccount.com"}`,
		`{"aud":"x","google":{"compute_engine":{"instance_name":"vm-1"}},"email":"1-compute@developer.gserviceaccount.com"}`,
		`{"aud":"x","google":{"compute_engine":{"instance_name":"@T@\u001b[31m\u202e"}},"email":"@T@"}`,
		`{"aud":["x"]}`, `{"aud":"x","google":null}`, `{"aud":"x","google":{"compute_engine":{}}}`, `{}`, `[]`, "\xff",
	} {
		f.Add([]byte(s), "e30", "@T@")
	}
	f.Add([]byte("{}"), "a.b", "c.d")
	f.Fuzz(func(t *testing.T, payload []byte, header, signature string) {
		token := header + "." + base64.RawURLEncoding.EncodeToString(planted(payload)) + "." + signature
		checkAnswer(t, read(endpointIdentity, http.StatusOK, http.Header{}, planted([]byte(token))))
	})
}
