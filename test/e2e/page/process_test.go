package page

import (
	"bytes"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is a program that the suite started.
type process struct {
	name  string
	log   lockedBuffer
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of its end, after ended is closed
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

// start runs a program with this environment and no other.
func start(name, path string, environment []string, arguments ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(path, arguments...), ended: make(chan struct{})}
	p.cmd.Env = environment
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
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

// stop asks the process to end, and waits for it. It may have ended before.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("%s ended with %w", p.name, p.err)
		}
		return nil
	case <-time.After(soon):
		p.kill()
		return fmt.Errorf("%s did not end in %s after SIGTERM", p.name, soon)
	}
}

// kill ends the process at once, as the kernel does when memory is short.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}
