package metadata

import (
	"sync"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// pauses adds up for how long the process did not run while a probe was under way,
// because it was stopped (SIGSTOP, a frozen cgroup, a suspended machine) or got no
// CPU: the time between ticks that should have been closer. The first tick comes
// long after an answer does, so that a probe of a healthy server costs one timer.
type pauses struct {
	every time.Duration

	mu      sync.Mutex
	timer   *time.Timer
	last    time.Time
	lost    time.Duration
	stopped bool
}

// tickOf is the time between ticks: short beside the deadline, but not so short
// that the ticks themselves keep a machine busy.
func tickOf(timeout time.Duration) time.Duration { return max(timeout/20, 10*time.Millisecond) }

func watchPauses(timeout time.Duration) *pauses {
	p := &pauses{every: tickOf(timeout), last: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(p.every, p.again)
	return p
}

func (p *pauses) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.tick(time.Now())
		p.timer.Reset(p.every)
	}
}

// tick adds the time since the last one if it is so much longer than it should be
// that a busy scheduler does not explain it.
func (p *pauses) tick(now time.Time) {
	if since := now.Sub(p.last); since >= 4*p.every {
		p.lost += since
	}
	p.last = now
}

// stop ends the ticks, and returns for how long the process did not run.
func (p *pauses) stop() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.timer.Stop()
	p.tick(time.Now())
	return p.lost
}

// isVoid reports whether the pauses explain that an answer did not come: a server
// that answers within half the deadline would have answered in time without them,
// and one that closed the connection may have waited too long. What did come is
// what a server said, whenever it is read.
func isVoid(o identity.Observation, lost, timeout time.Duration) bool {
	if lost < timeout/2 {
		return false
	}
	for _, r := range o.Requests() {
		if !r.Live() || r.Failure == nil {
			continue
		}
		switch r.Failure.Reason {
		case identity.Timeout, identity.Unreachable, identity.LocalResources:
			return true
		default:
		}
	}
	return false
}
