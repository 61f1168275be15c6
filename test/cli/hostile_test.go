package cli_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// leak is a token where none belongs.
const leak = "ya29.c.b0AXv0zTPqLeakedLeakedLeaked0123456789"

const upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

// reply is what a server sends to one request; held keeps the connection open after it.
type reply struct {
	text string
	held bool
}

func says(status, body string) reply {
	return reply{text: fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)}
}

func ok(body string) reply { return says("200 OK", body) }

// inTurns gives one reply after the other, again and again.
func inTurns(replies ...reply) func(int) reply {
	return func(n int) reply { return replies[n%len(replies)] }
}

// peer is a metadata server on a bare socket. It answers as GKE's does, but for the
// endpoints that are hostile.
type peer struct {
	listener net.Listener
	wait     sync.WaitGroup

	mu      sync.Mutex
	hostile map[string]func(n int) reply // by endpoint: n counts its requests
	asked   map[string]int
}

func listenAsPeer(t testing.TB) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{listener: l, asked: map[string]int{}}
	p.wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wait.Go(func() { p.serve(c) })
		}
	})
	return p
}

// close ends once every client has closed its connections.
func (p *peer) close() {
	_ = p.listener.Close()
	p.wait.Wait()
}

func (p *peer) is(hostile map[string]func(int) reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hostile, p.asked = hostile, map[string]int{}
}

func (p *peer) serve(c net.Conn) {
	defer c.Close()
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	endpoint := path.Base(r.URL.Path)
	p.mu.Lock()
	answer := p.hostile[endpoint]
	n := p.asked[endpoint]
	p.asked[endpoint]++
	p.mu.Unlock()
	switch {
	case answer != nil:
		one := answer(n)
		_, _ = io.WriteString(c, one.text)
		if one.held {
			_, _ = io.Copy(io.Discard, c)
		}
	case endpoint == "email":
		_, _ = io.WriteString(c, ok(app).text)
	case endpoint == "token":
		_, _ = io.WriteString(c, ok(`{"access_token":"`+secret+`","expires_in":3599,"token_type":"Bearer"}`).text)
	default:
		_, _ = io.WriteString(c, says("404 Not Found", "Not Found").text)
	}
}

// everywhere is the same hostility of every endpoint.
func everywhere(f func(int) reply) map[string]func(int) reply {
	return map[string]func(int) reply{"email": f, "token": f, "machine-type": f, "identity": f}
}

// hostilities are the rows of the hostile answers that only several probes, or the
// end of the process, can show. Those that one probe shows are in internal/metadata.
var hostilities = []struct {
	name    string
	answers map[string]func(int) reply
	states  []string
}{
	{"101 with Upgrade header, then silence (all)", everywhere(inTurns(reply{upgrade, true})), []string{"unavailable"}},
	{"101 with Upgrade, silence, token only", map[string]func(int) reply{"token": inTurns(reply{upgrade, true})}, []string{"unavailable"}},
	{"101 with Upgrade, silence, machine-type only", map[string]func(int) reply{"machine-type": inTurns(reply{upgrade, true})}, []string{"match", "unavailable"}},
	{"identity: 101 upgrade silence, with a mismatch", map[string]func(int) reply{"email": inTurns(ok(other)), "identity": inTurns(reply{upgrade, true})}, []string{"mismatch"}},
	{"identity: never answers, with a mismatch", map[string]func(int) reply{"email": inTurns(ok(other)), "identity": inTurns(reply{"", true})}, []string{"mismatch"}},
	{"silence", everywhere(inTurns(reply{"", true})), []string{"unavailable"}},
	{"half answer, held", everywhere(inTurns(reply{"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", true})), []string{"unavailable"}},

	{"email: two wrong accounts in turns", map[string]func(int) reply{"email": inTurns(ok(other), ok("second@demo-project.iam.gserviceaccount.com"))}, []string{"mismatch"}},
	{"email: another one at each request (cardinality)", map[string]func(int) reply{"email": func(n int) reply { return ok(fmt.Sprintf("a%d@demo-project.iam.gserviceaccount.com", n)) }}, []string{"mismatch"}},
	{"email: node account and foreign account in turns", map[string]func(int) reply{"email": inTurns(ok(node), ok(other))}, []string{"mismatch", "node_fallback"}},
	{"node account always, machine-type 404 / timeout in turns", map[string]func(int) reply{"email": inTurns(ok(node)), "machine-type": inTurns(says("404 Not Found", ""), reply{"", true})}, []string{"node_fallback"}},
	{"other account always, machine-type 404 / 500 in turns", map[string]func(int) reply{"email": inTurns(ok(other)), "machine-type": inTurns(says("404 Not Found", ""), says("500 No", ""))}, []string{"mismatch"}},
	{"email 500 always, machine-type 404 / 500 in turns", map[string]func(int) reply{"email": inTurns(says("500 No", "")), "machine-type": inTurns(says("404 Not Found", ""), says("500 No", ""))}, []string{"unavailable"}},
	{"no two answers of a kind", map[string]func(int) reply{"email": inTurns(ok(other), says("500 No", ""))}, []string{"unavailable"}},
	{"right and wrong email in turns by request", map[string]func(int) reply{"email": inTurns(ok(app), ok(other))}, []string{"match"}},
	{"right email and 500 in turns by request", map[string]func(int) reply{"email": inTurns(ok(app), says("500 No", ""))}, []string{"match", "unavailable"}},

	{"email: 500 whose body is a token (mixed up proxy)", map[string]func(int) reply{"email": inTurns(says("500 No", leak))}, []string{"unavailable"}},
	{"machine-type: 400 whose body is a token; Server header is a token", map[string]func(int) reply{
		"machine-type": inTurns(reply{text: "HTTP/1.1 400 No\r\nServer: " + leak + "\r\nContent-Length: " + strconv.Itoa(len(leak)) + "\r\n\r\n" + leak}),
	}, []string{"match", "unavailable"}},
	{"token: expires_in 9223372037 (Duration overflow)", map[string]func(int) reply{"token": inTurns(ok(`{"access_token":"x","token_type":"Bearer","expires_in":9223372037}`))}, []string{"match"}},
	{"token: no expires_in", map[string]func(int) reply{"token": inTurns(ok(`{"access_token":"x","token_type":"Bearer"}`))}, []string{"match"}},
}

// Whatever the server does, the state says so, nothing secret shows, the process
// lives and ends when it is told to, and the state is right again when the server is.
func TestHostileMetadataServers(t *testing.T) {
	for _, tt := range hostilities {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := listenAsPeer(t)
			defer p.close()
			s := newScene(t)
			defer s.end()
			address, err := s.agent("AGENT", "WI_METADATA_HOST="+p.listener.Addr().String(), "WI_EXPECTED_EMAILS="+app)
			if err != nil {
				t.Fatal(err)
			}
			agent := hostileAgent{t, "http://" + address}
			agent.becomes("match")
			p.is(tt.answers)
			agent.becomes(tt.states...)
			agent.stays(2*time.Second, tt.states...)
			for _, page := range []string{"/", "/status.json", "/metrics"} {
				if text := agent.page(page); strings.Contains(text, leak[:12]) || strings.Contains(text, secret) {
					t.Errorf("%s shows a token:\n%s", page, text)
				}
			}
			p.is(nil)
			agent.becomes("match")
			metrics := agent.page("/metrics")
			if n := strings.Count(metrics, "\nworkload_identity_"); n > 120 {
				t.Errorf("%d series", n)
			}
			for _, series := range []string{"probe_panics_total", "token_expiry_timestamp_seconds"} {
				if v, ok := number(metrics, "workload_identity_"+series); series == "probe_panics_total" && v != 0 || ok && v < 0 {
					t.Errorf("%s is %v", series, v)
				}
			}
			p.is(tt.answers)
			agent.becomes(tt.states...)
			program := s.processes["AGENT"]
			if err := program.signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if !program.wait(10 * time.Second) {
				t.Fatal("SIGTERM does not end the process")
			}
			if took := program.endedAt.Sub(program.signalled); took > time.Second && took > time.Second+20*slowness() {
				t.Errorf("the process ended %s after SIGTERM, want less than a second", took)
			}
			if log := program.stdout.String() + program.stderr.String(); strings.Contains(log, leak[:12]) || strings.Contains(log, "panic") {
				t.Errorf("the log has a token or a panic:\n%s", log)
			}

			p.is(tt.answers)
			check, err := s.launch("CHECK", slices.Concat(s.environment, []string{"WI_METADATA_HOST=" + p.listener.Addr().String()}), "workload-identity-exporter", "check", "-expect", app, "-output", "json")
			if err != nil {
				t.Fatal(err)
			}
			if !check.wait(30 * time.Second) {
				t.Fatal("check does not end")
			}
			check.expected = true
			if out := check.stdout.String() + check.stderr.String(); strings.Contains(out, leak[:12]) || !strings.Contains(out, `"state"`) {
				t.Errorf("check printed a token, or no state:\n%s", out)
			}
		})
	}
}

// hostileAgent is an agent as it is seen from outside.
type hostileAgent struct {
	t       *testing.T
	address string
}

func (a hostileAgent) page(path string) string {
	a.t.Helper()
	_, body, err := query{}.ask(a.address + path)
	if err != nil {
		a.t.Fatal(err)
	}
	return body
}

func (a hostileAgent) state() string {
	a.t.Helper()
	var st struct{ State string }
	if err := json.Unmarshal([]byte(a.page("/status.json")), &st); err != nil {
		a.t.Fatal(err)
	}
	return st.State
}

func (a hostileAgent) becomes(states ...string) {
	a.t.Helper()
	now := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if now = a.state(); slices.Contains(states, now) {
			return
		}
	}
	a.t.Fatalf("after %s the state is %s, want %v\n%s", patience, now, states, a.page("/status.json"))
}

func (a hostileAgent) stays(d time.Duration, states ...string) {
	a.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if now := a.state(); !slices.Contains(states, now) {
			a.t.Fatalf("the state became %s, want %v\n%s", now, states, a.page("/status.json"))
		}
	}
}

// number is the value of a series without labels.
func number(metrics, series string) (value float64, ok bool) {
	for line := range strings.Lines(metrics) {
		if _, err := fmt.Sscanf(line, series+" %g", &value); err == nil {
			return value, true
		}
	}
	return 0, false
}

// A process that is stopped and continued again and again finds its requests past
// their deadline, which says nothing about the server.
func TestASuspendedProcessStatesNothingFalse(t *testing.T) {
	t.Parallel()
	p := listenAsPeer(t)
	defer p.close()
	s := newScene(t)
	defer s.end()
	address, err := s.agent("AGENT", "WI_METADATA_HOST="+p.listener.Addr().String(), "WI_EXPECTED_EMAILS="+app)
	if err != nil {
		t.Fatal(err)
	}
	agent := hostileAgent{t, "http://" + address}
	agent.becomes("match")
	pid := s.processes["AGENT"].command.Process
	// Stop it while it probes: the server answers after 100 ms.
	slow := func(endpoint string) func(int) reply {
		return func(int) reply {
			time.Sleep(100 * time.Millisecond) // of the server
			switch endpoint {
			case "email":
				return ok(app)
			case "token":
				return ok(`{"access_token":"` + secret + `","expires_in":3599,"token_type":"Bearer"}`)
			}
			return says("404 Not Found", "")
		}
	}
	p.is(map[string]func(int) reply{"email": slow("email"), "token": slow("token"), "machine-type": slow("")})
	for range 8 {
		if err := pid.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second) // of the stop
		if err := pid.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // that it runs
	}
	agent.becomes("match")
	var st struct{ Changes []struct{ To string } }
	if err := json.Unmarshal([]byte(agent.page("/status.json")), &st); err != nil {
		t.Fatal(err)
	}
	for _, c := range st.Changes {
		if c.To != "match" {
			t.Errorf("it stated %s\n%s", c.To, agent.page("/status.json"))
		}
	}
}
