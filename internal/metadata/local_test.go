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
	test, _, _ := strings.Cut(t.Name(), "/")
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.count=1")
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

// A server that does not answer, and one that could not: the process is really
// stopped, until its deadline has passed.
func TestAStoppedProcessConcludesNothing(t *testing.T) {
	const timeout = 2 * time.Second
	if host := os.Getenv("TEST_STOPPED_HOST"); host != "" {
		o := metadata.New(host, timeout, "test/1").Probe(t.Context(), true)
		fmt.Printf("void %t, reasons %s\n", o.Void, reasons(o))
		return
	}
	for _, tt := range []struct {
		name  string
		stops []time.Duration // each with a moment in between
		want  string
	}{
		{"a process that runs", nil, "void false, reasons timeout, timeout, timeout"},
		{"one stop", []time.Duration{timeout + time.Second/2}, "void true, reasons timeout, timeout, timeout"},
		{"several stops", []time.Duration{timeout * 2 / 5, timeout * 2 / 5, timeout * 2 / 5}, "void true, reasons timeout, timeout, timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serveRaw(t, map[string]answer{"email": held(""), "token": held(""), "machine-type": held("")}, nil)
			var out strings.Builder
			c := child(t, "TEST_STOPPED_HOST", s.host())
			c.Stdout, c.Stderr = &out, &out
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				<-s.reached // the requests are under way
			}
			for _, stop := range tt.stops {
				stopped(t, c.Process.Pid, stop)
			}
			if err := c.Wait(); err != nil || !strings.Contains(out.String(), tt.want) {
				t.Errorf("%v: %s, want %s", err, &out, tt.want)
			}
		})
	}
}

// stopped stops the child for a while.
func stopped(t *testing.T, pid int, d time.Duration) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("status %v, %v, want a stopped child", status, err)
	}
	<-time.After(d)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}
