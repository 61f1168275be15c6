package faults_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// Bounds of every row. Measured, a row takes 20 MiB at most and writes 2 kB.
const (
	maxMemory = 40 // MiB
	maxLogs   = 8 << 10
	maxSeries = 120
	maxStop   = 1500 * time.Millisecond
	maxHeld   = 1500 * time.Millisecond // three times the timeout of a probe
	patience  = 40 * time.Second
)

// stage is where a row is played.
type stage struct {
	*testing.T

	metadata *metadataServer
	api      *apiServer // nil: there is none
	folder   string
	settings []string
	agent    *agent
	secrets  []string
	undo     []func() // what the fault has begun
	// client asks the agent, by https if it is not plain.
	scheme string
	client *http.Client
}

// agent is a process of the binary.
type agent struct {
	command *exec.Cmd
	address string
	log     output
	ended   chan struct{}
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// launch runs the binary with the settings of the stage, and no others.
func (s *stage) launch(wrapper []string, arguments ...string) *agent {
	s.Helper()
	line := slices.Concat(wrapper, []string{binary}, arguments)
	a := &agent{command: exec.CommandContext(context.WithoutCancel(s.Context()), line[0], line[1:]...), ended: make(chan struct{})}
	a.command.Env = s.settings
	a.command.Stdout, a.command.Stderr = &a.log, &a.log
	a.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := a.command.Start(); err != nil {
		s.Fatal(err)
	}
	go func() {
		defer close(a.ended)
		_ = a.command.Wait() // the ProcessState says it better
	}()
	s.Cleanup(func() {
		_ = a.command.Process.Kill() // if it has not ended
		<-a.ended
	})
	return a
}

var started = regexp.MustCompile(`"Started".*"address":"([0-9.:]+)"`)

// start launches the agent, and waits until it listens.
func (s *stage) start(wrapper []string) {
	s.Helper()
	s.agent = s.launch(wrapper)
	s.Cleanup(s.undone)
	s.within("the start", func() bool {
		s.alive()
		m := started.FindStringSubmatch(s.agent.log.String())
		if m != nil {
			s.agent.address = m[1]
		}
		return m != nil
	})
}

// within waits until it is so.
func (s *stage) within(what string, so func() bool) {
	s.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(80 * time.Millisecond) {
		if so() {
			return
		}
	}
	status := ""
	if s.agent != nil && s.agent.address != "" {
		status, _ = s.get("/status.json")
		status += "\nlog:\n" + s.agent.log.String()
	}
	s.Fatalf("%s: not after %s\n%s", what, patience, status)
}

// undone ends what the fault has begun.
func (s *stage) undone() {
	for _, f := range s.undo {
		f()
	}
	s.undo = nil
}

func (s *stage) alive() {
	s.Helper()
	select {
	case <-s.agent.ended:
		s.Fatalf("the process has ended: %s\n%s", s.agent.command.ProcessState, s.agent.log.String())
	default:
	}
}

func (s *stage) get(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience/2)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.scheme+"://"+s.agent.address+path, http.NoBody)
	if err != nil {
		return "", err
	}
	res, err := s.client.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, res.Status)
	}
	return string(body), err
}

// page is what the agent serves, which it does at all times.
func (s *stage) page(path string) string {
	s.Helper()
	body, err := s.get(path)
	if err != nil {
		s.alive()
		s.Fatal(err)
	}
	return body
}

// status is what is read of /status.json.
type status struct {
	State    string
	Server   string `json:"metadata_server"`
	Observed string
	Changes  []struct{ From, To, Why string }
}

func (s *stage) status() status {
	s.Helper()
	var st status
	if err := json.Unmarshal([]byte(s.page("/status.json")), &st); err != nil {
		s.Fatal(err)
	}
	return st
}

// becomes waits for the state.
func (s *stage) becomes(state string) {
	s.Helper()
	s.within("the state becomes "+state, func() bool { return s.status().State == state })
}

var sample = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? (\S+)$`)

// samples are those of the metrics, by name and labels.
func (s *stage) samples() map[string]float64 {
	s.Helper()
	values := map[string]float64{}
	for _, m := range sample.FindAllStringSubmatch(s.page("/metrics"), -1) {
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil || len(m[2]) > 700 {
			s.Errorf("sample %s: %v", m[0], err)
		}
		values[m[1]+"{"+strings.ReplaceAll(m[2], `"`, "")+"}"] = v
	}
	return values
}

// failures are the requests that have failed so far, as ENDPOINT/REASON.
func (s *stage) failures() map[string]float64 {
	s.Helper()
	failed := map[string]float64{}
	for name, v := range s.samples() {
		labels, ok := strings.CutPrefix(name, "workload_identity_probe_failures_total{endpoint=")
		if ok && v > 0 {
			failed[strings.TrimSuffix(strings.Replace(labels, ",reason=", "/", 1), "}")] = v
		}
		labels, ok = strings.CutPrefix(name, "workload_identity_kubernetes_request_failures_total{reason=")
		if ok && v > 0 {
			reason, resource, _ := strings.Cut(strings.TrimSuffix(labels, "}"), ",resource=")
			// The others are asked for what may explain the state, or told of it.
			if resource == "serviceaccounts" {
				failed[resource+"/"+reason] = v
			}
		}
	}
	return failed
}

// usage is what the process has.
type usage struct{ goroutines, files float64 }

func (s *stage) usage() usage {
	s.Helper()
	v := s.samples()
	return usage{v["go_goroutines{}"], v["process_open_fds{}"]}
}

// least is the smallest of some, between probes.
func (s *stage) least() usage {
	s.Helper()
	least := s.usage()
	for range 4 {
		time.Sleep(60 * time.Millisecond)
		u := s.usage()
		least = usage{min(least.goroutines, u.goroutines), min(least.files, u.files)}
	}
	return least
}

// memory is the most that the process had, in MiB.
func (s *stage) memory() int {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.agent.command.Process.Pid))
	if err != nil {
		s.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		s.Fatalf("no VmHWM:\n%s", text)
	}
	kilobytes, _ := strconv.Atoi(string(m[1]))
	return kilobytes >> 10
}

// stop ends the process by SIGTERM.
func (s *stage) stop() {
	s.Helper()
	began := time.Now()
	if err := s.agent.command.Process.Signal(syscall.SIGTERM); err != nil {
		s.Fatal(err)
	}
	select {
	case <-s.agent.ended:
	case <-time.After(20 * time.Second):
		s.Fatal("SIGTERM does not end the process")
	}
	if took := time.Since(began); took > maxStop && took > maxStop+20*s.slowness() {
		s.Errorf("the process ended %s after SIGTERM, want at most %s", took, maxStop)
	}
	if code := s.agent.command.ProcessState.ExitCode(); code != 0 {
		s.Errorf("exit code %d after SIGTERM (%s), want 0", code, s.agent.command.ProcessState)
	}
}

// slowness is how long the machine takes for what is a matter of milliseconds on one
// that is not busy.
func (s *stage) slowness() time.Duration {
	s.Helper()
	began := time.Now()
	if out, err := exec.Command(binary, "-version").CombinedOutput(); err != nil {
		s.Errorf("%v: %s", err, out)
	}
	return time.Since(began)
}

// shows reports a part of a secret that the text has, and empty if it has none.
func (s *stage) shows(text string) string {
	const part = 12
	for _, secret := range s.secrets {
		for i := 0; i+part <= len(secret); i++ {
			if strings.Contains(text, secret[i:i+part]) {
				return secret[i : i+part]
			}
		}
	}
	return ""
}

// examine looks at everything that is served.
func (s *stage) examine() {
	s.Helper()
	s.alive()
	for _, path := range []string{"/", "/status.json", "/metrics", "/healthz", "/-/healthy"} {
		text := s.page(path)
		if part := s.shows(text); part != "" {
			s.Errorf("%s shows %q of a secret:\n%s", path, part, text)
		}
		if strings.ContainsAny(text, "\x00\x1b\u202e\u200b\r") || strings.Contains(text, "<script") {
			s.Errorf("%s shows what is not to be shown:\n%q", path, text)
		}
	}
	if _, err := promlint.New(strings.NewReader(s.page("/metrics"))).Lint(); err != nil {
		s.Errorf("the metrics are not valid: %v", err)
	}
	own, states := 0, 0.0
	for name, v := range s.samples() {
		if strings.HasPrefix(name, "workload_identity_") {
			own++
		}
		if strings.HasPrefix(name, "workload_identity_state{") {
			states += v
		}
		if v < 0 || name == "workload_identity_probe_panics_total{}" && v != 0 {
			s.Errorf("%s is %v", name, v)
		}
	}
	if own > maxSeries || states != 1 {
		s.Errorf("%d series, want at most %d; %v states, want 1", own, maxSeries, states)
	}
}
