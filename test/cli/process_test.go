package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what should be there long before.
const patience = time.Minute

// process is a program that runs in the background.
type process struct {
	command        *exec.Cmd
	stdout, stderr output
	ended          chan struct{}
	endedAt        time.Time
	signalled      time.Time
	expected       bool // somebody has looked at how it ended
}

// launch starts the program with this environment, and no other. It is killed
// at the end of the context at the latest.
func launch(ctx context.Context, environment []string, program string, args ...string) (*process, error) {
	p := &process{command: exec.CommandContext(ctx, program, args...), ended: make(chan struct{})}
	p.command.Env = environment
	p.command.Stdout, p.command.Stderr = &p.stdout, &p.stderr
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		_ = p.command.Wait() // the ProcessState says it better
		p.endedAt = time.Now()
	}()
	return p, nil
}

// says waits until the output matches, and returns the first subexpression.
func (p *process) says(o *output, pattern string) (string, error) {
	expression := regexp.MustCompile(pattern)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		over := p.wait(0)
		if match := expression.FindStringSubmatch(o.String()); match != nil {
			return match[1], nil
		}
		if over {
			return "", fmt.Errorf("%s has ended: %s\n%s%s", p, p.command.ProcessState, p.stdout.String(), p.stderr.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("%s did not print %s in %s:\n%s", p, pattern, patience, o.String())
}

func (p *process) String() string {
	return fmt.Sprintf("%s[%d]", p.command.Args[0], p.command.Process.Pid)
}

func (p *process) signal(s os.Signal) error {
	p.signalled = time.Now()
	return p.command.Process.Signal(s)
}

// wait reports whether the process has ended.
func (p *process) wait(d time.Duration) bool {
	if d == 0 {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	}
	select {
	case <-p.ended:
		return true
	case <-time.After(d):
		return false
	}
}

// outcome is the exit code, or the signal that ended the process.
func (p *process) outcome() string {
	if status, ok := p.command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGINT: "INT", syscall.SIGKILL: "KILL"}[status.Signal()]
	}
	return strconv.Itoa(p.command.ProcessState.ExitCode())
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

// stopAll ends the processes in an orderly way, waits for them, and complains of
// those that do not.
func stopAll(t testing.TB, processes []*process) {
	for _, p := range processes {
		if !p.wait(0) {
			_ = p.command.Process.Signal(syscall.SIGTERM) // fails if it has just ended
		}
	}
	for _, p := range processes {
		if !p.wait(20 * time.Second) {
			t.Errorf("%s does not end after SIGTERM", p)
			_ = p.command.Process.Kill()
			<-p.ended
		}
		if got := p.outcome(); got != "0" && !p.expected {
			t.Errorf("%s ended with %s after SIGTERM, want 0:\n%s", p, got, p.stderr.String())
		}
		all := p.stdout.String() + p.stderr.String()
		if strings.Contains(all, secret) {
			t.Errorf("%s has logged a token", p)
		}
		if strings.Contains(all, "DATA RACE") {
			t.Errorf("%s: the race detector found\n%s", p, all)
		}
	}
}

// slowness is how long the machine takes for what is a matter of milliseconds on one that
// is not busy.
func slowness() time.Duration {
	began := time.Now()
	_ = exec.Command("workload-identity-exporter", "-version").Run()
	return time.Since(began)
}
