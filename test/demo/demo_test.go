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
	"path/filepath"
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
	kubernetes := filepath.Join(t.TempDir(), "kubernetes")
	demo.Env = append(os.Environ(), "DEMO_METADATA_ADDRESS="+metadata, "DEMO_CONTROL_ADDRESS="+control, "DEMO_WEB_ADDRESS="+web, "DEMO_KUBERNETES_DIRECTORY="+kubernetes)
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
	if page := get(t, "http://"+web+"/status.json"); !strings.Contains(page, `"expected_source": "annotation"`) {
		t.Errorf("the demo's exporter has not read the annotation: %s", page)
	}
	for fault, want := range map[string]string{"bypass": "node_fallback", "no-binding": "token_denied"} {
		put(t, "http://"+control+"/fault/"+fault)
		began := time.Now()
		state(want)
		t.Logf("%s: %s after %s", fault, want, time.Since(began).Round(10*time.Millisecond))
		if fault == "bypass" {
			seesWhy(t, out, web)
		}
		put(t, "http://"+control+"/fault/healthy")
		state("match")
	}
	for _, part := range []string{"http://" + web + "/", "curl -X PUT " + control + "/fault/bypass", "Ctrl-C"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("the demo does not tell %q:\n%s", part, out)
		}
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

// seesWhy looks at the broken demo in all the ways that it tells of. The state comes
// a moment before its causes, and the demo's words a second after its servers.
func seesWhy(t *testing.T, out *output, web string) {
	t.Helper()
	const cause = "cilium_bpf_host_routing"
	find := func(where string, text func() string, expression string) []string {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			found := regexp.MustCompile("(?m)" + expression).FindStringSubmatch(text())
			if found != nil {
				return found
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: nothing is %s in:\n%s", where, expression, text())
			}
		}
	}
	page := func(path string) func() string { return func() string { return get(t, "http://"+web+path) } }
	find("metrics", page("/metrics"), `^workload_identity_suspected_cause\{cause="`+cause+`"\} 1$`)
	find("status page", page("/"), cause+`(?s).*enable-host-legacy-routing`)
	find("Event", out.String, `^Event about the Node node-1: Warning WorkloadIdentityNodeFallback: .*`+cause)

	// As somebody pastes it into another terminal.
	command := find("check", out.String, `^ +(env .* check)$`)[1]
	check := exec.CommandContext(t.Context(), "sh", "-c", command)
	check.Dir = "../.."
	said, err := check.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("%s: %v, want exit code 1", command, err)
	}
	for _, want := range []string{"verdict   node_fallback", "(annotation)", "cause     " + cause} {
		if !strings.Contains(string(said), want) {
			t.Errorf("check does not say %q:\n%s", want, said)
		}
	}
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
