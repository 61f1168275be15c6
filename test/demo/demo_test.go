// Package demo_test runs `make demo` as a person does who follows the README.
package demo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// output is written by the demo while the test reads it.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func TestDemo(t *testing.T) {
	metadata, control, web := freeAddress(t), freeAddress(t), freeAddress(t)
	out := new(output)
	demo := exec.Command("make", "-C", "../..", "demo")
	demo.Env = append(os.Environ(), "DEMO_METADATA_ADDRESS="+metadata, "DEMO_CONTROL_ADDRESS="+control, "DEMO_WEB_ADDRESS="+web)
	demo.Stdout, demo.Stderr = out, out
	demo.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a terminal does, for Ctrl-C
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- demo.Wait() }()
	interrupt := func() { _ = syscall.Kill(-demo.Process.Pid, syscall.SIGINT) }
	defer interrupt()

	state := func(want string) {
		t.Helper()
		line := regexp.MustCompile(`(?m)^workload_identity_state\{state="` + want + `"\} 1$`)
		deadline := time.Now().Add(2 * time.Minute) // a build may be part of it
		for !line.MatchString(get(t, "http://"+web+"/metrics")) {
			select {
			case err := <-ended:
				t.Fatalf("the demo ended: %v\n%s", err, out)
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				t.Fatalf("the state is not %s:\n%s", want, out)
			}
		}
	}
	state("match")
	// The last line comes a second after the start.
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), "Ctrl-C") && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond) // another process
	}
	for _, part := range []string{"http://" + web + "/", "curl -X PUT " + control + "/fault/bypass", "Ctrl-C"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("the demo does not tell %q:\n%s", part, out)
		}
	}
	check := checkCommand(t, out.String())
	for _, tt := range []struct{ fault, state, exitCode, cause string }{
		{"bypass", "node_fallback", "1", "environment_override"},
		{"no-binding", "token_denied", "4", "iam_binding_missing"},
	} {
		put(t, "http://"+control+"/fault/"+tt.fault)
		began := time.Now()
		state(tt.state)
		t.Logf("%s: %s after %s", tt.fault, tt.state, time.Since(began).Round(10*time.Millisecond))
		if page := get(t, "http://"+web+"/"); !strings.Contains(page, "</svg>"+tt.state+"</h1>") || !strings.Contains(page, "<h3>"+tt.cause+" (") {
			t.Errorf("the page lacks the state %s or its cause %s:\n%s", tt.state, tt.cause, page)
		}
		event := regexp.MustCompile(`msg="State changed" state=` + tt.state + ` .* summary=".*Expected .*got .*Cause \(suggests\): ` + tt.cause + `\.`)
		for deadline := time.Now().Add(10 * time.Second); !event.MatchString(out.String()); time.Sleep(20 * time.Millisecond) { // another process
			if time.Now().Before(deadline) {
				continue
			}
			t.Fatalf("the demo does not show the text of the Event about %s:\n%s", tt.state, out)
		}
		if said := run(t, check); !strings.Contains(said, "verdict   "+tt.state+": ") || !strings.HasSuffix(said, "\n"+tt.exitCode+"\n") {
			t.Errorf("%s says, with the fault %s:\n%s\nwant %s and the exit code %s", check, tt.fault, said, tt.state, tt.exitCode)
		}
		put(t, "http://"+control+"/fault/healthy")
		state("match")
	}
	if said := run(t, check); !strings.Contains(said, "verdict   match: ") || !strings.HasSuffix(said, "\n0\n") {
		t.Errorf("%s says, with no fault:\n%s\nwant match and the exit code 0", check, said)
	}

	interrupt()
	select {
	case err := <-ended:
		t.Logf("make ended: %v", err) // by the interrupt, whatever its recipe returns
	case <-time.After(10 * time.Second):
		_ = syscall.Kill(-demo.Process.Pid, syscall.SIGKILL)
		t.Fatalf("the demo runs on after Ctrl-C:\n%s", out)
	}
	if !strings.Contains(out.String(), "Stopped") || strings.Contains(out.String(), "Error") {
		t.Errorf("the demo did not stop cleanly:\n%s", out)
	}
	for _, address := range []string{metadata, control, web} {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			t.Errorf("%s is still served after Ctrl-C", address)
		}
	}
}

// checkCommand is the line that the demo tells, which a person copies.
func checkCommand(t *testing.T, demo string) string {
	t.Helper()
	line := regexp.MustCompile(`(?m)^ +(\S.* check .*)$`).FindStringSubmatch(demo)
	if line == nil {
		t.Fatalf("the demo does not tell how to check:\n%s", demo)
	}
	return line[1]
}

// run runs a line in a shell at the root of the repository, as a person would.
func run(t *testing.T, line string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "sh", "-c", line)
	c.Dir = "../.."
	said, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return string(said)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// get returns the body, or nothing while the server is not there yet.
func get(t *testing.T, url string) string {
	t.Helper()
	return request(t, http.MethodGet, url, true)
}

func put(t *testing.T, url string) { t.Helper(); request(t, http.MethodPut, url, false) }

func request(t *testing.T, method, url string, absent bool) string {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if absent && errors.Is(err, syscall.ECONNREFUSED) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %d %s %v", method, url, res.StatusCode, body, err)
	}
	return string(body)
}
