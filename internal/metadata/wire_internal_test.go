package metadata

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// wire is a metadata server on pipes, in the time of a synctest bubble.
type wire struct {
	// answers are bytes by the last part of the path; what has none is answered rightly.
	answers map[string][]byte
	// manner is what comes behind them.
	manner map[string]uint8

	serving sync.WaitGroup
	mu      sync.Mutex
	most    int // bytes that one connection took
}

// The manners of a server that has sent its answer.
const (
	closes uint8 = iota
	hangs
	repeats
	drips
	manners
)

// pipe is the client's end. A closed one fails as a socket does.
type pipe struct{ net.Conn }

func (p pipe) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = net.ErrClosed
	}
	return n, err
}

func (w *wire) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	w.serving.Go(func() {
		defer server.Close()
		r, err := http.ReadRequest(bufio.NewReader(server))
		if err != nil {
			return
		}
		endpoint := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		w.mu.Lock()
		answer, manner := w.answers[endpoint], w.manner[endpoint]
		if w.answers == nil {
			answer, manner = rightly(endpoint), closes
		}
		w.mu.Unlock()
		sent := send(server, answer, manner)
		w.mu.Lock()
		w.most = max(w.most, sent)
		w.mu.Unlock()
	})
	return pipe{client}, nil
}

// send returns how many bytes were taken.
func send(c net.Conn, answer []byte, manner uint8) int {
	piece := answer
	if manner == drips {
		piece = answer[:min(1, len(answer))]
	}
	for sent := 0; ; {
		n, err := c.Write(piece)
		sent += n
		switch {
		case err != nil || manner == closes || len(piece) == 0:
			return sent
		case manner == hangs:
			_, _ = io.Copy(io.Discard, c)
			return sent
		case manner == drips:
			if sent == len(answer) {
				return sent
			}
			piece = answer[sent : sent+1]
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func rightly(endpoint string) []byte {
	body := map[string]string{
		"email": string(fuzzed),
		"token": `{"access_token":"` + secret + `","expires_in":3599,"token_type":"Bearer"}`,
	}[endpoint]
	if body == "" {
		return []byte("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nNot Found")
	}
	return fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", goodness, len(body), body)
}

// timed fails if a probe takes longer than it may.
type timed struct {
	*Prober
	t *testing.T
}

func (p timed) Probe(ctx context.Context, withToken bool) identity.Observation {
	began := time.Now()
	o := p.Prober.Probe(ctx, withToken)
	if took := time.Since(began); took > p.timeout {
		p.t.Errorf("a probe took %s, want at most %s", took, p.timeout)
	}
	for e, r := range o.Requests() {
		checkRequest(p.t, e, r)
	}
	return o
}

// saysFuzzed reports whether the answer is, by another reader of HTTP, a whole one of
// status 200 with the expected email.
func saysFuzzed(answer []byte) bool {
	for r := bufio.NewReader(bytes.NewReader(answer)); ; {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return false
		}
		if res.StatusCode >= 100 && res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		body, _ := io.ReadAll(io.LimitReader(res.Body, maxBody))
		return res.StatusCode == http.StatusOK && isFuzzed(body)
	}
}

// FuzzWire is the bytes of the answers against the whole agent but for its HTTP server:
// what it states, exports, reports and logs, and whether it comes back.
func FuzzWire(f *testing.F) {
	ok := func(body string) []byte {
		return fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", goodness, len(body), body)
	}
	// With the mark, or the fuzzer would make parts of the secret that nobody can tell for any.
	token := bytes.ReplaceAll(rightly("token"), []byte(secret), []byte(mark))
	right := [3][]byte{rightly("email"), token, rightly("machine-type")}
	f.Add(right[0], right[1], right[2], []byte{}, uint16(0))
	f.Add(ok("1-compute@developer.gserviceaccount.com"), right[1], ok("projects/1/machineTypes/e2-small"), ok("e30.e30.e30"), uint16(0))
	f.Add(ok("other@demo-project.iam.gserviceaccount.com"), ok("{}"), right[2], ok("@T@"), uint16(0))
	f.Add(ok("@T@"), []byte("HTTP/1.1 403 Forbidden\r\nServer: @T@\r\n\r\nIAM returned 403 @T@"), ok("@T@"), ok("@T@.@T@.@T@"), uint16(0))
	f.Add([]byte("HTTP/1.1 500 @T@\r\nVia: @T@\r\n\r\n@T@"), right[1], []byte("HTTP/1.1 302 Found\r\nLocation: /@T@\r\n\r\n"), []byte{}, uint16(0x55))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\n\r\nx"), []byte("HTTP/1.1 101 X\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nX: y\r\n"), uint16(0xaa))
	f.Add(right[0], right[1], right[2], []byte{}, uint16(0xff))
	f.Add(ok(string(fuzzed)+".example.com"), right[1], ok("@M@"), []byte(goodness+"X: @M@"), uint16(0))
	f.Add([]byte("\x16\x03\x01"), []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"), []byte{}, []byte{}, uint16(0))
	f.Add(ok(string(fuzzed)+"\x00"), ok("\ufeff{}"), ok("projects//machineTypes/"), []byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, email, token, machine, claims []byte, manner uint16) {
		if leaks(string(bytes.Join([][]byte{email, token, machine, claims}, nil))) != "" {
			t.Skip("a part of the secret without the mark, as of an earlier corpus")
		}
		synctest.Test(t, func(t *testing.T) {
			w := &wire{
				answers: map[string][]byte{"email": planted(email), "token": planted(token), "machine-type": planted(machine), "identity": planted(claims)},
				manner:  map[string]uint8{},
			}
			for i, e := range []string{"email", "token", "machine-type", "identity"} {
				w.manner[e] = uint8(manner>>(2*i)) % manners
			}
			mayMatch := saysFuzzed(w.answers["email"])
			against(t, w, mayMatch)
		})
	})
}

// against runs an agent, first with the answers and then with the right ones.
func against(t *testing.T, w *wire, mayMatch bool) {
	t.Helper()
	const interval = 10 * time.Second
	var logged bytes.Buffer
	p := New(DefaultHost, 3*time.Second, "test/1")
	p.dial = w.dial
	counters, registry := exporter.NewCounters(), prometheus.NewPedanticRegistry()
	changed := func(identity.State, *agent.Snapshot) {}
	a := agent.New(agent.Options{
		Prober: timed{p, t}, Recorder: counters, Nodes: identity.DefaultNodeAccounts(), Changed: changed,
		Logger: slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Expect: func(context.Context) (identity.Reading, error) {
			return identity.Reading{Expectation: identity.Expectation{Accepted: []identity.Pattern{identity.Exactly(fuzzed)}, Source: identity.SourceAnnotation}}, nil
		},
		Claims:   func(ctx context.Context) identity.Claims { c := p.Claims(ctx); checkClaims(t, c); return c },
		Interval: interval, Timeout: p.timeout, TokenInterval: time.Minute, ExpectationInterval: 10 * time.Minute,
		Random: func() float64 { return 0.5 },
	})
	registry.MustRegister(counters, exporter.NewGauges(a.Snapshot, exporter.Build{}, DefaultHost, nil))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })

	time.Sleep(2 * interval)
	if state := scrape(t, registry, a); state == identity.Match && !mayMatch {
		t.Errorf("match, and the email is not the expected one")
	}
	w.mu.Lock()
	w.answers = nil
	w.mu.Unlock()
	time.Sleep(3 * interval)
	if state := scrape(t, registry, a); state != identity.Match {
		t.Errorf("%s 30 seconds after all is right again, want match", state)
	}
	cancel()
	running.Wait()
	w.serving.Wait()

	if most := maxHeader + maxFramed; w.most > most {
		t.Errorf("%d bytes were read of one connection, want at most %d", w.most, most)
	}
	if part := leaks(logged.String()); part != "" {
		t.Errorf("%q of the secret is in the log", part)
	}
	if n := logged.Len(); n > 64<<10 {
		t.Errorf("%d bytes of log in 50 seconds", n)
	}
}

// scrape looks at all that is shown, and returns the state.
func scrape(t *testing.T, registry *prometheus.Registry, a *agent.Agent) identity.State {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series, holds := 0, 0.0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			series++
			if h := m.GetHistogram(); h != nil {
				series += len(h.GetBucket()) + 2
			}
			if family.GetName() == "workload_identity_state" {
				holds += m.GetGauge().GetValue()
			}
			for _, l := range m.GetLabel() {
				if !slices.Contains([]string{"email", "expected", "observed"}, l.GetName()) && strings.Trim(l.GetValue(), "abcdefghijklmnopqrstuvwxyz0123456789_.") != "" {
					t.Errorf("%s{%s=%q} is none of our words", family.GetName(), l.GetName(), l.GetValue())
				}
				if v := l.GetValue(); !utf8.ValidString(v) || len(v) > 512 || leaks(v) != "" {
					t.Errorf("%s{%s=%q}", family.GetName(), l.GetName(), v)
				}
			}
		}
	}
	if series > 96 || holds != 1 {
		t.Errorf("%d series, want at most 96; %v states hold, want 1", series, holds)
	}
	r := report.New(a.Snapshot(), report.About{})
	var text bytes.Buffer
	r.Text(&text, false)
	encoded, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{text.String(), string(encoded), r.Summary(), fmt.Sprintf("%+v", *a.Snapshot())} {
		if part := leaks(shown); part != "" {
			t.Errorf("%q of the secret is shown in %s", part, shown)
		}
	}
	if n := len(r.Summary()); n > 1024 {
		t.Errorf("the summary has %d bytes, want at most 1024", n)
	}
	return r.State
}
