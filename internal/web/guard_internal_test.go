package web

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// fake is a connection from an address, which notes that it is closed.
type fake struct {
	net.Conn
	from   string
	closed bool
}

func (f *fake) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.ParseIP(f.from), Port: 1}
}
func (f *fake) Close() error               { f.closed = true; return nil }
func (f *fake) Read(b []byte) (int, error) { return len(b), nil }

// queue is a listener with connections that came.
type queue struct{ conns []*fake }

func (q *queue) Accept() (net.Conn, error) {
	if len(q.conns) == 0 {
		return nil, io.EOF
	}
	next := q.conns[0]
	q.conns = q.conns[1:]
	return next, nil
}
func (*queue) Close() error   { return nil }
func (*queue) Addr() net.Addr { return &net.TCPAddr{} }

func TestTheIdlestConnectionMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		l := &connections{Listener: q, now: time.Now, ready: func() {}, open: map[*connection]bool{}}
		accept := func(from string) (*connection, *fake) {
			t.Helper()
			f := &fake{from: from}
			q.conns = append(q.conns, f)
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			return c.(*connection), f
		}
		_, lonely := accept("192.0.2.1") // the oldest, and the only one of its address
		time.Sleep(time.Millisecond)
		busy, busyConn := accept("192.0.2.2")
		l.changed(busy, http.StateActive)
		time.Sleep(time.Millisecond)
		silent, silentConn := accept("192.0.2.2")
		time.Sleep(time.Millisecond)
		for range maxConnections - 3 {
			c, _ := accept("192.0.2.2")
			_, _ = c.Read(make([]byte, 1)) // in its handshake
		}
		if !l.crowded() {
			t.Error("all connections are taken, and it is not crowded")
		}
		began := time.Now()
		_, last := accept("192.0.2.3")
		if took := time.Since(began); took < quiet-5*time.Millisecond || took > quiet || lonely.closed || !silentConn.closed || last.closed {
			t.Errorf("after %s, the silent one closed: %v; want it cut off when it was quiet for %s", took, silentConn.closed, quiet)
		}
		_ = silent.Close() // by the server, later
		if len(l.open) != maxConnections {
			t.Errorf("%d are open, want %d", len(l.open), maxConnections)
		}
		accept("192.0.2.3")
		if took := time.Since(began); took < slow-10*time.Millisecond || !busyConn.closed || lonely.closed {
			t.Errorf("after %s: slow one closed %v, the one of an address with one closed %v; want the slow one of the address with the most", took, busyConn.closed, lonely.closed)
		}
		_ = busy
	})
}

// TLS hides the connection in another.
func TestRealConnectionsAreCounted(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &connections{Listener: inner, now: time.Now, ready: func() {}, open: map[*connection]bool{}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Listener, server.Config.ConnState = l, l.changed
	server.StartTLS()
	defer server.Close()
	answer, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	state := func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		var states []string
		for c := range l.open {
			states = append(states, c.state.String())
		}
		return strings.Join(states, " ")
	}
	await(t, func() string { return state() }, "idle")
	server.Client().CloseIdleConnections()
	await(t, func() string { return state() }, "")
}

func await(t *testing.T, get func() string, want string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); get() != want; time.Sleep(time.Millisecond) { // another goroutine
		if time.Now().After(deadline) {
			t.Fatalf("%q, want %q", get(), want)
		}
	}
}

// guarded is a handler behind the guard, and how often it panicked.
func guarded(next http.Handler, log io.Writer) (*guard, *atomic.Int64) {
	var panics atomic.Int64
	l := &connections{now: time.Now, open: map[*connection]bool{}}
	return &guard{next, l, newPasswords(), func() { panics.Add(1) }, slog.New(slog.NewTextHandler(log, nil))}, &panics
}

func ask(h http.Handler, from, user, password string) int {
	r := httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody)
	r.RemoteAddr = from + ":1"
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func TestGuessingKeepsNobodyOut(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	var comparing, most, compared atomic.Int64
	current := atomic.Pointer[[]byte]{}
	current.Store(&hash)
	g, _ := guarded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, ok := r.BasicAuth()
		if ok {
			compared.Add(1)
			most.Store(max(most.Load(), comparing.Add(1)))
			ok = bcrypt.CompareHashAndPassword(*current.Load(), []byte(password)) == nil
			comparing.Add(-1)
		}
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}), io.Discard)
	if code := ask(g, "192.0.2.1", "prometheus", "secret"); code != http.StatusOK {
		t.Fatalf("%d for the right password", code)
	}
	var all sync.WaitGroup
	var refused atomic.Int64
	for i := range 100 {
		all.Go(func() {
			if ask(g, "192.0.2.2", "prometheus", strconv.Itoa(i)) == http.StatusTooManyRequests {
				refused.Add(1)
			}
		})
	}
	all.Wait()
	if compared.Load() > 1+attemptsAtOnce+2 || refused.Load() < 90 || most.Load() != 1 {
		t.Errorf("%d of 100 guesses were compared, %d at once, and %d refused; want %d, 1 and the rest", compared.Load()-1, most.Load(), refused.Load(), attemptsAtOnce)
	}
	for _, from := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
		if code := ask(g, from, "prometheus", "secret"); code != http.StatusOK {
			t.Errorf("%d for the right password from %s, while others guess", code, from)
		}
	}
	if code := ask(g, "192.0.2.2", "", ""); code != http.StatusUnauthorized {
		t.Errorf("%d without a password, want that of the toolkit", code)
	}
	other, _ := bcrypt.GenerateFromPassword([]byte("changed"), bcrypt.MinCost)
	current.Store(&other)
	if code := ask(g, "192.0.2.1", "prometheus", "secret"); code != http.StatusUnauthorized {
		t.Errorf("%d for a password that was changed", code)
	}
	if len(g.passwords.good) > 0 {
		t.Error("a password that was changed is still taken for right")
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	p := newPasswords()
	for i := range 100 {
		p.learn(p.sum(strconv.Itoa(i)))
	}
	if len(p.good) != credentialsRemembered || !p.known(p.sum("99")) || p.known(p.sum("1")) {
		t.Errorf("%d credentials are remembered, want the last %d", len(p.good), credentialsRemembered)
	}
	for i := range 5000 {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.RemoteAddr = fmt.Sprintf("[fd00::%x]:1", i)
		if p.attempt(r) {
			p.done()
		}
	}
	if len(p.attempts) > addressesRemembered {
		t.Errorf("%d addresses are remembered, want at most %d", len(p.attempts), addressesRemembered)
	}
}

func TestAPanicIsAnErrorAndACount(t *testing.T) {
	var log bytes.Buffer
	g, panics := guarded(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a mistake") }), &log)
	server := httptest.NewServer(g)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	defer server.Close()
	if answer, err := http.Get(server.URL + "/metrics"); err == nil {
		t.Errorf("%s, want a connection that breaks", answer.Status)
		_ = answer.Body.Close()
	}
	if panics.Load() != 1 || !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "a mistake") {
		t.Errorf("%d panics counted, and logged %q", panics.Load(), &log)
	}
}

func TestScrapesAtTheSameTimeShareAPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rendered, atOnce, most atomic.Int64
		s := newScrapes(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rendered.Add(1)
			most.Store(max(most.Load(), atOnce.Add(1)))
			time.Sleep(1500 * time.Millisecond)
			atOnce.Add(-1)
			w.Header().Set("X-Form", r.Header.Get("Accept"))
			fmt.Fprint(w, "page")
		}))
		scrape := func(accept string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody)
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			return w
		}
		var all sync.WaitGroup
		for range 100 {
			for _, accept := range []string{"a", "b", "c"} {
				all.Go(func() {
					if w := scrape(accept); w.Code != http.StatusOK || w.Body.String() != "page" || w.Header().Get("X-Form") != accept {
						t.Errorf("%d %q in the form %q, want %q", w.Code, w.Body, w.Header().Get("X-Form"), accept)
					}
				})
			}
		}
		all.Wait()
		if rendered.Load() != 3 || most.Load() != rendersAtOnce {
			t.Errorf("%d pages for 300 scrapes of three forms, %d at once; want 3, and %d", rendered.Load(), most.Load(), rendersAtOnce)
		}
		for i := range 20 {
			all.Go(func() { scrape(strconv.Itoa(i)) })
		}
		time.Sleep(10 * time.Millisecond)
		began := time.Now()
		if w := scrape("late"); w.Code != http.StatusServiceUnavailable || time.Since(began) != 5*time.Second {
			t.Errorf("%d after %s, want 503 after 5s", w.Code, time.Since(began))
		}
		all.Wait()
	})
}

func TestTheStatusHasNoPublicName(t *testing.T) {
	h := ours([]string{"agents.example.com"}, func(http.ResponseWriter, *http.Request) {})
	for host, want := range map[string]int{
		"10.4.0.7:10988": 200, "[fd00::7]:10988": 200, "localhost:10988": 200, "agent": 200, "agent.ns.svc": 200, "agent.ns.svc.cluster.local:80": 200,
		"node.c.project.internal": 200, "agents.example.com": 200, "Agents.Example.com.": 200,
		"evil.example": 421, "10.4.0.7.evil.example": 421, "svc": 200, "localhost.evil.example": 421, "": 200,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Host = host
		w := httptest.NewRecorder()
		h(w, r)
		if w.Code != want || want == 421 && !strings.Contains(w.Body.String(), "WI_WEB_HOSTS") {
			t.Errorf("%q: %d %q, want %d", host, w.Code, w.Body, want)
		}
	}
}

func TestLogLinesOfOthersAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := newSeldom(slog.New(slog.NewTextHandler(&log, nil))).With("a", "b")
		for range 1000 {
			l.Error("broken")
		}
		time.Sleep(time.Second)
		l.Error("broken")
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 11 || !strings.Contains(lines[10], "lines_left_out_before=990") || !strings.Contains(lines[0], "a=b") {
			t.Errorf("%d lines, of which the last is %q; want 11, and how many were left out", len(lines), lines[len(lines)-1])
		}
	})
}
