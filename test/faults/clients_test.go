package faults_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"
)

// clientRows are clients of the agent that do what they should not.
func clientRows() []row {
	with := func(name string, begins func(*stage)) row {
		return row{name: name, states: "match", begins: begins, enough: func(s *stage) bool { return s.metadata.probed(3, "email") }}
	}
	rows := []row{
		with("20 that connect and say nothing", func(s *stage) { s.attack(20, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) }),
		with("10 that send a header a byte now and then", func(s *stage) {
			s.attack(10, func(c net.Conn) {
				for _, b := range []byte("GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 1000)) {
					if _, err := c.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond) // of the client
				}
			})
		}),
		with("10 that send a body a byte now and then", func(s *stage) {
			s.attack(10, func(c net.Conn) {
				_, _ = io.WriteString(c, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
				for range 100 {
					if _, err := c.Write([]byte{'x'}); err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond) // of the client
				}
			})
		}),
		with("10 that keep a connection and ask each 50 ms", func(s *stage) {
			s.attack(10, func(c net.Conn) {
				go func() { _, _ = io.Copy(io.Discard, c) }() // until the connection is closed
				for range 1000 {
					if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
						return
					}
					time.Sleep(50 * time.Millisecond) // of the client
				}
			})
		}),
		with("5 that ask and reset", func(s *stage) {
			s.attack(5, func(c net.Conn) {
				_, _ = io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
				_ = c.(*net.TCPConn).SetLinger(0)
				time.Sleep(200 * time.Millisecond) // of the client
			})
		}),
		with("10 that ask for the page and half close", func(s *stage) {
			s.attack(10, func(c net.Conn) {
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
				time.Sleep(50 * time.Millisecond) // of the client
			})
		}),
	}
	for _, path := range []string{"/metrics", "/status.json", "/"} {
		rows = append(rows, with("6 that ask for 200 of "+path+" and never read", func(s *stage) {
			s.attack(6, func(c net.Conn) {
				_ = c.(*net.TCPConn).SetReadBuffer(1024)
				_, _ = io.WriteString(c, strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n", 200))
				unread(c)
			})
		}))
	}
	for _, g := range []struct{ name, request, answer string }{
		{"HTTP/9.9", "GET / HTTP/9.9\r\nHost: x\r\n\r\n", "^HTTP/1.1 (400|505)"},
		{"HTTP/0.9", "GET /\r\n", "^(HTTP/1.1 400|$)"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 500), "^(HTTP/1.[01] 400|$)"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "^(HTTP/1.1 [45]|\x00|$)"},
		{"h2c by Upgrade", "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "^HTTP/1.1 200"},
		{"random bytes", strings.Repeat("\x93\x00\xff\xfe", 5000), "^(HTTP/1.1 4|$)"},
		{"NULs", strings.Repeat("\x00", 50_000), "^(HTTP/1.1 4|$)"},
		{"a path of 100 kB", "GET /" + strings.Repeat("a", 100_000) + " HTTP/1.1\r\nHost: x\r\n\r\n", "^(HTTP/1.1 4|$)"},
		{"a header of 100 kB", "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 100_000) + "\r\n\r\n", "^(HTTP/1.1 431|$)"},
		{"10,000 headers", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 10_000) + "\r\n", "^(HTTP/1.1 431|$)"},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", "^HTTP/1.1 400"},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "^HTTP/1.1 400"},
		{"a Host with HTML", "GET / HTTP/1.1\r\nHost: <script>alert(1)</script>\r\n\r\n", "^HTTP/1.1 4"},
		{"two lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "^HTTP/1.1 400"},
		{"a length, and chunks", "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n", "^HTTP/1.1 4"},
		{"POST of /metrics", "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "^HTTP/1.1 405"},
		{"DELETE of /", "DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", "^HTTP/1.1 405"},
		{"TRACE", "TRACE / HTTP/1.1\r\nHost: x\r\nX-Secret: y\r\n\r\n", "^HTTP/1.1 405"},
		{"CONNECT", "CONNECT 192.0.2.1:80 HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n", "^HTTP/1.1 40[045]"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "^HTTP/1.1 "},
		{"a request to another host", "GET http://192.0.2.1/metrics HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", "^HTTP/1.1 [24]"},
		{"a way out of the tree", "GET /../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "^HTTP/1.1 [34]"},
		{"an escaped way out", "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "^HTTP/1.1 [34]"},
		{"an escaped NUL", "GET /metrics%00 HTTP/1.1\r\nHost: x\r\n\r\n", "^HTTP/1.1 404"},
		{"a profile", "GET /debug/pprof/heap HTTP/1.1\r\nHost: x\r\n\r\n", "^HTTP/1.1 404"},
		{"a line of a log", "GET /%0a{\"severity\":\"ERROR\"} HTTP/1.1\r\nHost: x\r\n\r\n", "^HTTP/1.1 4"},
		{"Expect: 100-continue", "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n", "^HTTP/1.1 4"},
		{"a Range of each byte", "GET /metrics HTTP/1.1\r\nHost: x\r\nRange: bytes=" + strings.Repeat("0-0,", 1000) + "1-1\r\n\r\n", "^HTTP/1.1 200"},
		{"Accept of 10 kB", "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: " + strings.Repeat("text/plain;q=0.1,", 600) + "\r\n\r\n", "^HTTP/1.1 200"},
		{"Accept-Encoding of 10 kB", "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: " + strings.Repeat("zstd;q=0.1,", 900) + "\r\n\r\n", "^HTTP/1.1 200"},
		{"100 names of metrics", "GET /metrics?" + strings.Repeat("name[]=x&", 100) + " HTTP/1.1\r\nHost: x\r\n\r\n", "^HTTP/1.1 200"},
	} {
		rows = append(rows, with("a request that is "+g.name, func(s *stage) {
			want := regexp.MustCompile(g.answer)
			for range 20 {
				if got := s.send(g.request, strings.Contains(g.answer, "$")); !want.MatchString(got) {
					s.Errorf("got %.100q, want %s", got, want)
				}
			}
		}))
	}
	return rows
}

// send sends the bytes, and returns the first line of the answer. It says that there is
// no more if the server would wait for that.
func (s *stage) send(request string, ends bool) string {
	c, err := net.Dial("tcp", s.agent.address)
	if err != nil {
		s.Error(err)
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, request) // which it may refuse to read
	if ends {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		line += "and then " + err.Error()
	}
	return line
}

// unread holds the connection until it is closed on this side.
func unread(c net.Conn) {
	for err := error(nil); err == nil; _, err = c.Write(nil) {
		time.Sleep(100 * time.Millisecond) // of the client
	}
}

// attack lets so many clients connect, again and again, until it is undone.
func (s *stage) attack(clients int, f func(net.Conn)) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range clients {
		running.Go(func() {
			for ctx.Err() == nil {
				c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.agent.address)
				if err != nil {
					return
				}
				end := context.AfterFunc(ctx, func() { _ = c.Close() })
				done := make(chan struct{})
				go func() { defer close(done); f(c) }()
				select {
				case <-done:
				case <-ctx.Done():
				}
				end()
				_ = c.Close()
				<-done
			}
		})
	}
	s.undo = append(s.undo, func() { cancel(); running.Wait() })
}
