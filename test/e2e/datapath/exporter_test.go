package datapath

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/pages"
)

// patience is for machines that do many things at once. It bounds waiting only;
// what is asserted about time is the exporter's own account of it.
const patience = 90 * time.Second

// exporter is the real program, with its default settings but for the expected
// identity, as a process in a Pod.
type exporter struct {
	client *http.Client
	log    lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs the exporter until the end of the test, and waits for its first verdict.
func start(t *testing.T, pod *host, settings ...string) *exporter {
	t.Helper()
	e := &exporter{client: &http.Client{Transport: &http.Transport{DialContext: pod.dial}}}
	c := exec.Command(exporterPath())
	c.Env = append([]string{"WI_EXPECTED_EMAILS=" + appEmail}, settings...)
	c.Stdout, c.Stderr = &e.log, &e.log
	if err := pod.do(c.Start); err != nil {
		t.Fatalf("start the exporter in %s: %v", pod.name, err)
	}
	t.Cleanup(func() {
		e.client.CloseIdleConnections()
		_ = c.Process.Signal(syscall.SIGTERM)
		if err := c.Wait(); err != nil {
			t.Errorf("the exporter ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the exporter's log:\n%s", &e.log)
		}
	})
	return e
}

// dial connects from the namespace.
func (h *host) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var c net.Conn
	err := h.do(func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

func (e *exporter) get(t *testing.T, path string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:10988"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := e.client.Do(request)
	if err != nil {
		return "" // not there yet
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func (e *exporter) metric(t *testing.T, series string) (value float64, ok bool) {
	t.Helper()
	return pages.Metric(e.get(t, "/metrics"), series)
}

// awaits waits for the state, and returns how long after the moment it was entered.
func (e *exporter) awaits(t *testing.T, state string, since time.Time) time.Duration {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) { // another process
		if v, _ := e.metric(t, `state{state="`+state+`"}`); v != 1 {
			continue
		}
		entered, _ := e.metric(t, "state_entered_timestamp_seconds")
		return time.Duration(entered*1e9 - float64(since.UnixNano())).Round(10 * time.Millisecond)
	}
	t.Fatalf("the state is not %s after %s: %s", state, patience, e.get(t, "/status.json"))
	return 0
}

func (e *exporter) status(t *testing.T) pages.Status {
	t.Helper()
	s, err := pages.ParseStatus(e.get(t, "/status.json"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// stated fails unless these states, and no others, were stated since the start.
func (e *exporter) stated(t *testing.T, want ...string) {
	t.Helper()
	if got := e.status(t).Stated(); !slices.Equal(got, want) {
		t.Errorf("stated %v, want %v", got, want)
	}
}

// missesRule fails unless the exporter states in time that the VM's server answers, and
// GKE's rule has counted no packet since the hits. It returns how long that took.
func (c *cluster) missesRule(t *testing.T, e *exporter, since time.Time, hits uint64) time.Duration {
	t.Helper()
	detected := e.awaits(t, "node_fallback", since)
	if detected > atMost {
		t.Errorf("stated after %s, want at most %s", detected, atMost)
	}
	if s := e.status(t); s.Observed != nodeEmail || s.Server != "vm" {
		t.Errorf("observed %q from %s, want %q from vm", s.Observed, s.Server, nodeEmail)
	}
	if now := c.rules.hits(); now != hits {
		t.Errorf("the rule counted %d packets that should have missed it", now-hits)
	}
	return detected
}
