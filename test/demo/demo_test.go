// Package demo_test runs `make demo` as a person does who follows the README.
package demo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	d := demoed{out: out, web: "http://" + web}
	for _, tt := range []struct {
		fault, state, cause string
		exitCode            int
	}{
		{"bypass", "node_fallback", "cilium_bpf_host_routing", 1},
		{"snat", "node_fallback", "cilium_bpf_masquerade_link_local", 1},
		{"no-binding", "token_denied", "iam_binding_missing", 4},
	} {
		put(t, "http://"+control+"/fault/"+tt.fault)
		began := time.Now()
		state(tt.state)
		t.Logf("%s: %s after %s", tt.fault, tt.state, time.Since(began).Round(10*time.Millisecond))
		d.saysWhy(t, tt.state, tt.cause)
		if tt.fault != "snat" { // the same state again is no Event for ten minutes
			d.finds(t, out.String, `^Event about the Node node-1: Warning .* Cause \(likely\): [^.]* \(`+tt.cause+`\)`)
		}
		d.checks(t, tt.exitCode, "verdict   "+tt.state+": ", " (likely, "+tt.cause+")\n")
		put(t, "http://"+control+"/fault/healthy")
		state("match")
	}
	d.checks(t, 0, "verdict   match: ", "(annotation)")
	// The same answers by another cause. The agent has read enough settings for a minute.
	put(t, "http://"+control+"/fault/notrack")
	d.checks(t, 1, "verdict   node_fallback: ", " (likely, cilium_no_conntrack)\n")
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
	log, err := os.ReadFile(filepath.Join(kubernetes, "exporter.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "Stopped") || strings.Contains(out.String(), "Error") {
		t.Errorf("the demo did not stop cleanly:\n%s", out)
	}
	for _, address := range []string{metadata, control, web} {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			t.Errorf("%s is still served after Ctrl-C", address)
		}
	}
}

// demoed is what a person has before them.
type demoed struct {
	out *output
	web string
}

// finds waits for a line in a text. The state comes a moment before its causes, and
// the demo's own words come a second after its servers.
func (demoed) finds(t *testing.T, text func() string, line string) string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) { // another process
		found := regexp.MustCompile("(?m)" + line).FindStringSubmatch(text())
		if found != nil {
			return found[len(found)-1]
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s in:\n%s", line, text())
		}
	}
}

// saysWhy wants the cause in the metrics and on the status page.
func (d demoed) saysWhy(t *testing.T, state, cause string) {
	t.Helper()
	page := func(path string) func() string { return func() string { return get(t, d.web+path) } }
	d.finds(t, page("/metrics"), `^workload_identity_suspected_cause\{cause="`+cause+`"\} 1$`)
	d.finds(t, page("/"), `(?s)</svg>`+state+`</h1>.*<h3>[^<]+ \(likely, `+cause+`\)`)
	if said := get(t, d.web); strings.Contains(said, "started before that was set") {
		t.Errorf("the settings that are played are not those that run: %s", said)
	}
}

// checks runs the line that the demo prints, as somebody pastes it into another
// terminal at the root of the repository.
func (d demoed) checks(t *testing.T, exitCode int, wants ...string) {
	t.Helper()
	line := d.finds(t, d.out.String, `^ +(env .* check)$`)
	check := exec.CommandContext(t.Context(), "sh", "-c", line+"; echo exit $?")
	check.Dir = "../.."
	said, err := check.Output()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	for _, want := range append(wants, fmt.Sprintf("\nexit %d\n", exitCode)) {
		if !strings.Contains(string(said), want) {
			t.Errorf("%s says\n%s\nwant %q", line, said, want)
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
