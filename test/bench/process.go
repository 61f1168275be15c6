package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout is how long a program may take until it listens.
	startTimeout = 5 * time.Second
	// stopTimeout is how long it may take to end after SIGTERM, before it is killed.
	stopTimeout = 5 * time.Second
)

// process is a program that runs, listening on the address.
type process struct {
	address string

	began   time.Time
	command *exec.Cmd
	log     *startLog
	cancel  context.CancelFunc
	exited  chan struct{} // closed when it has ended
}

// start runs the program until stop is called or the context ends, and returns
// when it has logged the address on which it listens.
func start(ctx context.Context, path string, environment []string, arguments ...string) (*process, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &process{
		command: exec.CommandContext(ctx, path, arguments...), //nolint:gosec // the path is this program's own argument
		log:     &startLog{address: make(chan string, 1)},
		cancel:  cancel,
		exited:  make(chan struct{}),
	}
	p.command.Env = environment
	p.command.Stderr = p.log
	p.command.Cancel = func() error { return p.command.Process.Signal(syscall.SIGTERM) }
	p.command.WaitDelay = stopTimeout
	p.began = time.Now()
	if err := p.command.Start(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(p.exited)
		_ = p.command.Wait() // stop looks at the state that it leaves
	}()
	select {
	case p.address = <-p.log.address:
		return p, nil
	case <-p.exited:
		cancel()
		return nil, p.failure("ended at once")
	case <-time.After(startTimeout):
		return nil, errors.Join(p.failure("did not log an address"), p.stop())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), p.stop())
	}
}

func (p *process) pid() int { return p.command.Process.Pid }

// stop ends the process, and returns an error unless it ended of its own accord
// and with the exit code 0.
func (p *process) stop() error {
	p.cancel()
	<-p.exited
	if p.command.ProcessState.ExitCode() != 0 {
		return p.failure("ended badly")
	}
	return nil
}

// failure says what the process did wrong, with the end of its log.
func (p *process) failure(what string) error {
	state := "still running"
	select {
	case <-p.exited:
		state = p.command.ProcessState.String()
	default:
	}
	return fmt.Errorf("%s %s (%s), its log ends with:\n%s", p.command.Path, what, state, p.log.end())
}

// startLog finds the address in the first line that has one, and keeps the end
// of the log. The programs listen on port 0, so that benches do not get in each
// other's way, and only they know which port that became.
type startLog struct {
	address chan string // has room for one

	mu    sync.Mutex
	kept  []byte
	found bool
}

const maxKept = 4 << 10

// Write implements io.Writer. The logger writes whole lines, one at a time.
func (l *startLog) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, text...)
	if !l.found {
		if address := loggedAddress(l.kept); address != "" {
			l.found = true
			l.address <- address
		}
	}
	l.kept = l.kept[max(0, len(l.kept)-maxKept):]
	return len(text), nil
}

func (l *startLog) end() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.kept)
}

// loggedAddress is the field "address" of the first JSON line that has one.
func loggedAddress(log []byte) string {
	for line := range bytes.Lines(log) {
		var fields struct{ Address string }
		if json.Unmarshal(line, &fields) == nil && fields.Address != "" {
			return fields.Address
		}
	}
	return ""
}
