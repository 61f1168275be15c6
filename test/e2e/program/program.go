// Package program starts programs for suites, and ends them with the suite.
package program

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// soon is enough for what takes no time, such as the start of a program.
const soon = 30 * time.Second

// Program is one that runs.
type Program struct {
	Name string
	Log  Log

	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of its end, after ended is closed
}

// Log is what a program wrote so far.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Start runs a program with this environment and no other.
func Start(name, path string, environment []string, arguments ...string) (*Program, error) {
	p := &Program{Name: name, cmd: exec.Command(path, arguments...), ended: make(chan struct{})} //nolint:gosec,noctx // the suite chooses and ends it
	p.cmd.Env = environment
	p.cmd.Stdout, p.cmd.Stderr = &p.Log, &p.Log
	// Ctrl-C is for the suite, which ends them; nothing outlives it, however it ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// PID is the process's number.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Signal sends one to the program.
func (p *Program) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Stop asks the program to end, and waits for it. It may have ended before.
func (p *Program) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("%s ended with %w", p.Name, p.err)
		}
		return nil
	case <-time.After(soon):
		p.Kill()
		return fmt.Errorf("%s did not end in %s after SIGTERM", p.Name, soon)
	}
}

// Kill ends the program at once, as the kernel does when memory is short.
func (p *Program) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Ready waits until the program answers at the address, or has ended.
func (p *Program) Ready(address string) error {
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) { // another process
		if _, err := Get(context.Background(), address); err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended at its start with %w:\n%s", p.Name, p.err, &p.Log)
		default:
		}
	}
	return fmt.Errorf("%s is not ready after %s:\n%s", p.Name, soon, &p.Log)
}

// Get returns the body of the answer, which must be 200.
func Get(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", address, answer.Status, body)
	}
	return body, err
}

// FreeAddress is one that a program can be told to listen on, and on which it
// can be started again. Its port is below those that Linux gives to whoever asks for
// any (ip_local_port_range begins at 32768), so that nobody gets it meanwhile.
func FreeAddress() (string, error) {
	var err error
	for range 100 {
		var l net.Listener
		address := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000)) //nolint:gosec // no secret
		if l, err = net.Listen("tcp", address); err == nil {           //nolint:noctx // at once
			return address, l.Close()
		}
	}
	return "", err
}
