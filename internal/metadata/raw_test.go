package metadata_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// answer is what a raw server does with a connection when it has read the request.
// It returns when it is done, or when the peer has closed the connection.
type answer func(c *conn)

// conn is the server's end of a connection.
type conn struct {
	*net.TCPConn
	closed chan struct{} // closed when the server is
}

// rawServer is a metadata server on a bare socket. It answers rightly what no
// other answer is given for.
type rawServer struct {
	listener net.Listener
	answers  map[string]answer // by the last part of the path
	atAccept answer            // instead of reading the request
	// reached is sent to when one of these begins.
	reached chan struct{}

	closed      chan struct{}
	accepting   sync.WaitGroup
	connections sync.WaitGroup
	ended       chan struct{} // sent to when one has

	mu   sync.Mutex
	open map[net.Conn]bool
}

// serveRaw serves the answers until the test ends.
func serveRaw(t testing.TB, answers map[string]answer, atAccept answer) *rawServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{listener: l, answers: answers, atAccept: atAccept, reached: make(chan struct{}, 100), closed: make(chan struct{}), ended: make(chan struct{}, 1), open: map[net.Conn]bool{}}
	s.accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open[c] = true
			s.mu.Unlock()
			s.connections.Go(func() {
				s.serve(&conn{c.(*net.TCPConn), s.closed})
				s.end(c)
			})
		}
	})
	t.Cleanup(func() {
		close(s.closed)
		l.Close()
		s.accepting.Wait()
		s.mu.Lock()
		for c := range s.open {
			c.Close()
		}
		s.mu.Unlock()
		s.connections.Wait()
	})
	return s
}

func (s *rawServer) host() string { return s.listener.Addr().String() }

func (s *rawServer) serve(c *conn) {
	if s.atAccept != nil {
		s.reached <- struct{}{}
		s.atAccept(c)
		return
	}
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	endpoint := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	if a, ok := s.answers[endpoint]; ok {
		s.reached <- struct{}{}
		a(c)
		return
	}
	right(endpoint)(c)
}

func (s *rawServer) end(c net.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	select {
	case s.ended <- struct{}{}:
	default:
	}
}

// isLeft reports whether the peer has closed all its connections, after a while.
func (s *rawServer) isLeft() bool {
	for timeout := time.After(5 * time.Second); ; {
		s.mu.Lock()
		open := len(s.open)
		s.mu.Unlock()
		if open == 0 {
			return true
		}
		select {
		case <-s.ended:
		case <-timeout:
			return false
		}
	}
}

// right is the answer of GKE's metadata server.
func right(endpoint string) answer {
	switch endpoint {
	case "email":
		return ok(string(app))
	case "token":
		return ok(`{"access_token":"` + token + `","expires_in":3599,"token_type":"Bearer"}`)
	}
	return send("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nNot Found")
}

// ok is a 200 with the body.
func ok(body string) answer { return send(status("200 OK", body)) }

func status(line, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nServer: GKE Metadata Server\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", line, len(body), body)
}

// send writes the bytes and closes the connection.
func send(s string) answer {
	return func(c *conn) { _, _ = io.WriteString(c, s) }
}

// held writes the bytes and says nothing more until the peer has closed.
func held(s string) answer {
	return func(c *conn) {
		_, _ = io.WriteString(c, s)
		_, _ = io.Copy(io.Discard, c)
	}
}

// reset writes the bytes and resets the connection.
func reset(s string) answer {
	return func(c *conn) {
		_, _ = io.WriteString(c, s)
		_ = c.SetLinger(0)
	}
}

// endless writes the first bytes, and the others again and again.
func endless(first, again string) answer {
	again = strings.Repeat(again, 1+(32<<10)/len(again))
	return func(c *conn) {
		_, err := io.WriteString(c, first)
		for err == nil {
			_, err = io.WriteString(c, again)
		}
	}
}

// drip writes the first bytes, and the others one by one.
func drip(first, others string, every time.Duration) answer {
	return func(c *conn) {
		_, err := io.WriteString(c, first)
		for i := 0; i < len(others) && err == nil; i++ {
			if !c.wait(every) {
				return
			}
			_, err = io.WriteString(c, others[i:i+1])
		}
	}
}

// late answers after a while.
func late(after time.Duration, a answer) answer {
	return func(c *conn) {
		if c.wait(after) {
			a(c)
		}
	}
}

// wait reports whether the server was not closed meanwhile.
func (c *conn) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.closed:
		return false
	}
}
