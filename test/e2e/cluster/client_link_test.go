package cluster

import (
	"io"
	"math"
	"net"
	"sync"
	"testing"
	"time"
)

// link is the way between a Pod and the API server: a TCP proxy on loopback that
// counts connections, and can fail as networks and load balancers do.
type link struct {
	server string

	mu       sync.Mutex
	listener net.Listener
	fault    fault
	total    int
	arrived  int64 // of the server's last answer, in bytes
	open     map[net.Conn]bool
	running  sync.WaitGroup
}

// fault is what becomes of connections that are made from now on.
type fault struct {
	name string
	// after is how much of the server's answer still arrives, in bytes.
	after int64
	end   ending
}

// ending is how a connection ends after that.
type ending string

const (
	// stalls leaves it open and lets nothing through.
	stalls ending = "stalls"
	// closes ends it in order.
	closes ending = "closes"
	// resets breaks it off.
	resets ending = "resets"
	// refuses does not let it come about.
	refuses ending = "refuses"
)

// healthy lets everything through.
var healthy = fault{after: math.MaxInt64}

func newLink(t *testing.T, host, port string) *link {
	t.Helper()
	l := &link{server: net.JoinHostPort(host, port), fault: healthy, open: map[net.Conn]bool{}}
	must(t, l.listen("127.0.0.1:0"))
	t.Cleanup(l.close)
	return l
}

func (l *link) listen(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	l.listener = listener
	l.running.Go(func() {
		for {
			pod, err := listener.Accept()
			if err != nil {
				return // closed
			}
			l.mu.Lock()
			l.total++
			l.open[pod] = true
			f := l.fault
			l.mu.Unlock()
			l.running.Go(func() { l.forward(pod, f) })
		}
	})
	return nil
}

// fails makes new connections fail from now on.
func (l *link) fails(t *testing.T, f fault) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if refused := l.fault.end == refuses; refused != (f.end == refuses) {
		address := l.listener.Addr().String()
		_ = l.listener.Close()
		if refused {
			must(t, l.listen(address))
		}
	}
	l.fault = f
}

// forward is one connection, until it ends on both sides.
func (l *link) forward(pod net.Conn, f fault) {
	defer func() {
		_ = pod.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, pod)
	}()
	server, err := net.Dial("tcp", l.server)
	if err != nil {
		return
	}
	defer server.Close()
	var upward sync.WaitGroup
	defer upward.Wait()
	upward.Go(func() {
		_, _ = io.Copy(server, pod)
		_ = server.Close()
	})
	n, err := io.CopyN(pod, server, f.after)
	l.mu.Lock()
	l.arrived = n
	l.mu.Unlock()
	switch {
	case err != nil: // one of the two has closed it
	case f.end == stalls:
		upward.Wait() // until the Pod has enough of it
	case f.end == resets:
		_ = pod.(*net.TCPConn).SetLinger(0)
	}
	_ = pod.Close()
}

func (l *link) address() (host, port string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	host, port, _ = net.SplitHostPort(l.listener.Addr().String()) // is an address
	return host, port
}

// accepted is the number of connections so far.
func (l *link) accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

func (l *link) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// answer is how much the server sent on the last connection, when that is closed.
func (l *link) answer() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.arrived
}

// becomesQuiet waits until the Pod has closed all connections, and returns after
// how long.
func (l *link) becomesQuiet(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	begin := time.Now()
	for ; time.Since(begin) < limit; time.Sleep(time.Millisecond) { // another process
		if l.connections() == 0 {
			return time.Since(begin)
		}
	}
	t.Errorf("%d of %d connections are open after %s, want none", l.connections(), l.accepted(), limit)
	return limit
}

func (l *link) close() {
	l.mu.Lock()
	_ = l.listener.Close()
	l.fault = fault{end: closes} // for one that was accepted a moment ago
	for pod := range l.open {
		_ = pod.Close()
	}
	l.mu.Unlock()
	l.running.Wait()
}
