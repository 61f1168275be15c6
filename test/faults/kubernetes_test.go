package faults_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// refusal is a wrong answer of the API server.
type refusal struct {
	name   string
	answer func(net.Conn)
	reason string
	// unhandshaken: it comes instead of the TLS handshake.
	unhandshaken bool
}

func kubernetesRows() []row {
	var rows []row
	for _, f := range refusals() {
		for _, p := range phases {
			rows = append(rows, f.row(p))
		}
	}
	return append(rows, moreKubernetesRows()...)
}

// phases are when the API server goes wrong.
var phases = []struct {
	name   string
	begins func(*stage)
	ends   func(*stage)
}{
	{"start", func(*stage) {}, func(*stage) {}},
	{"running", accuse, acquit},
	{"annotation changed", func(s *stage) { s.api.annotate(other); accuse(s) }, func(*stage) {}},
	{"token rotated", func(s *stage) { s.api.rotateToken(true); accuse(s) }, acquit},
	{"CA rotated", func(s *stage) { s.api.rotateCA(true); accuse(s) }, acquit},
}

// accuse gives reason to read the ServiceAccount: an identity that it may explain.
func accuse(s *stage) { s.metadata.gives(other) }

func acquit(s *stage) { s.metadata.gives(app) }

func (f refusal) row(p struct {
	name   string
	begins func(*stage)
	ends   func(*stage)
},
) row {
	return row{
		name: p.name + ": " + f.name, states: "unknown_expectation", failures: []string{"serviceaccounts/" + f.reason},
		fromStart: p.name == "start",
		prepare:   (*stage).serveKubernetes,
		begins: func(s *stage) {
			if f.unhandshaken {
				s.api.interrupts(f.answer)
			} else {
				s.api.answers(f.answer)
			}
			p.begins(s)
		},
		ends: func(s *stage) {
			s.api.interrupts(nil)
			s.api.answers(nil)
			p.ends(s)
		},
		enough: func(s *stage) bool { return s.api.read(2) && s.metadata.probed(3, "email") },
	}
}

func refusals() []refusal {
	says := func(text string) func(net.Conn) {
		return func(c net.Conn) { _, _ = io.WriteString(c, text) }
	}
	silent := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = io.WriteString(c, text)
			_, _ = io.Copy(io.Discard, c)
		}
	}
	endless := func(text, again string) func(net.Conn) {
		again = strings.Repeat(again, 1+(32<<10)/len(again))
		return func(c net.Conn) {
			_, err := io.WriteString(c, text)
			for err == nil {
				_, err = io.WriteString(c, again)
			}
		}
	}
	trickle := func(text, again string) func(net.Conn) {
		return func(c net.Conn) {
			_, err := io.WriteString(c, text)
			for err == nil {
				_, err = io.WriteString(c, again)
				time.Sleep(50 * time.Millisecond) // of the server
			}
		}
	}
	var zeros bytes.Buffer
	z := gzip.NewWriter(&zeros)
	_, _ = z.Write(make([]byte, 64<<20))
	_ = z.Close()
	const json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	return []refusal{
		{name: "101 and silence", answer: silent("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), reason: "unavailable"},
		{name: "silence", answer: silent(""), reason: "timeout"},
		{name: "silence instead of TLS", answer: silent(""), reason: "timeout", unhandshaken: true},
		{name: "HTTP instead of TLS", answer: says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), reason: "unavailable", unhandshaken: true},
		{name: "reset at accept", answer: func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, reason: "unavailable", unhandshaken: true},
		{name: "half a body", answer: silent(json + "Content-Length: 100\r\n\r\n{"), reason: "timeout"},
		{name: "a body that trickles", answer: trickle(json+"Content-Length: 1000000\r\n\r\n", " "), reason: "timeout"},
		{name: "a body for ever", answer: endless(json+"\r\n", " "), reason: "unavailable"},
		{name: "headers for ever", answer: endless("HTTP/1.1 200 OK\r\n", "X-Y: z\r\n"), reason: "unavailable"},
		{name: "100 Continue for ever", answer: endless("", "HTTP/1.1 100 Continue\r\n\r\n"), reason: "unavailable"},
		{name: "JSON of depth 1,000,000", answer: says(object("200 OK", `{"metadata":{"x":`+strings.Repeat("[", 1_000_000))), reason: "unavailable"},
		{name: "64 MiB of zeros, compressed", answer: says("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: " + strconv.Itoa(zeros.Len()) + "\r\n\r\n" + zeros.String()), reason: "unavailable"},
		{name: "HTML", answer: says(object("200 OK", "<html><script>alert(1)</script>")), reason: "unavailable"},
		{name: "302 to another host", answer: says("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n"), reason: "unavailable"},
		{name: "401", answer: says(object("401 Unauthorized", "{}")), reason: "forbidden"},
		{name: "403", answer: says(object("403 Forbidden", "{}")), reason: "forbidden"},
		{name: "404", answer: says(object("404 Not Found", "{}")), reason: "not_found"},
		{name: "429, Retry-After a day", answer: says("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n"), reason: "throttled"},
		{name: "503, Retry-After a day", answer: says("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n"), reason: "unavailable"},
		{name: "500 with a token, ANSI and HTML", answer: says(object("500 No", leak+"\x1b[31m\u202e<script>alert(1)</script>"+strings.Repeat("x ", 50_000))), reason: "unavailable"},
		{name: "a Status with a token in its message", answer: says(object("500 No", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"`+leak+`\u001b[31m<script>alert(1)</script>","code":500}`)), reason: "unavailable"},
	}
}

// moreKubernetesRows are those that are not a wrong answer in some phase.
func moreKubernetesRows() []row {
	rows := []row{
		{
			name: "the server wants the next token before it is mounted", states: "unknown_expectation", failures: []string{"serviceaccounts/forbidden"}, prepare: (*stage).serveKubernetes,
			begins: func(s *stage) { s.api.answers(nil); s.api.rotateToken(false); accuse(s) },
			ends:   func(s *stage) { s.api.mountToken(); acquit(s) },
			enough: func(s *stage) bool { return s.api.read(2) },
		},
		{
			name: "the server has a certificate of the next CA before it is mounted", states: "unknown_expectation", failures: []string{"serviceaccounts/unavailable"}, prepare: (*stage).serveKubernetes,
			begins: func(s *stage) { s.api.answers(nil); s.api.rotateCA(false); accuse(s) },
			ends:   func(s *stage) { s.api.mountCA(); acquit(s) },
			enough: func(s *stage) bool { return s.api.read(2) },
		},
		{
			name: "a token of 1 MB", states: "unknown_expectation", prepare: (*stage).serveKubernetes,
			begins: func(s *stage) { s.api.answers(nil); s.api.write("token", strings.Repeat("x", 1<<20)); accuse(s) },
			ends:   func(s *stage) { s.api.mountToken(); acquit(s) },
			enough: func(s *stage) bool { return s.metadata.probed(6, "email") },
		},
		{
			name: "a token of two lines", states: "unknown_expectation", prepare: (*stage).serveKubernetes,
			begins: func(s *stage) { s.api.answers(nil); s.api.write("token", "a\r\nX-Header: b"); accuse(s) },
			ends:   func(s *stage) { s.api.mountToken(); acquit(s) },
			enough: func(s *stage) bool { return s.metadata.probed(6, "email") },
		},
		{
			name: "no token", states: "unknown_expectation", fromStart: true, prepare: (*stage).serveKubernetes,
			begins: func(s *stage) { s.api.write("token", "") },
			ends:   func(s *stage) { s.api.mountToken() },
			enough: func(s *stage) bool { return s.metadata.probed(4, "email") },
		},
		{
			name: "a CA that is none", states: "unknown_expectation", fromStart: true, prepare: (*stage).serveKubernetes,
			begins: func(s *stage) { s.api.answers(nil); s.api.write("ca.crt", "-----BEGIN CERTIFICATE-----\nnonsense\n") },
			ends:   func(s *stage) { s.api.mountCA() },
			enough: func(s *stage) bool { return s.metadata.probed(4, "email") },
		},
		{
			name: "a wrong identity is told in Events", states: "mismatch", prepare: (*stage).serveKubernetes,
			begins: func(s *stage) { s.api.answers(nil); accuse(s) },
			ends:   acquit,
			enough: func(s *stage) bool { return s.api.told(other) },
		},
		{
			name: "the VM's server answers", states: "node_fallback", prepare: (*stage).serveKubernetes,
			begins: func(s *stage) {
				s.metadata.gives(node)
				s.metadata.becomes(ok("projects/1/machineTypes/e2-medium"), "machine-type")
			},
			ends:   func(s *stage) { s.metadata.heals() },
			enough: func(s *stage) bool { return s.api.told("VM metadata server") },
		},
		{
			name: "the VM's server answers, and the API server is silent", states: "node_fallback", prepare: (*stage).serveKubernetes,
			begins: func(s *stage) {
				s.api.interrupts(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
				s.metadata.gives(node)
				s.metadata.becomes(ok("projects/1/machineTypes/e2-medium"), "machine-type")
			},
			ends:   func(s *stage) { s.api.interrupts(nil); s.metadata.heals() },
			enough: func(s *stage) bool { return s.metadata.probed(4, "email") },
		},
	}
	for _, a := range []struct{ name, value string }{
		{"HTML", "<script>alert(1)</script>"},
		{"ANSI and RTL", "\u202e\u001b[31m" + app},
		{"a token", leak},
		{"1 MB", strings.Repeat("a", 1<<20) + "@x.iam.gserviceaccount.com"},
		{"a member of IAM", "serviceAccount:" + app},
		{"a list", app + "," + other},
		{"a glob", "*@demo-project.iam.gserviceaccount.com"},
		{"a principal", "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/subject/ns/demo/sa/app"},
		{"a workload pool", "demo-project.svc.id.goog"},
		{"with a Cyrillic a", "\u0430pp@demo-project.iam.gserviceaccount.com"},
	} {
		rows = append(rows, row{
			name: "an annotation that is " + a.name, states: "unknown_expectation", fromStart: true, prepare: (*stage).serveKubernetes,
			begins: func(s *stage) { s.api.annotate(a.value) },
			ends:   func(s *stage) { s.api.annotate(app) },
			enough: func(s *stage) bool { return s.metadata.probed(4, "email") },
		})
	}
	return rows
}

// first is what the first Event about the state says, by which people are woken.
func (a *apiServer) first(state string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		var event struct{ Reason, Message string }
		if json.Unmarshal([]byte(e), &event) == nil && event.Reason == "WorkloadIdentity"+camel(state) {
			return event.Message
		}
	}
	return ""
}

// camel is the state as Events have it: NodeFallback.
func camel(state string) string {
	var name strings.Builder
	for word := range strings.SplitSeq(state, "_") {
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return name.String()
}

var suspected = regexp.MustCompile(`(Possible|Cause \([a-z ]+\)): .*?\(([a-z0-9_]+)\)`)

// causes are those that the Event has, the most probable one first.
func causes(event string) string {
	var all []string
	for _, m := range suspected.FindAllStringSubmatch(event, -1) {
		if m[1] == "Possible" {
			m[2] += "?"
		}
		all = append(all, "`"+m[2]+"`")
	}
	return strings.Join(all, ", ")
}

// told reports whether an Event says so.
func (a *apiServer) told(words string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if strings.Contains(e, words) {
			return true
		}
	}
	return false
}
