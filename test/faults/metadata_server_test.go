package faults_test

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// answer is what a server does with a connection when it has read the request for the
// endpoint, which is the n-th. It returns when it is done, or when the client has closed.
type answer func(c *conn, endpoint string, n int)

// conn is the server's end of a connection.
type conn struct {
	*net.TCPConn
	server *metadataServer
}

// metadataServer is one on a bare socket. It answers rightly what no other answer is
// given for.
type metadataServer struct {
	listener net.Listener
	token    string
	jwt      string
	running  sync.WaitGroup
	closed   chan struct{}

	mu       sync.Mutex
	email    string
	answers  map[string]answer // by the endpoint
	atAccept answer            // instead of reading the request
	asked    map[string]int    // by the endpoint, since the fault began
	reason   string            // of a request that gets one of the answers, if that is known
	given    map[string]int    // answers by ENDPOINT/REASON, which is empty for a right one
	accepted int
	unread   int // connections without a request
	open     map[net.Conn]time.Time
	longest  time.Duration // that one was open
}

func listenAsMetadata(s *stage) *metadataServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	m := &metadataServer{listener: l, token: s.secret(), email: app, closed: make(chan struct{}), asked: map[string]int{}, given: map[string]int{}, open: map[net.Conn]time.Time{}}
	m.jwt = jsonWebToken(`{"aud":"workload-identity-exporter","email":"` + app + `"}`)
	s.secrets = append(s.secrets, m.jwt)
	m.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.open[c] = time.Now()
			m.accepted++
			m.mu.Unlock()
			m.running.Go(func() {
				m.serve(&conn{c.(*net.TCPConn), m})
				c.Close()
				m.mu.Lock()
				m.longest = max(m.longest, time.Since(m.open[c]))
				delete(m.open, c)
				m.mu.Unlock()
			})
		}
	})
	s.Cleanup(func() {
		close(m.closed)
		l.Close()
		m.mu.Lock()
		for c := range m.open {
			c.Close()
		}
		m.mu.Unlock()
		m.running.Wait()
	})
	return m
}

func (m *metadataServer) address() string { return m.listener.Addr().String() }

func (m *metadataServer) serve(c *conn) {
	m.mu.Lock()
	atAccept, n := m.atAccept, m.accepted
	m.mu.Unlock()
	if atAccept != nil {
		atAccept(c, "", n)
		return
	}
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		m.mu.Lock()
		m.unread++
		m.mu.Unlock()
		return
	}
	endpoint := path.Base(r.URL.Path)
	m.mu.Lock()
	a := m.answers[endpoint]
	n = m.asked[endpoint]
	m.asked[endpoint]++
	reason := m.reason
	if a == nil {
		a, reason = right, ""
	}
	m.given[endpoint+"/"+reason]++
	m.mu.Unlock()
	a(c, endpoint, n)
}

// becomes changes what the endpoints answer.
func (m *metadataServer) becomes(a answer, endpoints ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answer(a, endpoints)
}

func (m *metadataServer) answer(a answer, endpoints []string) {
	answers := map[string]answer{}
	maps.Copy(answers, m.answers)
	for _, e := range endpoints {
		answers[e] = a
	}
	m.answers = answers
}

// fails changes what the endpoints answer, by which their requests fail for the reason.
func (m *metadataServer) fails(reason string, a answer, endpoints ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reason = reason
	m.answer(a, endpoints)
}

func (m *metadataServer) interrupts(a answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.atAccept = a
}

// held is how long the client kept a connection open at most.
func (m *metadataServer) held() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	longest := m.longest
	for _, since := range m.open {
		longest = max(longest, time.Since(since))
	}
	return longest
}

func (m *metadataServer) gives(email string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.email = email
}

func (m *metadataServer) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked, m.accepted = map[string]int{}, 0
}

// heals makes all answers right.
func (m *metadataServer) heals() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.email, m.answers, m.atAccept, m.reason = app, nil, nil, ""
}

// probed reports whether each endpoint was asked so often since the fault began.
func (m *metadataServer) probed(n int, endpoints ...string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.atAccept != nil {
		return m.accepted >= 3*n
	}
	for _, e := range endpoints {
		if m.asked[e] < n {
			return false
		}
	}
	return true
}

// status is the status line and the body of the right answer.
func (m *metadataServer) right(endpoint string) (status, body string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch endpoint {
	case "email":
		return "200 OK", m.email
	case "token":
		return "200 OK", `{"access_token":"` + m.token + `","expires_in":3599,"token_type":"Bearer"}`
	case "identity":
		return "200 OK", m.jwt
	}
	return "404 Not Found", "Not Found"
}

func jsonWebToken(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("not a signature of anybody"))
}

// Answers.

func message(status, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nServer: GKE Metadata Server\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

// right is the answer of GKE's metadata server.
func right(c *conn, endpoint string, _ int) {
	_, _ = io.WriteString(c, message(c.server.right(endpoint)))
}

// code is the status with the body of the right answer.
func code(status string) answer {
	return func(c *conn, endpoint string, _ int) {
		_, body := c.server.right(endpoint)
		_, _ = io.WriteString(c, message(status, body))
	}
}

func says(status, body string) answer { return send(message(status, body)) }

func ok(body string) answer { return says("200 OK", body) }

// send writes the bytes and closes the connection. In them, BODY is the right body, LENGTH
// its length and HEX the same as a chunk has it.
func send(text string) answer {
	return func(c *conn, endpoint string, _ int) { c.write(endpoint, text) }
}

func (c *conn) write(endpoint, text string) {
	_, body := c.server.right(endpoint)
	text = strings.NewReplacer("BODY", body, "LENGTH", strconv.Itoa(len(body)), "HEX", fmt.Sprintf("%x", len(body))).Replace(text)
	_, _ = io.WriteString(c, text)
}

// held writes the bytes and says nothing more until the client has closed.
func held(text string) answer {
	return func(c *conn, endpoint string, _ int) {
		c.write(endpoint, text)
		_, _ = io.Copy(io.Discard, c)
	}
}

// reset writes the bytes and resets the connection.
func reset(text string) answer {
	return func(c *conn, endpoint string, _ int) {
		c.write(endpoint, text)
		_ = c.SetLinger(0)
	}
}

// finished writes the bytes, ends its side, and holds the connection.
func finished(text string) answer {
	return func(c *conn, endpoint string, _ int) {
		c.write(endpoint, text)
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
}

// endless writes the first bytes, and the others again and again.
func endless(first, again string) answer {
	again = strings.Repeat(again, 1+(32<<10)/len(again))
	return func(c *conn, endpoint string, _ int) {
		c.write(endpoint, first)
		for err := error(nil); err == nil; {
			_, err = io.WriteString(c, again)
		}
	}
}

// drip writes the first bytes, and others one by one.
func drip(first, others string, every time.Duration) answer {
	return func(c *conn, endpoint string, _ int) {
		c.write(endpoint, first)
		for i := 0; i < len(others) && c.wait(every); i++ {
			if _, err := io.WriteString(c, others[i:i+1]); err != nil {
				return
			}
		}
	}
}

// late answers after a while.
func late(after time.Duration, a answer) answer {
	return func(c *conn, endpoint string, n int) {
		if c.wait(after) {
			a(c, endpoint, n)
		}
	}
}

// inTurns gives one answer after the other, again and again.
func inTurns(all ...answer) answer {
	return func(c *conn, endpoint string, n int) { all[n%len(all)](c, endpoint, n) }
}

// wait reports whether the server was not closed meanwhile.
func (c *conn) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.server.closed:
		return false
	}
}
