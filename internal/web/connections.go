package web

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of connections. A kubelet, two Prometheus and some people need a dozen; each
// costs some 20 KiB, and with TLS 50.
const (
	maxConnections = 512
	// Whoever opens one and says nothing, or leaves it open after an answer, may be cut off
	// after quiet while all are taken, and whoever is slow with a handshake or a request,
	// or does not read the answer, after slow.
	quiet = 50 * time.Millisecond
	slow  = 250 * time.Millisecond
)

// connections is a listener that has a bounded number of connections. While all are taken, the next
// one waits in the kernel's queue for its turn, until another ends, or one that does
// nothing is cut off: one of the address that has the most of them.
type connections struct {
	net.Listener
	now func() time.Time
	// ready is called once, before the first connection.
	ready func()
	once  sync.Once

	mu   sync.Mutex
	open map[*connection]bool
}

type connection struct {
	net.Conn
	of     *connections
	closed sync.Once
	spoke  atomic.Bool

	host string
	// since is when the state began, and heard whether anything came. They are guarded by
	// the list's lock.
	since time.Time
	state http.ConnState
	heard bool
}

// Accept waits for a connection, and then for room for it.
func (l *connections) Accept() (net.Conn, error) {
	l.once.Do(l.ready)
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(accepted.RemoteAddr().String())
	if err != nil {
		host = accepted.RemoteAddr().String()
	}
	c := &connection{Conn: accepted, of: l, host: host}
	for !l.add(c) {
		time.Sleep(time.Millisecond)
	}
	return c, nil
}

// add takes the connection in, if need be by closing another.
func (l *connections) add(c *connection) bool {
	l.mu.Lock()
	var idle *connection
	if len(l.open) >= maxConnections {
		idle = l.idlest()
		if idle == nil {
			l.mu.Unlock()
			return false
		}
		delete(l.open, idle)
	}
	c.since, c.state = l.now(), http.StateNew
	l.open[c] = true
	l.mu.Unlock()
	if idle != nil {
		_ = idle.Close() // nobody waits for what it says
	}
	return true
}

// idlest is the connection that can be spared: of the address with the most, the one that
// has done nothing for the longest time. Others keep theirs, however idle they are.
func (l *connections) idlest() *connection {
	now := l.now()
	count, most := map[string]int{}, 0
	for c := range l.open {
		count[c.host]++
		most = max(most, count[c.host])
	}
	var found *connection
	for c := range l.open {
		patience := quiet
		if c.state == http.StateActive || c.state == http.StateNew && c.heard {
			patience = slow
		}
		if count[c.host] == most && now.Sub(c.since) >= patience && (found == nil || c.since.Before(found.since)) {
			found = c
		}
	}
	return found
}

// changed notes the state of a connection, as http.Server.ConnState.
func (l *connections) changed(c net.Conn, state http.ConnState) {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	if ours, ok := c.(*connection); ok && state != http.StateNew { // which begins with Accept
		l.mu.Lock()
		ours.since, ours.state = l.now(), state
		l.mu.Unlock()
	}
}

// crowded tells whether connections are short, so that none may stay open for another request.
func (l *connections) crowded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open) > maxConnections/2
}

// Read notes the first that comes.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.spoke.Swap(true) {
		c.of.mu.Lock()
		c.since, c.heard = c.of.now(), true
		c.of.mu.Unlock()
	}
	return n, err
}

// Close ends the connection, which makes room for another.
func (c *connection) Close() error {
	c.closed.Do(func() {
		c.of.mu.Lock()
		delete(c.of.open, c)
		c.of.mu.Unlock()
	})
	return c.Conn.Close()
}
