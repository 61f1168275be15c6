package simulator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// gate is a listener that can be shut and opened again on the same port while a
// server accepts from it. A shut gate has no socket: the kernel itself refuses
// connections, as when a metadata server is down.
type gate struct {
	address  net.Addr
	accepted atomic.Int64
	written  atomic.Int64

	mu       sync.Mutex
	listener net.Listener // nil while shut
	turned   chan struct{}
	closed   bool
	open     map[*connection]struct{}
}

func newGate(address string) (*gate, error) {
	listener, err := listen(address)
	if err != nil {
		return nil, err
	}
	return &gate{
		address:  listener.Addr(),
		listener: listener,
		turned:   make(chan struct{}),
		open:     map[*connection]struct{}{},
	}, nil
}

func listen(address string) (net.Listener, error) {
	var config net.ListenConfig
	return config.Listen(context.Background(), "tcp", address)
}

// Accept waits for a connection, and while the gate is shut for its opening.
func (g *gate) Accept() (net.Conn, error) {
	for {
		g.mu.Lock()
		listener, turned, closed := g.listener, g.turned, g.closed
		g.mu.Unlock()
		switch {
		case closed:
			return nil, net.ErrClosed
		case listener == nil:
			<-turned
			continue
		}
		conn, err := listener.Accept()
		if err == nil {
			if conn := g.admit(listener, conn); conn != nil {
				return conn, nil
			}
			continue
		}
		if !errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		// Shut, reopened or closed in the meantime: look again.
	}
}

// admit counts a connection. It turns one away that came in the moment in which
// its listener was shut.
func (g *gate) admit(from net.Listener, conn net.Conn) net.Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	admitted := &connection{Conn: conn, gate: g}
	if g.listener != from {
		admitted.linger()
		_ = conn.Close()
		return nil
	}
	admitted.number = g.accepted.Add(1) - 1
	g.open[admitted] = struct{}{}
	return admitted
}

// shut closes the listener and resets its connections. When it returns, the
// kernel refuses.
func (g *gate) shut() {
	g.mu.Lock()
	listener := g.listener
	if listener != nil {
		g.turn(nil)
	}
	open := g.connections()
	g.mu.Unlock()
	if listener == nil {
		return
	}
	_ = listener.Close() // waits until the socket is closed
	for _, conn := range open {
		conn.abort()
	}
}

// reopenFor bounds how long a port is waited for: while the gate is shut nobody
// holds it, and the kernel may lend it to an outgoing connection.
const reopenFor = time.Second

// reopen listens on the same port again. When it returns, connections succeed.
func (g *gate) reopen() error {
	for end := time.Now().Add(reopenFor); ; time.Sleep(20 * time.Millisecond) {
		err := g.tryReopen()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("open the metadata listener again: %w", err)
		}
	}
}

func (g *gate) tryReopen() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return net.ErrClosed
	case g.listener != nil:
		return nil
	}
	listener, err := listen(g.address.String())
	if err != nil {
		return err
	}
	g.turn(listener)
	return nil
}

// Close ends the gate for good. Connections are the server's to close.
func (g *gate) Close() error {
	g.mu.Lock()
	listener := g.listener
	if !g.closed {
		g.closed = true
		g.turn(nil)
	}
	g.mu.Unlock()
	if listener == nil {
		return nil
	}
	return listener.Close()
}

// Addr is the address of the gate, also while it is shut.
func (g *gate) Addr() net.Addr { return g.address }

// turn replaces the listener and wakes whoever waits in Accept. The caller
// holds the lock.
func (g *gate) turn(listener net.Listener) {
	g.listener = listener
	close(g.turned)
	g.turned = make(chan struct{})
}

func (g *gate) connections() []*connection {
	open := make([]*connection, 0, len(g.open))
	for conn := range g.open {
		open = append(open, conn)
	}
	return open
}

// connection counts what is written to it and can be reset.
type connection struct {
	net.Conn

	number int64 // in the order of arrival, from 0
	gate   *gate
}

func (c *connection) Write(text []byte) (int, error) {
	n, err := c.Conn.Write(text)
	c.gate.written.Add(int64(n))
	return n, err
}

func (c *connection) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.open, c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}

// abort closes the connection with RST.
func (c *connection) abort() {
	c.linger()
	_ = c.Close()
}

// linger makes the next Close discard what is unsent and send RST.
func (c *connection) linger() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// connectionKey is where a request's context holds its connection.
type connectionKey struct{}

func connectionOf(r *http.Request) *connection {
	return r.Context().Value(connectionKey{}).(*connection)
}
