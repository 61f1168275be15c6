package metadata_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
)

// child runs the same test in a process of its own, which has the variable.
func child(t *testing.T, variable, value string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	c.Env = append(os.Environ(), variable+"="+value, "GODEBUG=netdns=go") // as in the static binary
	return c
}

// A process that has no file descriptor left cannot tell whether there is a server.
// Its limit is lowered in a process of its own.
func TestWithoutFileDescriptorsTheServerIsNotToBlame(t *testing.T) {
	host := os.Getenv("TEST_EXHAUSTED_HOST")
	if host == "" {
		s := serveRaw(t, nil, nil)
		_, port, err := net.SplitHostPort(s.host())
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{s.host(), "metadata.invalid:" + port} { // the name is not asked for either
			out, err := child(t, "TEST_EXHAUSTED_HOST", host).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "reasons local_resources, local_resources, local_resources: ") || !strings.Contains(string(out), "too many open files") {
				t.Errorf("probe of %s: %v: %s, want local_resources three times", host, err, out)
			}
		}
		return
	}
	// The network poller gets its file descriptors first.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: 3}); err != nil {
		t.Fatal(err)
	}
	o := metadata.New(host, 5*time.Second, "test/1").Probe(t.Context(), true)
	fmt.Printf("reasons %s: %s\n", reasons(o), o.Email.Failure)
}
