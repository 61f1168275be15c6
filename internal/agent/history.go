package agent

import (
	"slices"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	// maxProbes is how many probes are kept.
	maxProbes = 100
	// newestProbes of them are the newest ones, whatever they say: old failures must
	// not hide what is going on now.
	newestProbes = 50
)

// Probe is a single probe, as it was judged before anything was confirmed. It
// says nothing in foreign words.
type Probe struct {
	At    time.Time
	State identity.State
	// Failures are why its requests failed, nil if none did.
	Failures map[identity.Endpoint]identity.Reason
	// Dropped is how many probes between the one before and this one are not kept.
	Dropped int
}

// history is the last probes, in the order of time.
type history []Probe

// add keeps the probe, and drops one if there are too many by that: the oldest
// match that is not among the newest probes, or the oldest of all if there is none.
func (h *history) add(at time.Time, o identity.Observation, v identity.Verdict) {
	p := Probe{At: at, State: v.State}
	for endpoint, r := range o.Requests() {
		if r.Failure == nil {
			continue
		}
		if p.Failures == nil {
			p.Failures = map[identity.Endpoint]identity.Reason{}
		}
		p.Failures[endpoint] = r.Failure.Reason
	}
	*h = append(*h, p)
	if len(*h) <= maxProbes {
		return
	}
	oldest := max(0, slices.IndexFunc((*h)[:len(*h)-newestProbes], func(p Probe) bool { return p.State == identity.Match }))
	(*h)[oldest+1].Dropped += (*h)[oldest].Dropped + 1
	*h = slices.Delete(*h, oldest, oldest+1)
}
