package simulator_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

func noPods() map[netip.Addr]simulator.Pod { return map[netip.Addr]simulator.Pod{} }

// patience is how long clients wait for a server that does not mean to answer, or
// not in full: many times the 100 ms until the first byte, for busy machines.
const patience = time.Second

func TestRefusedIsTheKernel(t *testing.T) {
	s := start(t, simulator.Options{})
	kept := keepingClient()
	defer kept.CloseIdleConnections()
	says{ok, appGSA}.check(t, "email", askWith(t, kept, s, email, time.Second))

	for range 20 {
		set(t, s, simulator.Fault{Name: "refused"})
		connections := s.Connections()
		for _, client := range []*http.Client{clientFrom("127.0.0.1"), kept} {
			if got := askWith(t, client, s, email, time.Second); !errors.Is(got.err, syscall.ECONNREFUSED) {
				t.Fatalf("got %d %v, want a refused connection", got.status, got.err)
			}
		}
		if got := s.Connections(); got != connections {
			t.Fatalf("a refused connection was counted: %d, then %d", connections, got)
		}
		set(t, s, simulator.Fault{})
		says{ok, appGSA}.check(t, "email", ask(t, s, email))
	}

	t.Run("from the start", func(t *testing.T) {
		s := start(t, simulator.Options{Fault: simulator.Fault{Name: "refused"}})
		if got := ask(t, s, email); !errors.Is(got.err, syscall.ECONNREFUSED) {
			t.Errorf("got %d %v, want a refused connection", got.status, got.err)
		}
		set(t, s, simulator.Fault{Name: "bypass"})
		says{ok, nodeGSA}.check(t, "email", ask(t, s, email))
	})
}

func TestResetIsRST(t *testing.T) {
	s := start(t, simulator.Options{Fault: simulator.Fault{Name: "reset"}})
	for range 10 {
		if got := ask(t, s, email); !errors.Is(got.err, syscall.ECONNRESET) {
			t.Fatalf("got %d %v, want a reset connection", got.status, got.err)
		}
	}
}

func TestServersThatKeepClientsWaiting(t *testing.T) {
	tests := []struct {
		fault  string
		status int // 0: no header comes
		body   bool
	}{
		{"silent", 0, false},
		{"slow", 0, false},
		{"stall", http.StatusOK, true},
		{"trickle", http.StatusOK, true},
		{"unavailable", http.StatusServiceUnavailable, true},
	}
	s := start(t, simulator.Options{})
	for _, test := range tests {
		t.Run(test.fault, func(t *testing.T) {
			set(t, s, simulator.Fault{Name: test.fault})
			got := askWith(t, clientFrom("127.0.0.1"), s, email, patience)
			if !errors.Is(got.err, context.DeadlineExceeded) {
				t.Errorf("got %v, want that the deadline comes first", got.err)
			}
			if got.status != test.status || got.body != "" != test.body {
				t.Errorf("got %d %q, want %d", got.status, got.body, test.status)
			}
			if test.fault == "stall" && (got.body != appGSA[:len(appGSA)/2] || got.header.Get("Content-Length") != "40") {
				t.Errorf("stall: got %q and length %s", got.body, got.header.Get("Content-Length"))
			}
		})
	}
}

func TestFlapComesAndGoes(t *testing.T) {
	for _, of := range []string{"bypass", "refused"} {
		t.Run(of, func(t *testing.T) {
			s := start(t, simulator.Options{})
			fault := simulator.Fault{Name: "flap", Of: of, Every: 30 * time.Millisecond}
			set(t, s, fault)
			wrong := func() bool { return ask(t, s, email).body != appGSA }
			right := func() bool { return ask(t, s, email).body == appGSA }
			for range 2 {
				eventually(t, "the fault", wrong)
				eventually(t, "healthy", right)
			}
			if got := s.Fault(); got != fault {
				t.Errorf("got %v while it flaps, want %v", got, fault)
			}

			set(t, s, simulator.Fault{Name: "snat"})
			for end := time.Now().Add(3 * fault.Every); time.Now().Before(end); {
				says{ok, nodeGSA}.check(t, "email", ask(t, s, email))
			}
		})
	}
	t.Run("begins with the fault", func(t *testing.T) {
		s := start(t, simulator.Options{Fault: simulator.Fault{Name: "flap", Every: time.Minute}})
		says{ok, nodeGSA}.check(t, "email", ask(t, s, email))
		if got := s.Stats().Playing.Name; got != "bypass" {
			t.Errorf("playing: got %s, want bypass", got)
		}
	})
}

func TestCounters(t *testing.T) {
	s := start(t, simulator.Options{})
	ask(t, s, email)
	ask(t, s, email)
	ask(t, s, token)
	kept := keepingClient()
	defer kept.CloseIdleConnections()
	askWith(t, kept, s, machine, time.Second)
	askWith(t, kept, s, machine+"?alt=text", time.Second)

	if got := s.Connections(); got != 4 {
		t.Errorf("connections: got %d, want 4", got)
	}
	for suffix, want := range map[string]int64{"": 5, "/email": 2, "/token": 1, machine: 2, "/none": 0} {
		if got := s.Requests(suffix); got != want {
			t.Errorf("requests for %q: got %d, want %d", suffix, got, want)
		}
	}
	if got := s.BytesWritten(); got < 400 {
		t.Errorf("bytes: got %d, want those of five answers", got)
	}
}

func TestRunStopsWithHangingClients(t *testing.T) {
	for _, fault := range []string{"silent", "slow", "stall", "trickle", "unavailable", "sts-blocked", "huge", "refused"} {
		t.Run(fault, func(t *testing.T) {
			s, err := simulator.New(simulator.Options{ControlAddress: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			done := make(chan error, 1)
			var running sync.WaitGroup
			running.Go(func() { done <- s.Run(ctx) })
			defer running.Wait()

			mute := dial(t, s.MetadataAddr()) // says nothing
			defer mute.Close()
			idle := dial(t, s.ControlAddr())
			defer idle.Close()
			eventually(t, "the mute client is connected", func() bool { return s.Connections() == 1 })
			set(t, s, simulator.Fault{Name: fault})
			if fault != "refused" {
				// Asks, and never reads: a big answer fills the socket.
				hanging := dial(t, s.MetadataAddr())
				defer hanging.Close()
				if _, err := io.WriteString(hanging, "GET "+token+" HTTP/1.1\r\nHost: x\r\nMetadata-Flavor: Google\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the request has come", func() bool { return s.Requests("/token") == 1 })
			}

			begin := time.Now()
			stop()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: got %v, want nil", err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("Run did not return within 5 s")
			}
			if took := time.Since(begin); took > time.Second {
				t.Errorf("Run took %s to stop, want less than 1 s", took)
			}
			if conn, err := net.Dial("tcp", s.MetadataAddr().String()); err == nil {
				conn.Close()
				t.Error("the metadata port is still open")
			}
			if err := s.SetFault(simulator.Fault{}); !errors.Is(err, net.ErrClosed) {
				t.Errorf("SetFault after the end: got %v, want net.ErrClosed", err)
			}
			if err := s.Run(t.Context()); err == nil {
				t.Error("a second Run: got no error")
			}
		})
	}
}

func dial(t *testing.T, address net.Addr) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestARequestOnItsWayEndsAsItBegan(t *testing.T) {
	s := start(t, simulator.Options{Fault: simulator.Fault{Name: "trickle"}})
	conn := dial(t, s.MetadataAddr())
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET "+email+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("got %q (%v)", line, err)
	}
	set(t, s, simulator.Fault{})
	// The headers' end, then chunks of one byte: "1\r\n.\r\n".
	var dots int
	for dots < 2 {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("the body ended with %v after %d bytes", err, dots)
		}
		if line == ".\r\n" {
			dots++
		}
	}
	says{ok, appGSA}.check(t, "email", ask(t, s, email))
}

// Run with -race, this is also the test of the locks.
func TestSwitchingUnderTraffic(t *testing.T) {
	s := start(t, simulator.Options{})
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for _, source := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"} {
		clients.Go(func() {
			kept := keepingClient()
			defer kept.CloseIdleConnections()
			for ctx.Err() == nil {
				for _, path := range []string{email, token, machine} {
					askWith(t, clientFrom(source), s, path, 20*time.Millisecond)
					askWith(t, kept, s, path, 20*time.Millisecond)
				}
				s.Stats()
			}
		})
	}
	var switchers sync.WaitGroup
	for range 2 {
		switchers.Go(func() {
			for range 3 {
				for _, kind := range simulator.Faults() {
					fault := simulator.Fault{Name: kind.Name}
					if kind.Name == "flap" {
						fault.Every, fault.Of = 10*time.Millisecond, "refused"
					}
					if err := s.SetFault(fault); err != nil {
						t.Errorf("SetFault(%v): %v", fault, err)
					}
					s.Fault()
					before := s.Requests("")
					for end := time.Now().Add(5 * time.Millisecond); s.Requests("") == before && time.Now().Before(end); {
						s.Connections()
					}
				}
			}
		})
	}
	switchers.Wait()
	stop()
	clients.Wait()

	set(t, s, simulator.Fault{})
	says{ok, appGSA}.check(t, "email", ask(t, s, email))
}
