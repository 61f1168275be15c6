package simulator

import (
	"maps"
	"strings"
	"sync"
)

// Stats counts what clients did, from the start of the simulator.
type Stats struct {
	// Fault is what is set, and Playing what is effective at this moment: they
	// differ for flap.
	Fault   Fault `json:"fault"`
	Playing Fault `json:"playing"`
	// Connections are the TCP connections that were accepted for metadata.
	Connections int64 `json:"connections"`
	// BytesWritten were sent on them, headers included.
	BytesWritten int64 `json:"bytes_written"`
	// Requests are counted by path, without the query.
	Requests map[string]int64 `json:"requests"`
}

// Stats is a snapshot of all counters.
func (s *Simulator) Stats() Stats {
	s.mu.Lock()
	fault, playing := s.fault, s.playing
	s.mu.Unlock()
	return Stats{
		Fault: fault, Playing: playing,
		Connections:  s.Connections(),
		BytesWritten: s.BytesWritten(),
		Requests:     s.requests.snapshot(),
	}
}

// Connections counts the TCP connections that were accepted for metadata. A
// client that opens a new one for each request has as many as requests.
func (s *Simulator) Connections() int64 { return s.gate.accepted.Load() }

// BytesWritten counts what was sent on them, headers included.
func (s *Simulator) BytesWritten() int64 { return s.gate.written.Load() }

// Requests counts the requests for metadata whose path ends in the suffix: all
// with "", those for tokens with "/token".
func (s *Simulator) Requests(pathSuffix string) int64 {
	var sum int64
	for path, count := range s.requests.snapshot() {
		if strings.HasSuffix(path, pathSuffix) {
			sum += count
		}
	}
	return sum
}

// requests counts by path.
type requests struct {
	mu     sync.Mutex
	byPath map[string]int64
}

// mostPaths bounds the memory that a client with ever new paths takes; what goes
// beyond is counted as otherPaths.
const (
	mostPaths  = 1000
	otherPaths = "(other)"
)

func (r *requests) count(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byPath == nil {
		r.byPath = map[string]int64{}
	}
	if _, known := r.byPath[path]; !known && len(r.byPath) >= mostPaths {
		path = otherPaths
	}
	r.byPath[path]++
}

func (r *requests) snapshot() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := maps.Clone(r.byPath)
	if counts == nil {
		counts = map[string]int64{}
	}
	return counts
}
