package agent

import (
	"slices"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Snapshot is all that the agent knows at one moment. It is a value: readers
// share it, and nobody changes it.
type Snapshot struct {
	// Verdict is what is stated: confirmed, and not always that of the last probe.
	Verdict identity.Verdict
	// Since is when its state was entered.
	Since time.Time

	// Expectation is the last one that was read well, ExpectationRead when that
	// was, zero if never. ExpectationError is that of the last read, nil if it was good.
	Expectation      identity.Expectation
	ExpectationRead  time.Time
	ExpectationError error

	// Observation is that of the last probe, finished at LastProbe (zero before the first).
	Observation identity.Observation
	LastProbe   time.Time
	// Probes are the last ones, in the order of time. What is not a match is kept longest.
	Probes []Probe

	// Diagnosis is why the verdict is as it is, by the facts that are known.
	Diagnosis diagnose.Diagnosis

	// TokenExpiry is when the last token expires, zero if there was none, or none that said so.
	TokenExpiry time.Time
	// TimeToFirstToken is from the start of the process, 0 if there was none yet.
	TimeToFirstToken time.Duration

	// Changes are the latest changes of state, the newest first.
	Changes []Change

	probed     time.Time // when a probe finished last
	staleAfter time.Duration
}

// Change is a change of state.
type Change struct {
	At   time.Time
	From identity.State
	To   identity.Verdict
}

const maxChanges = 20

func (s *Snapshot) remember(c Change) {
	s.Changes = slices.Insert(slices.Clone(s.Changes[:min(len(s.Changes), maxChanges-1)]), 0, c)
}

// State is the state at this moment, and since when: the published one, or
// Stale if no probe has finished for three intervals.
func (s *Snapshot) State() (identity.State, time.Time) {
	if time.Since(s.probed) > s.staleAfter {
		last := s.LastProbe
		if last.IsZero() {
			last = s.Since
		}
		return identity.Stale, last.Add(s.staleAfter)
	}
	return s.Verdict.State, s.Since
}

// Ready reports whether there is a verdict, whatever it is. A rollout that waits
// for it never leaves a second node without one.
func (s *Snapshot) Ready() bool { return s.Verdict.State != identity.Starting }
