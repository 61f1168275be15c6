package faults_test

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"
)

var endpoints = []string{"email", "token", "machine-type", "identity"}

// kind is a wrong answer that any endpoint can give.
type kind struct {
	name   string
	answer answer
	// reason is that of each request that gets it.
	reason string
	// at are the endpoints of which a row is made; empty for all of them, and "all".
	at []string
	// atAccept: the request is not read, so that no endpoint is known.
	atAccept bool
	// states are right instead of those that the endpoint implies.
	states map[string]string
}

func metadataRows() []row {
	var rows []row
	for _, k := range kinds() {
		at := k.at
		switch {
		case k.atAccept:
			at = []string{"all"}
		case at == nil:
			at = slices.Concat([]string{"all"}, endpoints)
		}
		for _, e := range at {
			rows = append(rows, k.row(e))
		}
	}
	return rows
}

// row is the kind at the endpoint.
func (k kind) row(at string) row {
	asked, names, needed := []string{at}, []string{at}, 4
	r := row{name: at + ": " + k.name, prepare: (*stage).serveKubernetes}
	switch at {
	case "all":
		asked, names = endpoints[:3], []string{"email", "token", "server"}
		r.states = "unavailable"
	case "email", "token":
		r.states = "unavailable"
	case "machine-type":
		r.states, names = "match", []string{"server"}
	case "identity":
		// It is asked once about each wrong identity.
		r.states, names, needed = "mismatch", nil, 1
	}
	if s := k.states[at]; s != "" {
		r.states = s
	}
	r.told = !strings.Contains(r.states, "/") && r.states != "match"
	if k.reason != "" {
		r.failures = []string{}
		for _, n := range names {
			r.failures = append(r.failures, n+"/"+k.reason)
		}
	}
	r.begins = func(s *stage) {
		switch {
		case k.atAccept:
			s.metadata.interrupts(k.answer)
		case at == "identity":
			s.metadata.becomes(k.answer, at)
			s.metadata.gives(other)
		case at == "all":
			s.metadata.becomes(k.answer, endpoints...)
		default:
			s.metadata.becomes(k.answer, at)
		}
	}
	r.enough = func(s *stage) bool {
		return s.metadata.probed(needed, asked...) && (!r.told || s.api.first(r.states) != "")
	}
	return r
}

// leak is a token where none belongs.
const leak = "ya29.c.b0AXv0zTPqLeakedHere9fK2mQ7wLr5tYz81"

// only is an answer of one endpoint.
func only(endpoint, name, states, reason string, a answer) kind {
	return kind{name: name, answer: a, reason: reason, at: []string{endpoint}, states: map[string]string{endpoint: states}}
}

func kinds() []kind {
	return slices.Concat(statuses(), wire(), emails(), tokens(), machineTypes(), identities())
}

// statuses are answers with the right body and a wrong status.
func statuses() []kind {
	everywhere := func(status, reason string) kind {
		return kind{name: status, answer: code(status), reason: reason}
	}
	all := func(status, reason string) kind {
		return kind{name: status, answer: code(status), reason: reason, at: []string{"all"}}
	}
	redirects := func(status, location string) kind {
		return kind{name: status + " to " + location, answer: send("HTTP/1.1 " + status + "\r\nLocation: " + location + "\r\nContent-Length: 0\r\n\r\n"), reason: "redirect", at: []string{"all", "email", "token"}}
	}
	forbidden := func(status, body string, states map[string]string) kind {
		return kind{name: status + " " + body, answer: says(status, body), reason: "denied", at: []string{"email", "token"}, states: states}
	}
	denied := map[string]string{"token": "token_denied"}
	return []kind{
		{name: "101 and silence", answer: held("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), reason: "malformed"},
		{name: "101 without Upgrade, held", answer: held("HTTP/1.1 101 Switching Protocols\r\n\r\n"), reason: "malformed"},
		{name: "101 and a byte now and then", answer: drip("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", strings.Repeat("x", 100), 60*time.Millisecond), reason: "malformed"},
		{name: "100 Continue for ever", answer: endless("", "HTTP/1.1 100 Continue\r\n\r\n"), reason: "malformed"},
		{name: "100 Continue now and then", answer: drip("", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20), 5*time.Millisecond), reason: "timeout", at: []string{"all", "email"}},
		{name: "103 for ever with headers of 8 kB", answer: endless("", "HTTP/1.1 103 Early Hints\r\nLink: "+strings.Repeat("x", 8<<10)+"\r\n\r\n"), reason: "malformed"},
		{name: "102 and silence", answer: held("HTTP/1.1 102 Processing\r\n\r\n"), reason: "timeout", at: []string{"all", "email"}},
		{name: "100 and the right answer", answer: send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: LENGTH\r\n\r\nBODY"), at: []string{"email", "token"}, states: map[string]string{"email": "match", "token": "match"}},
		everywhere("203 Non-Authoritative Information", "malformed"),
		everywhere("204 No Content", "malformed"),
		everywhere("206 Partial Content", "malformed"),
		all("201 Created", "malformed"), all("202 Accepted", "malformed"), all("205 Reset Content", "malformed"), all("207 Multi-Status", "malformed"), all("226 IM Used", "malformed"), all("299 Whatever", "malformed"),
		all("300 Multiple Choices", "redirect"), all("304 Not Modified", "redirect"), all("305 Use Proxy", "redirect"),
		redirects("301 Moved Permanently", "/computeMetadata/v1/instance/service-accounts/default/email"),
		redirects("302 Found", "http://192.0.2.1/"),
		redirects("303 See Other", "file:///etc/passwd"),
		redirects("307 Temporary Redirect", "https://127.0.0.1:1/"),
		redirects("308 Permanent Redirect", "//"),
		all("400 Bad Request", "malformed"), all("402 Payment Required", "malformed"), all("405 Method Not Allowed", "malformed"), all("406 Not Acceptable", "malformed"),
		all("407 Proxy Authentication Required", "malformed"), all("409 Conflict", "malformed"), all("410 Gone", "malformed"), all("411 Length Required", "malformed"), all("412 Precondition Failed", "malformed"),
		all("413 Content Too Large", "malformed"), all("415 Unsupported Media Type", "malformed"), all("417 Expectation Failed", "malformed"), all("418 I'm a teapot", "malformed"), all("421 Misdirected Request", "malformed"),
		all("426 Upgrade Required", "malformed"), all("428 Precondition Required", "malformed"), all("431 Request Header Fields Too Large", "malformed"), all("451 Unavailable For Legal Reasons", "malformed"),
		all("404 Not Found", "not_found"),
		only("email", "404 Not Found", "unavailable", "not_found", says("404 Not Found", "Not Found")),
		only("token", "404 Not Found", "unavailable", "not_found", says("404 Not Found", "Not Found")),
		only("token", "404 of IAM", "token_denied", "no_service_account", says("404 Not Found", "Unable to generate access token; IAM returned 404 Not Found: Not found; Gaia id not found for email "+app)),
		{name: "401 Unauthorized", answer: code("401 Unauthorized"), reason: "denied", at: []string{"all", "email", "token"}, states: denied},
		forbidden("403 Forbidden", "Unable to generate access token; IAM returned 403 Forbidden: Permission denied", denied),
		forbidden("403 Forbidden", "blocked", map[string]string{"token": "token_denied/unavailable"}),
		{name: "429 Too Many Requests, Retry-After a day", answer: send("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n"), reason: "throttled", at: []string{"all", "email", "token"}},
		all("499 Client Closed Request", "throttled"),
		everywhere("500 Internal Server Error", "server_error"),
		all("501 Not Implemented", "server_error"), all("502 Bad Gateway", "server_error"), all("504 Gateway Timeout", "server_error"), all("505 HTTP Version Not Supported", "server_error"),
		all("507 Insufficient Storage", "server_error"), all("508 Loop Detected", "server_error"), all("511 Network Authentication Required", "server_error"), all("599 Whatever", "server_error"),
		{name: "503, Retry-After a day", answer: send("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n"), reason: "server_error", at: []string{"all", "token"}},
		all("600 Whatever", "malformed"), all("999 Whatever", "malformed"), all("-200 OK", "malformed"), all("000 OK", "malformed"), all("20 OK", "malformed"), all("2000 OK", "malformed"), all("0x0c8 OK", "malformed"), all("²00 OK", "malformed"),
	}
}

// wire are answers that are no good HTTP.
func wire() []kind {
	const (
		head    = "HTTP/1.1 200 OK\r\n"
		chunked = head + "Transfer-Encoding: chunked\r\n\r\n"
	)
	length := func(n string) string { return head + "Content-Length: " + n + "\r\n\r\n" }
	// An answer that is right for machine-type is a 404.
	answers := []string{"all", "email", "token", "identity"}
	either := map[string]string{"email": "match/unavailable", "token": "match/unavailable"}
	selfSigned := func(c *conn, _ string, _ int) {
		certificate, _, err := newCertificate(time.Now().Add(time.Hour))
		if err == nil {
			_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}).Handshake()
		}
	}
	return []kind{
		{name: "silence", answer: held(""), reason: "timeout"},
		{name: "closed without an answer", answer: send(""), reason: "unreachable"},
		{name: "reset at accept", answer: reset(""), atAccept: true, reason: "unreachable"},
		{name: "closed at accept", answer: send(""), atAccept: true, reason: "unreachable"},
		{name: "408 at accept", answer: send("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"), atAccept: true},
		{name: "a right answer at accept", answer: send(message("200 OK", app)), atAccept: true},
		{name: "reset in the status line", answer: reset("HTTP/1.1 2"), reason: "unreachable"},
		{name: "reset in the headers", answer: reset(head + "Content-Le"), reason: "unreachable"},
		{name: "reset in the body", answer: reset(length("1000") + "BODY"), reason: "unreachable"},
		{name: "reset after the last byte", answer: reset(length("LENGTH") + "BODY"), at: []string{"email", "token"}, states: either},
		{name: "half closed, held", answer: finished(""), reason: "unreachable"},
		{name: "half a header, half closed, held", answer: finished("HTTP/1.1 200 OK\r\nCont"), reason: "unreachable"},
		{name: "half a header, held", answer: held("HTTP/1.1 200 OK\r\nCont"), reason: "timeout"},
		{name: "half a body, held", answer: held(length("100") + "{"), reason: "timeout"},
		{name: "no end of the body, held", answer: held(head + "\r\nBODY"), reason: "timeout", at: answers},
		{name: "headers a byte now and then", answer: drip("HTTP", "/1.1 200 OK\r\n"+strings.Repeat("X-Header: y\r\n", 20), 60*time.Millisecond), reason: "timeout"},
		{name: "a body a byte now and then", answer: drip(length("40"), strings.Repeat("a", 40), 60*time.Millisecond), reason: "timeout"},
		{name: "right after the deadline", answer: late(600*time.Millisecond, right), reason: "timeout"},
		{name: "right shortly before the deadline", answer: late(300*time.Millisecond, right), at: []string{"all", "email", "token"}, states: map[string]string{"all": "match", "email": "match", "token": "match"}},

		{name: "HTTP/0.9", answer: send("BODY\n"), reason: "malformed"},
		{name: "HTTP/0.9 in the status line", answer: send("HTTP/0.9 200 OK\r\nContent-Length: LENGTH\r\n\r\nBODY"), reason: "malformed", at: []string{"all"}},
		{name: "HTTP/2.0 in the status line", answer: send("HTTP/2.0 200 OK\r\nContent-Length: LENGTH\r\n\r\nBODY"), reason: "malformed", at: []string{"all", "email"}},
		{name: "HTTP/1.0", answer: send("HTTP/1.0 200 OK\r\n\r\nBODY"), at: []string{"email", "token"}, states: map[string]string{"email": "match", "token": "match"}},
		{name: "the preface of HTTP/2", answer: send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), reason: "malformed"},
		{name: "SETTINGS of HTTP/2, held", answer: held("\x00\x00\x00\x04\x00\x00\x00\x00\x00"), reason: "malformed"},
		{name: "GOAWAY of HTTP/2", answer: send("\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), reason: "malformed", at: []string{"all"}},
		{name: "TLS on the port", answer: selfSigned, atAccept: true},
		{name: "an alert of TLS", answer: send("\x15\x03\x01\x00\x02\x02\x46"), reason: "malformed"},
		{name: "ICY 200 OK", answer: send("ICY 200 OK\r\nContent-Length: LENGTH\r\n\r\nBODY"), reason: "malformed", at: []string{"all", "email"}},
		{name: "a banner of SSH", answer: held("SSH-2.0-OpenSSH_9.9\r\n"), reason: "malformed", at: []string{"all", "email"}},
		{name: "a banner of SMTP", answer: held("220 mail.example.com ESMTP\r\n"), reason: "malformed", at: []string{"all"}},
		{name: "the request itself", answer: send("GET /computeMetadata/v1/instance/service-accounts/default/email HTTP/1.1\r\nHost: x\r\n\r\n"), reason: "malformed", at: []string{"all"}},
		{name: "random bytes for ever", answer: endless("", "\x93\x01\xfe\x00\xff\x7f"), reason: "malformed", at: []string{"all", "email", "token"}},
		{name: "NULs for ever", answer: endless("", "\x00"), reason: "malformed"},
		{name: "white space for ever", answer: endless("", " \r\n"), reason: "malformed", at: []string{"all"}},

		{name: "a chunk of 16 EiB", answer: send(chunked + "ffffffffffffffff\r\nBODY"), at: answers},
		{name: "a chunk of a negative size", answer: send(chunked + "-5\r\nBODY"), reason: "malformed", at: answers},
		{name: "a chunk size that overflows", answer: send(chunked + "1000000000000000f\r\nBODY"), reason: "malformed", at: []string{"all"}},
		{name: "extensions of a chunk for ever", answer: endless(chunked+"1;", "extension"), reason: "malformed", at: answers},
		{name: "chunks of a byte with extensions of 4 kB", answer: endless(chunked, "1;"+strings.Repeat("e", 4<<10)+"\r\na\r\n"), reason: "malformed", at: answers},
		{name: "chunks of a byte for ever", answer: endless(chunked, "1\r\na\r\n"), reason: "malformed", at: answers},
		{name: "trailers for ever", answer: endless(chunked+"HEX\r\nBODY\r\n0\r\n", "X-Trailer: y\r\n"), at: answers},
		{name: "no last chunk, held", answer: held(chunked + "HEX\r\nBODY\r\n"), reason: "timeout", at: answers},
		{name: "no last chunk, closed", answer: send(chunked + "HEX\r\nBODY\r\n"), reason: "unreachable", at: answers},
		{name: "chunked twice", answer: send(head + "Transfer-Encoding: chunked, chunked\r\n\r\nHEX\r\nBODY\r\n0\r\n\r\n"), reason: "malformed", at: []string{"all"}},
		{name: "Transfer-Encoding: gzip", answer: send(head + "Transfer-Encoding: gzip\r\n\r\nBODY"), reason: "malformed", at: []string{"all", "email"}},
		{name: "chunked, and a Content-Length", answer: send(head + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nHEX\r\nBODY\r\n0\r\n\r\n"), at: []string{"email", "token"}, states: either},
		{name: "two Content-Length", answer: send(head + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), reason: "malformed", at: answers},
		{name: "Content-Length of 9e18", answer: send(length("9000000000000000000") + "BODY"), at: answers},
		{name: "Content-Length beyond int64", answer: send(length("99999999999999999999") + "BODY"), reason: "malformed", at: answers},
		{name: "a negative Content-Length", answer: send(length("-1") + "BODY"), reason: "malformed", at: answers},
		{name: "Content-Length: 0x20", answer: send(length("0x20") + "BODY"), reason: "malformed", at: []string{"all"}},
		{name: "Content-Length: +5", answer: send(length("+5") + "BODY"), reason: "malformed", at: []string{"all"}},
		{name: "a Content-Length that is too long", answer: send(length("1000") + "BODY"), reason: "unreachable", at: answers},
		{name: "a Content-Length that is too short", answer: send(length("7") + "BODY"), reason: "malformed", at: []string{"email", "token"}},

		{name: "headers for ever", answer: endless(head, "X-Header: "+strings.Repeat("y", 1000)+"\r\n"), reason: "malformed"},
		{name: "one header for ever", answer: endless(head+"X-Header: ", "y"), reason: "malformed", at: answers},
		{name: "a status line for ever", answer: endless("HTTP/1.1 200 ", "OK"), reason: "malformed", at: answers},
		{name: "a header with NUL", answer: send(head + "X: a\x00b\r\nContent-Length: LENGTH\r\n\r\nBODY"), at: []string{"email", "token"}, states: either},
		{name: "a header without a colon", answer: send(head + "nonsense\r\nContent-Length: LENGTH\r\n\r\nBODY"), reason: "malformed", at: answers},
		{name: "a folded header, and a name with a space", answer: send(head + "Content-Length: LENGTH\r\nX Y: z\r\nX: a\r\n b\r\n\r\nBODY"), at: []string{"email", "token"}, states: either},
		{name: "Server: with ANSI, RTL, HTML and a token", answer: send("HTTP/1.1 400 No\r\nServer: \x1b[31m\u202e<script>alert(1)</script>" + leak + "\r\nContent-Length: 0\r\n\r\n"), reason: "malformed"},
		{name: "an error in HTML of 1 MB", answer: says("500 Oops", "<html><script>alert(1)</script>"+strings.Repeat("<b>", 350_000)), reason: "server_error"},
		{name: "an error with ANSI, RTL and NUL", answer: says("500 Oops", "\x1b]0;owned\x07\x1b[2J\u202e\u200b\x00 no"), reason: "server_error"},
		{name: "an error that is a token", answer: says("500 Oops", "upstream said: "+leak), reason: "server_error"},
		{name: "an error that is a JSON Web Token", answer: says("502 Oops", jsonWebToken(`{"aud":"x","email":"`+other+`"}`)), reason: "server_error"},
		{name: "an error that is half a token in base64", answer: says("500 Oops", base64.StdEncoding.EncodeToString([]byte(leak))), reason: "server_error", at: []string{"email"}},

		{name: "Content-Encoding: gzip, 1 GB of zeros", answer: endless(head+"Content-Encoding: gzip\r\n\r\n"+gzipped(make([]byte, 1<<20)), "\x00"), reason: "malformed", at: answers},
		{name: "gzip of the right email", answer: send(head + "Content-Encoding: gzip\r\n\r\n" + gzipped([]byte(app))), reason: "malformed", at: []string{"email"}},
		{name: "Content-Encoding: br, br, br", answer: send(head + "Content-Encoding: br, br, br\r\nContent-Length: 3\r\n\r\n\x01\x02\x03"), reason: "malformed", at: []string{"all", "email"}},
		{name: "a body for ever at full speed", answer: endless(head+"\r\n", "a"), reason: "malformed", at: answers},
		{name: "a body of 16 kB and a byte", answer: says("200 OK", strings.Repeat("a", 16<<10+1)), reason: "malformed", at: answers},
	}
}

func emails() []kind {
	body := func(name, states, reason, email string) kind { return only("email", name, states, reason, ok(email)) }
	malformed := func(name, email string) kind { return body(name, "unavailable", "malformed", email) }
	const second = "second@demo-project.iam.gserviceaccount.com"
	return []kind{
		malformed("empty", ""),
		malformed("white space", " \r\n\t "),
		malformed("NUL at the end", app+"\x00"),
		malformed("NUL inside", "app\x00@demo-project.iam.gserviceaccount.com"),
		malformed("no UTF-8", "app\xff@demo-project.iam.gserviceaccount.com"),
		malformed("no UTF-8 that is overlong", "\xc1\xa1pp@demo-project.iam.gserviceaccount.com"),
		body("a byte order mark before the right one", "unavailable/match", "", "\ufeff"+app),
		body("UTF-16", "unavailable", "malformed", "\xff\xfea\x00p\x00p\x00"),
		malformed("RTL override inside", "app\u202e@demo-project.iam.gserviceaccount.com"),
		malformed("RTL override that shows the right one", "\u202emoc.tnuoccaecivresg.mai.tcejorp-omed@ppa"),
		malformed("a zero width space", "app\u200b@demo-project.iam.gserviceaccount.com"),
		malformed("a soft hyphen", "app\u00ad@demo-project.iam.gserviceaccount.com"),
		malformed("a Cyrillic a", "\u0430pp@demo-project.iam.gserviceaccount.com"),
		malformed("the Kelvin sign, which folds to k", "app@demo-pro\u212aect.iam.gserviceaccount.com"),
		malformed("full width letters", "ａｐｐ@demo-project.iam.gserviceaccount.com"),
		malformed("combining accents", "a\u0301pp@demo-project.iam.gserviceaccount.com"),
		malformed("ANSI around the right one", "\x1b[8m"+app+"\x1b[0m"),
		malformed("ANSI that erases the line", other+"\x1b[2K\r"+app),
		malformed("a backspace", "apx\bp@demo-project.iam.gserviceaccount.com"),
		malformed("10 kB", strings.Repeat("a", 10<<10)+"@demo-project.iam.gserviceaccount.com"),
		malformed("1024 bytes", strings.Repeat("a", 1024-len(app))+app),
		body("256 bytes, the longest", "mismatch", "", strings.Repeat("a", 256-len(app))+app),
		malformed("257 bytes", strings.Repeat("a", 257-len(app))+app),
		malformed("a second line with a header", app+"\r\nX-Identity: "+other),
		malformed("two lines, the right one first", app+"\n"+other),
		malformed("two lines, the right one last", other+"\n"+app),
		malformed("HTML", "<script>alert(1)</script>"+app),
		malformed("a page to log in", "<html><title>Log in</title><form action=/login></form></html>"),
		malformed("a list with the right one", other+","+app),
		malformed("a list of white space", app+" "+other),
		malformed("JSON", `"`+app+`"`),
		malformed("a JSON object", `{"email":"`+app+`"}`),
		malformed("in angle brackets", "<"+app+">"),
		malformed("mailto:", "mailto:"+app),
		malformed("two at signs", "app@demo-project.iam.gserviceaccount.com@evil.example"),
		malformed("no at sign", "app.demo-project.iam.gserviceaccount.com"),
		malformed("no name before the at sign", "@demo-project.iam.gserviceaccount.com"),
		malformed("no domain", "app@"),
		malformed("a member of IAM", "serviceAccount:"+app),
		malformed("a member of a workload pool", "serviceAccount:demo-project.svc.id.goog[demo/app]"),
		malformed("a token before an at sign", leak+"@demo-project.iam.gserviceaccount.com"),
		malformed("a token", leak),
		malformed("a path of files", "../../../../etc/passwd"),
		malformed("a label of a metric", `app"} 1`+"\n"+`workload_identity_state{state="match`),
		malformed("a template", "{{.Token}}${jndi:ldap://192.0.2.1/}%s%n"),
		malformed("the glob of all", "*"),
		malformed("a glob", "*@demo-project.iam.gserviceaccount.com"),
		malformed("the right one, and 16 kB of spaces", app+strings.Repeat(" ", 16<<10)),
		body("the right one, and a line feed", "match", "", app+"\n"),
		body("the right one, and CR LF", "match", "", app+"\r\n"),
		body("the right one in upper case", "match", "", strings.ToUpper(app)),
		body("the right one, and another domain", "mismatch", "", app+".example.com"),
		body("the right one, and a dot", "mismatch/unavailable", "", app+"."),
		body("a letter more before the right one", "mismatch", "", "x"+app),
		body("a letter more of the project", "mismatch", "", "app@demo-projects.iam.gserviceaccount.com"),
		body("a tag", "mismatch/unavailable", "", "app+x@demo-project.iam.gserviceaccount.com"),
		body("another one", "mismatch", "", other),
		body("the node's default one", "node_fallback", "", node),
		body("an old default one of nodes", "node_fallback", "", "123456789012@project.gserviceaccount.com"),
		body("the workload pool", "unbound", "", "demo-project.svc.id.goog"),
		body("the principal", "unbound", "", "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/demo-project.svc.id.goog/subject/ns/demo/sa/app"),
		only("email", "another one shortly before the deadline", "mismatch", "", late(300*time.Millisecond, ok(other))),
		only("email", "two right answers on one connection", "match", "", send(message("200 OK", app)+message("200 OK", other))),
		only("email", "another one, and then the right one on the connection", "mismatch", "", send(message("200 OK", other)+message("200 OK", app))),

		only("email", "two wrong ones in turns", "mismatch", "", inTurns(ok(other), ok(second))),
		only("email", "another wrong one each time", "mismatch", "", func(c *conn, e string, n int) {
			ok(fmt.Sprintf("a%d@demo-project.iam.gserviceaccount.com", n))(c, e, n)
		}),
		only("email", "the node's and another one in turns", "mismatch/node_fallback", "", inTurns(ok(node), ok(other))),
		only("email", "another one and 500 in turns", "unavailable", "server_error", inTurns(ok(other), says("500 No", ""))),
		only("email", "another one and silence in turns", "unavailable", "timeout", inTurns(ok(other), held(""))),
		only("email", "500 and silence in turns", "unavailable", "", inTurns(says("500 No", ""), held(""))),
		only("email", "the right and another one in turns", "match", "", inTurns(right, ok(other))),
		only("email", "the right one and 500 in turns", "match/unavailable", "server_error", inTurns(right, says("500 No", ""))),
		only("email", "the right one once, and nine times another", "mismatch", "", inTurns(ok(other), ok(other), ok(other), ok(other), ok(other), ok(other), ok(other), ok(other), ok(other), right)),
	}
}

func tokens() []kind {
	of := func(name, states, fields string) kind {
		return only("token", name, states, "", func(c *conn, e string, n int) {
			ok(`{"access_token":"`+c.server.token+`",`+fields+`"token_type":"Bearer"}`)(c, e, n)
		})
	}
	body := func(name, states, text string) kind {
		reason := "malformed"
		if states != "unavailable" {
			reason = ""
		}
		return only("token", name, states, reason, ok(text))
	}
	const good = `{"access_token":"` + leak + `","expires_in":3599,"token_type":"Bearer"}`
	const either = "match/unavailable"
	return []kind{
		of("expires_in 1e309", "unavailable", `"expires_in":1e309,`),
		of("expires_in -1", "unavailable", `"expires_in":-1,`),
		of("expires_in 0", "unavailable", `"expires_in":0,`),
		of("expires_in of int64", either, `"expires_in":9223372036854775807,`),
		of("expires_in beyond int64", "unavailable", `"expires_in":92233720368547758070,`),
		of("expires_in that overflows a duration", either, `"expires_in":9223372037,`),
		of("expires_in a string", either, `"expires_in":"3599",`),
		of("expires_in a float", either, `"expires_in":3599.0,`),
		of("expires_in null", "unavailable", `"expires_in":null,`),
		of("expires_in a list", "unavailable", `"expires_in":[3599],`),
		of("no expires_in", "match", ""),
		of("expires_in 1", either, `"expires_in":1,`),
		of("keys twice", either, `"expires_in":1,"expires_in":3599,"access_token":"`+leak+`",`),
		of("depth of 5,000 in another key", either, `"expires_in":3599,"x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+","),
		body("garbage after it", "unavailable", good+" garbage"),
		body("two of them", "unavailable", good+good),
		body("half of it", "unavailable", good[:len(good)/2]),
		body("depth of 100,000", "unavailable", strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)),
		body("depth of 8,000 objects", "unavailable", strings.Repeat(`{"":`, 4000)),
		body("access_token a number", "unavailable", `{"access_token":12345,"expires_in":3599,"token_type":"Bearer"}`),
		body("access_token null", "unavailable", `{"access_token":null,"expires_in":3599,"token_type":"Bearer"}`),
		body("access_token empty", "unavailable", `{"access_token":"","expires_in":3599,"token_type":"Bearer"}`),
		body("access_token a space", either, `{"access_token":" ","expires_in":3599,"token_type":"Bearer"}`),
		body("no access_token", "unavailable", `{"expires_in":3599,"token_type":"Bearer"}`),
		body("keys in upper case", either, `{"ACCESS_TOKEN":"`+leak+`","EXPIRES_IN":3599,"TOKEN_TYPE":"Bearer"}`),
		body("token_type MAC", "unavailable", `{"access_token":"`+leak+`","expires_in":3599,"token_type":"MAC"}`),
		body("token_type HTML", "unavailable", `{"access_token":"`+leak+`","expires_in":3599,"token_type":"<script>alert(1)</script>"}`),
		body("a list", "unavailable", `["`+leak+`"]`),
		body("a string", "unavailable", `"`+leak+`"`),
		body("null", "unavailable", `null`),
		body("true", "unavailable", `true`),
		body("empty", "unavailable", ""),
		body("a byte order mark before it", "unavailable", "\ufeff"+good),
		body("JSON lines", "unavailable", good+"\n"+good),
		body("XML", "unavailable", "<token>"+leak+"</token>"),
		body("the token alone", "unavailable", leak),
		body("HTML", "unavailable", "<html><script>alert(1)</script></html>"),
		body("an error in JSON", "unavailable", `{"error":"invalid_grant","error_description":"`+leak+`"}`),
		body("of another account", "match/mismatch", `{"access_token":"`+jsonWebToken(`{"email":"`+other+`"}`)+`","expires_in":3599,"token_type":"Bearer"}`),
		only("token", "right and 500 in turns", either, "server_error", inTurns(right, says("500 No", ""))),
		only("token", "right and refused in turns", "match/token_denied/unavailable", "denied", inTurns(right, says("403 Forbidden", "IAM returned 403 Forbidden"))),
		only("token", "refused and 500 in turns", "token_denied/unavailable", "", inTurns(says("403 Forbidden", "IAM returned 403 Forbidden"), says("500 No", ""))),
		only("token", "refused in words of 100 kB", "token_denied", "denied", says("403 Forbidden", "IAM returned 403 Forbidden "+strings.Repeat(leak+" ", 2000))),
	}
}

func machineTypes() []kind {
	of := func(name string, a answer) kind { return only("machine-type", name, "match", "", a) }
	return []kind{
		of("HTML with machineTypes/ in it", ok("<html>machineTypes/</html>")),
		of("NUL and 16 kB", ok("\x00"+strings.Repeat("x", 16<<10))),
		of("empty", ok("")),
		of("a machine type", ok("projects/1/machineTypes/e2-medium")),
		of("a machine type, and HTML", ok("projects/1/machineTypes/<script>alert(1)</script>")),
		of("a token", ok(leak)),
		of("a machine type and 404 in turns", inTurns(ok("projects/1/machineTypes/e2-medium"), right)),
		of("silence and 404 in turns", inTurns(held(""), right)),
		of("403", says("403 Forbidden", "no")),
		of("429", says("429 Too Many Requests", "no")),
		of("404 of the VM's server", send("HTTP/1.1 404 Not Found\r\nServer: Metadata Server for VM\r\nContent-Length: 0\r\n\r\n")),
		of("404 of envoy", send("HTTP/1.1 404 Not Found\r\nserver: envoy\r\nContent-Length: 0\r\n\r\n")),
	}
}

func identities() []kind {
	of := func(name string, a answer) kind { return only("identity", name, "mismatch", "", a) }
	return []kind{
		of("no JSON Web Token", ok("not.a.token")),
		of("claims that are no base64", ok("a.%%%.c")),
		of("claims with HTML", ok(jsonWebToken(`{"aud":"x","email":"<script>alert(1)</script>","google":{"compute_engine":{"instance_name":"<script>alert(1)</script>\u001b[31m"}}}`))),
		of("claims of the VM's server", ok(jsonWebToken(`{"aud":"x","google":{"compute_engine":{"instance_name":"vm-1"}}}`))),
		of("claims of depth 3,000", ok(jsonWebToken(`{"aud":`+strings.Repeat("[", 3000)))),
		of("claims with a token as the machine", ok(jsonWebToken(`{"aud":"x","google":{"compute_engine":{"instance_name":"`+leak+`"}}}`))),
		of("a hundred thousand dots", ok(strings.Repeat(".", 100_000))),
		of("404", says("404 Not Found", "Not Found")),
	}
}

func gzipped(b []byte) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.String()
}
