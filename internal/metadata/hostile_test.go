package metadata_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
)

// token is what no observation may hold.
const token = "ya29.c.hostile-7Qw2xZ9LrT4bVn8K"

// hostile are answers that no metadata server should give, and the states that are
// right after one probe of them. Where no endpoint is named, all answer so.
type hostile struct {
	name     string
	endpoint string
	answer   answer
	states   string
	reason   identity.Reason // of the endpoint's request, if it matters
	// hangs: until the deadline. All others end by themselves.
	hangs    bool
	atAccept bool
}

func hostileAnswers() []hostile {
	const (
		head    = "HTTP/1.1 200 OK\r\n"
		chunked = head + "Transfer-Encoding: chunked\r\n\r\n"
		upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
		other   = "other@demo-project.iam.gserviceaccount.com"
		tick    = 60 * time.Millisecond
	)
	email := string(app)
	length := func(n string) string { return head + "Content-Length: " + n + "\r\n\r\n" }
	tokenOf := func(fields string) answer {
		return ok(`{"access_token":"` + token + `",` + fields + `"token_type":"Bearer"}`)
	}
	code := func(line string) answer { return send(status(line, email)) }
	jwt := "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(`{"email":"`+other+`"}`)) + ".c2ln"

	return []hostile{
		{name: "1xx: 100 Continue flood, never ends", answer: endless("", "HTTP/1.1 100 Continue\r\n\r\n"), states: "unavailable"},
		{name: "1xx: 103 flood with 8 kB headers", answer: endless("", "HTTP/1.1 103 Early Hints\r\nLink: "+strings.Repeat("x", 8<<10)+"\r\n\r\n"), states: "unavailable"},
		{name: "100 then the right answer", endpoint: "email", answer: send("HTTP/1.1 100 Continue\r\n\r\n" + status("200 OK", email)), states: "match"},
		{name: "101 without Upgrade, held open", answer: held("HTTP/1.1 101 Switching Protocols\r\n\r\n"), states: "unavailable", reason: identity.Malformed},
		{name: "101 with Upgrade header, then silence (all)", answer: held(upgrade), states: "unavailable", reason: identity.Malformed},
		{name: "101 with Upgrade, silence, token only", endpoint: "token", answer: held(upgrade), states: "unavailable", reason: identity.Malformed},
		{name: "101 with Upgrade, silence, machine-type only", endpoint: "machine-type", answer: held(upgrade), states: "match/unavailable", reason: identity.Malformed},
		{name: "101 with Upgrade, 1 byte a second", answer: drip(upgrade, strings.Repeat("x", 100), tick), states: "unavailable", reason: identity.Malformed},

		{name: "204 with a body", answer: code("204 No Content"), states: "unavailable"},
		{name: "206 with the right body", answer: code("206 Partial Content"), states: "unavailable"},
		{name: "203 with the right body", answer: code("203 Non-Authoritative Information"), states: "unavailable"},
		{name: "300 with Location to itself", answer: send("HTTP/1.1 300 Multiple Choices\r\nLocation: /computeMetadata/v1/instance/service-accounts/default/email\r\nContent-Length: 0\r\n\r\n"), states: "unavailable", reason: identity.Redirect},
		{name: "308 to another host", answer: send("HTTP/1.1 308 Permanent Redirect\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n"), states: "unavailable", reason: identity.Redirect},
		{name: "407", answer: code("407 Proxy Authentication Required"), states: "unavailable"},
		{name: "408 at once", answer: send("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"), atAccept: true, states: "unavailable"},
		{name: "599", answer: code("599 Whatever"), states: "unavailable", reason: identity.ServerError},
		{name: "status 999", answer: code("999 Whatever"), states: "unavailable"},
		{name: "status -200", answer: code("-200 OK"), states: "unavailable", reason: identity.Malformed},
		{name: "HTTP/0.9", answer: send(email + "\n"), states: "unavailable", reason: identity.Malformed},
		{name: "HTTP/0.9 in the status line", answer: send(strings.Replace(status("200 OK", email), "HTTP/1.1", "HTTP/0.9", 1)), states: "unavailable", reason: identity.Malformed},
		{name: "HTTP/2 preface and SETTINGS", answer: send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), states: "unavailable", reason: identity.Malformed},
		{name: "HTTP/2 SETTINGS frame only, held", answer: held("\x00\x00\x00\x04\x00\x00\x00\x00\x00"), states: "unavailable", reason: identity.Malformed},
		{name: "TLS on the port", answer: func(c *conn) { _ = tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS12}).Handshake() }, atAccept: true, states: "unavailable"},
		{name: "TLS alert bytes", answer: send("\x15\x03\x01\x00\x02\x02\x46"), states: "unavailable"},
		{name: "ICY 200 OK", answer: send(strings.Replace(status("200 OK", email), "HTTP/1.1", "ICY", 1)), states: "unavailable", reason: identity.Malformed},

		{name: "chunked: size 0xffffffffffffffff", answer: send(chunked + "ffffffffffffffff\r\n" + email), states: "unavailable"},
		{name: "chunked: endless extensions", answer: endless(chunked+"1;", "extension"), states: "unavailable"},
		{name: "chunked: 1 byte chunks with 4 kB extensions", answer: endless(chunked, "1;"+strings.Repeat("e", 4<<10)+"\r\na\r\n"), states: "unavailable"},
		{name: "chunked: no last chunk, held", endpoint: "email", answer: held(fmt.Sprintf("%s%x\r\n%s\r\n", chunked, len(email), email)), states: "unavailable", hangs: true},
		{name: "chunked: no last chunk, closed", endpoint: "email", answer: send(fmt.Sprintf("%s%x\r\n%s\r\n", chunked, len(email), email)), states: "unavailable", reason: identity.Unreachable},
		{name: "TE chunked and Content-Length", endpoint: "email", answer: send(fmt.Sprintf("%sTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", head, len(email), email)), states: "match/unavailable"},
		{name: "two different Content-Length", answer: send(head + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), states: "unavailable", reason: identity.Malformed},
		{name: "Content-Length 9e18, closed", answer: send(length("9000000000000000000") + email), states: "unavailable"},
		{name: "Content-Length beyond int64", answer: send(length("99999999999999999999") + email), states: "unavailable", reason: identity.Malformed},
		{name: "Content-Length too long, closed", answer: send(length("1000") + email), states: "unavailable", reason: identity.Unreachable},

		{name: "64 MB of headers", answer: endless(head, "X-Header: "+strings.Repeat("y", 1000)+"\r\n"), states: "unavailable", reason: identity.Malformed},
		{name: "status line without an end", answer: endless("HTTP/1.1 200 ", "OK"), states: "unavailable", reason: identity.Malformed},
		{name: "slow headers, 1 byte a second", answer: drip("HTTP", "/1.1 200 OK\r\n"+strings.Repeat("X-Header: y\r\n", 20), tick), states: "unavailable", reason: identity.Timeout, hangs: true},
		{name: "header with NUL", answer: send(head + "X: a\x00b\r\nContent-Length: 3\r\n\r\nabc"), states: "unavailable"},
		{name: "header name with a space / folded", endpoint: "email", answer: send(head + "Content-Length: " + strconv.Itoa(len(email)) + "\r\nX Y: z\r\nX: a\r\n b\r\n\r\n" + email), states: "unavailable/match/mismatch"},

		{name: "gzip bomb: Content-Encoding gzip, 1 GB of zeros", answer: endless(head+"Content-Encoding: gzip\r\n\r\n"+gzipped(make([]byte, 1<<20)), "\x00"), states: "unavailable"},
		{name: "gzip of the right body", endpoint: "email", answer: send(head + "Content-Encoding: gzip\r\n\r\n" + gzipped([]byte(email))), states: "unavailable"},

		{name: "email: empty", endpoint: "email", answer: ok(""), states: "unavailable", reason: identity.Malformed},
		{name: "email: white space only", endpoint: "email", answer: ok(" \r\n\t "), states: "unavailable", reason: identity.Malformed},
		{name: "email: NUL at the end", endpoint: "email", answer: ok(email + "\x00"), states: "unavailable"},
		{name: "email: invalid UTF-8", endpoint: "email", answer: ok("app\xff@demo-project.iam.gserviceaccount.com"), states: "unavailable"},
		{name: "email: UTF-8 BOM before the right email", endpoint: "email", answer: ok("\ufeff" + email), states: "unavailable/match"},
		{name: "email: RTL override inside", endpoint: "email", answer: ok("app\u202e@demo-project.iam.gserviceaccount.com"), states: "unavailable"},
		{name: "email: zero width space", endpoint: "email", answer: ok("app\u200b@demo-project.iam.gserviceaccount.com"), states: "unavailable"},
		{name: "email: homograph: Cyrillic a", endpoint: "email", answer: ok("\u0430pp@demo-project.iam.gserviceaccount.com"), states: "unavailable/mismatch"},
		{name: "email: 10 kB long", endpoint: "email", answer: ok(strings.Repeat("a", 10<<10) + "@demo-project.iam.gserviceaccount.com"), states: "unavailable"},
		{name: "email: 1024 bytes long (longest accepted)", endpoint: "email", answer: ok(strings.Repeat("a", 1024-len(email)) + email), states: "mismatch/unavailable"},
		{name: "email: header injection CRLF", endpoint: "email", answer: ok(email + "\r\nX-Identity: " + other), states: "unavailable"},
		{name: "email: HTML/script", endpoint: "email", answer: ok("<script>alert(1)</script>" + email), states: "unavailable"},
		{name: "email: comma list with the expected one", endpoint: "email", answer: ok(other + "," + email), states: "unavailable"},
		{name: "email: JSON string", endpoint: "email", answer: ok(`"` + email + `"`), states: "unavailable"},
		{name: "email: trailing newline", endpoint: "email", answer: ok(email + "\n"), states: "match"},
		{name: "email: expected + domain suffix", endpoint: "email", answer: ok(email + ".example.com"), states: "mismatch"},
		{name: "email: node's default account", endpoint: "email", answer: ok(string(node)), states: "node_fallback"},
		{name: "email: other account", endpoint: "email", answer: ok(other), states: "mismatch"},
		{name: "email: 16 kB + 1 of spaces after the right email", endpoint: "email", answer: ok(email + strings.Repeat(" ", 16<<10+1)), states: "unavailable"},
		{name: "email: endless body at full speed (10 GB/s)", endpoint: "email", answer: endless(head+"\r\n", "a"), states: "unavailable", reason: identity.Malformed},

		{name: "token: expires_in 1e309", endpoint: "token", answer: tokenOf(`"expires_in":1e309,`), states: "unavailable"},
		{name: "token: expires_in negative", endpoint: "token", answer: tokenOf(`"expires_in":-1,`), states: "unavailable"},
		{name: "token: expires_in int64 max (overflow)", endpoint: "token", answer: tokenOf(`"expires_in":9223372036854775807,`), states: "match/unavailable"},
		{name: "token: expires_in 9223372037 (Duration overflow)", endpoint: "token", answer: tokenOf(`"expires_in":9223372037,`), states: "match/unavailable"},
		{name: "token: expires_in as a string", endpoint: "token", answer: tokenOf(`"expires_in":"3599",`), states: "unavailable/match"},
		{name: "token: expires_in as a float 3599.0", endpoint: "token", answer: tokenOf(`"expires_in":3599.0,`), states: "unavailable/match"},
		{name: "token: expires_in null", endpoint: "token", answer: tokenOf(`"expires_in":null,`), states: "unavailable", reason: identity.Malformed},
		{name: "token: expires_in missing", endpoint: "token", answer: tokenOf(""), states: "match"},
		{name: "token: duplicate keys", endpoint: "token", answer: tokenOf(`"expires_in":1,"expires_in":3599,"access_token":"` + token + `2",`), states: "match/unavailable"},
		{name: "token: trailing garbage", endpoint: "token", answer: ok(`{"access_token":"` + token + `","expires_in":3599,"token_type":"Bearer"} garbage`), states: "unavailable"},
		{name: "token: two documents", endpoint: "token", answer: ok(strings.Repeat(`{"access_token":"`+token+`","expires_in":3599,"token_type":"Bearer"}`, 2)), states: "unavailable"},
		{name: "token: JSON depth 100k (200 kB)", endpoint: "token", answer: ok(strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)), states: "unavailable"},
		{name: "token: JSON depth in an unknown key", endpoint: "token", answer: tokenOf(`"expires_in":3599,"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + ","), states: "match/unavailable"},
		{name: "token: access_token a number", endpoint: "token", answer: ok(`{"access_token":12345,"expires_in":3599,"token_type":"Bearer"}`), states: "unavailable"},
		{name: "token: access_token of one space", endpoint: "token", answer: ok(`{"access_token":" ","expires_in":3599,"token_type":"Bearer"}`), states: "unavailable/match"},
		{name: "token: keys in other case (ACCESS_TOKEN)", endpoint: "token", answer: ok(`{"ACCESS_TOKEN":"` + token + `","EXPIRES_IN":3599,"TOKEN_TYPE":"Bearer"}`), states: "unavailable/match"},
		{name: "token: array", endpoint: "token", answer: ok(`["` + token + `"]`), states: "unavailable"},
		{name: "token: 403 with IAM text", endpoint: "token", answer: send(status("403 Forbidden", "Unable to generate access token; IAM returned 403 Forbidden: Permission denied\n")), states: "token_denied"},
		{name: "token: 403 of a network policy proxy (no IAM text)", endpoint: "token", answer: send(status("403 Forbidden", "blocked")), states: "unavailable/token_denied"},
		{name: "token: 500 that echoes a token", endpoint: "token", answer: send(status("500 Oops", token)), states: "unavailable"},
		{name: "token: for another account (JWT email differs)", endpoint: "token", answer: ok(`{"access_token":"` + jwt + `","expires_in":3599,"token_type":"Bearer"}`), states: "mismatch/match"},

		{name: "email: 500 whose body is a token (mixed up proxy)", endpoint: "email", answer: send(status("500 Oops", "upstream said: "+token)), states: "unavailable"},
		{name: "email: 200 with a token before an at sign", endpoint: "email", answer: ok(token + "@demo-project.iam.gserviceaccount.com"), states: "unavailable", reason: identity.Malformed},
		{name: "machine-type: 400 whose body is a token; Server header is a token", endpoint: "machine-type", answer: send("HTTP/1.1 400 Bad Request\r\nServer: " + token + "\r\n\r\n" + token), states: "match/unavailable"},
		{name: "machine-type: HTML with machineTypes/ in it", endpoint: "machine-type", answer: ok("<html>machineTypes/</html>"), states: "match"},
		{name: "machine-type: NUL and 16 kB", endpoint: "machine-type", answer: ok("\x00" + strings.Repeat("x", 16<<10)), states: "match"},
		{name: "machine-type: never answers", endpoint: "machine-type", answer: held(""), states: "match", hangs: true},

		{name: "reset at accept", answer: reset(""), atAccept: true, states: "unavailable", reason: identity.Unreachable},
		{name: "reset in the status line", answer: reset("HTTP/1.1 2"), states: "unavailable", reason: identity.Unreachable},
		{name: "reset in the headers", answer: reset(head + "Content-Le"), states: "unavailable", reason: identity.Unreachable},
		{name: "reset in the body", answer: reset(length("1000") + email), states: "unavailable", reason: identity.Unreachable},
		{name: "reset after the last byte", endpoint: "email", answer: reset(status("200 OK", email)), states: "match/unavailable"},
		{name: "half close: FIN, and the socket is held", answer: func(c *conn) { _ = c.CloseWrite(); held("")(c) }, states: "unavailable", reason: identity.Unreachable},
		{name: "half answer, FIN, held", answer: func(c *conn) { send("HTTP/1.1 200 OK\r\nCont")(c); _ = c.CloseWrite(); held("")(c) }, states: "unavailable", reason: identity.Unreachable},
		{name: "body a byte every 300 ms", answer: drip(length(strconv.Itoa(len(email))), email, tick), states: "unavailable", reason: identity.Timeout, hangs: true},
		{name: "data after the answer (pipelined second answer)", endpoint: "email", answer: send(status("200 OK", email) + status("200 OK", other)), states: "match"},
		{name: "all answers after 2.9 s, timeout 3 s, other account", endpoint: "email", answer: late(200*time.Millisecond, ok(other)), states: "mismatch"},
		{name: "answers after 3.1 s, timeout 3 s", answer: late(time.Second, ok(email)), states: "unavailable", reason: identity.Timeout, hangs: true},
	}
}

func gzipped(b []byte) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.String()
}

func (h hostile) serve(t *testing.T) *rawServer {
	t.Helper()
	if h.atAccept {
		return serveRaw(t, nil, h.answer)
	}
	answers := map[string]answer{}
	for _, endpoint := range []string{"email", "token", "machine-type"} {
		if h.endpoint == "" || h.endpoint == endpoint {
			answers[endpoint] = h.answer
		}
	}
	return serveRaw(t, answers, nil)
}

// bounded runs f, and fails the test if that takes much longer than it may.
func bounded[T any](t *testing.T, limit time.Duration, f func() T) T {
	t.Helper()
	const slack = 5 * time.Second // for a machine that is busy
	done := make(chan T, 1)
	began := time.Now()
	go func() { done <- f() }()
	select {
	case v := <-done:
		if took := time.Since(began); took > limit+slack {
			t.Errorf("it took %s, want at most %s", took, limit)
		}
		return v
	case <-time.After(limit + 2*slack):
		t.Fatalf("no end after %s, want one after %s", limit+2*slack, limit)
	}
	panic("unreachable")
}

func TestOneProbeOfAHostileServer(t *testing.T) {
	for _, h := range hostileAnswers() {
		t.Run(h.name, func(t *testing.T) {
			s := h.serve(t)
			before := goleak.IgnoreCurrent()
			timeout, most := time.Minute, time.Duration(0)
			if h.hangs {
				timeout, most = 400*time.Millisecond, 400*time.Millisecond
			}
			o := bounded(t, most, func() identity.Observation { return probe(t, s.host(), timeout) })
			v := identity.Judge(identity.Expect(app), identity.DefaultNodeAccounts(), o)
			if !slices.Contains(strings.Split(h.states, "/"), string(v.State)) {
				t.Errorf("%s because %s, want %s", v.State, v.Why, h.states)
			}
			if h.reason != "" {
				request := map[string]identity.Request{"": o.Email.Request, "email": o.Email.Request, "token": o.Token.Request, "machine-type": o.Server.Request}[h.endpoint]
				if request.Failure == nil || request.Failure.Reason != h.reason {
					t.Errorf("failure %v, want %s", request.Failure, h.reason)
				}
			}
			for _, r := range o.Requests() {
				if printed := fmt.Sprintf("%+v %+v %+v", o, r, r.Failure) + v.Why; strings.Contains(printed, token[8:20]) || strings.Contains(printed, "eyJ") {
					t.Errorf("a token is shown: %s", printed)
				}
			}
			if !s.isLeft() {
				t.Error("a connection is open after the probe")
			}
			if err := goleak.Find(before); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestACancelledProbeOfAHostileServerEndsAtOnce(t *testing.T) {
	for _, h := range hostileAnswers() {
		if !h.hangs {
			continue
		}
		t.Run(h.name, func(t *testing.T) {
			s := h.serve(t)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-s.reached
				cancel()
			}()
			o := bounded(t, 0, func() identity.Observation { return metadata.New(s.host(), time.Hour, "test/1").Probe(ctx, true) })
			if strings.HasPrefix(reasons(o), "ok, ok, ok") {
				t.Errorf("observation %+v, want a failure", o)
			}
			if !s.isLeft() {
				t.Error("a connection is open after the probe")
			}
		})
	}
}

func TestClaimsOfAHostileServer(t *testing.T) {
	const timeout = 300 * time.Millisecond
	for name, a := range map[string]answer{
		"identity: 101 upgrade silence, with a mismatch": held("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
		"identity: never answers, with a mismatch":       held(""),
	} {
		t.Run(name, func(t *testing.T) {
			s := serveRaw(t, map[string]answer{"identity": a}, nil)
			claims := bounded(t, timeout, func() identity.Claims { return metadata.New(s.host(), timeout, "test/1").Claims(t.Context()) })
			if claims.Server != identity.ServerUnknown {
				t.Errorf("claims %+v, want none", claims)
			}
			if !s.isLeft() {
				t.Error("a connection is open after the request")
			}
		})
	}
}

func TestProbesLeaveNoFileDescriptors(t *testing.T) {
	s := serveRaw(t, map[string]answer{"token": held("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")}, nil)
	count := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("the file descriptors of the process are not known:", err)
		}
		return len(files)
	}
	before := count()
	const probes = 20
	for range probes {
		metadata.New(s.host(), 10*time.Millisecond, "test/1").Probe(t.Context(), true)
	}
	if !s.isLeft() {
		t.Error("a connection is open after the probes")
	}
	if after := count(); after > before+probes/2 {
		t.Errorf("%d file descriptors after %d probes, %d before", after, probes, before)
	}
}

func BenchmarkProbe(b *testing.B) {
	s := serveRaw(b, nil, nil)
	p := metadata.New(s.host(), 10*time.Second, "test/1")
	b.ReportAllocs()
	for b.Loop() {
		if o := p.Probe(b.Context(), true); !o.Email.OK() || !o.Token.OK() {
			b.Fatalf("%+v", o)
		}
	}
}
