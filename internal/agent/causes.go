package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	// settingsInterval is how often the settings of the cluster are read while
	// nothing is wrong: people edit them rarely, and each of 15,000 agents reads them.
	settingsInterval = 2 * time.Hour
	// wrongInterval is the same while something is.
	wrongInterval = time.Hour
	// shownInterval is how soon those are read again that a suspicion or a risk rests on,
	// as long as that is shown: people edit them now, and look at the page. It doubles with
	// each read that finds no change, up to longestShown while something is wrong, and to
	// longestRisk: a risk may be shown for months.
	shownInterval = 2 * time.Minute
	longestShown  = 10 * time.Minute
	longestRisk   = time.Hour
	// They are read first between these two after the start: all agents may start at once.
	settingsFrom = 30 * time.Second
	settingsBy   = 30 * time.Minute
	// unansweredWithin is the window, anywhere in which they are read again after the API
	// server gave no answer, or had too much to do. It doubles each time, up to
	// settingsInterval: 15,000 agents may have asked at once.
	unansweredWithin = time.Minute
	// settingsTimeout bounds such a read, which delays the probes meanwhile.
	settingsTimeout = 2 * time.Second
	// claimsTimeout leaves the API server its part of that time.
	claimsTimeout = 500 * time.Millisecond
	// diagnosisInterval is how often a good verdict is looked at for risks.
	diagnosisInterval = time.Minute
	// replacedFor is how long a changed annotation may explain something.
	replacedFor = 10 * time.Minute
	// recoveredFor is how long after a repair Pods may still use the wrong identity:
	// as long as a token lives.
	recoveredFor = time.Hour
)

// causes is what the loop knows of why the verdict is as it is.
type causes struct {
	settings   diagnose.Settings
	claims     identity.Claims
	readAt     time.Time // when these two were read as a whole, zero if never
	nextRead   time.Time // when they are read again, if nothing is wrong
	unanswered int       // reads in a row without all answers
	// refresh is when those are read that a risk or a suspicion rests on, and unchanged
	// how many such reads in a row found what was known.
	refresh   time.Time
	unchanged int
	// earlyReads are those that a change of state causes, owed while there may be none.
	earlyReads *rate.Limiter
	owed       bool
	// threatened are the risks of the last match, kept while another state lasts.
	threatened []diagnose.Cause

	diagnosed   identity.Verdict // the one that was diagnosed last
	since       time.Time        // when it was for the first time
	diagnosedAt time.Time
	wrongEnded  time.Time // when the last wrong identity ended, zero if none did
}

func newCauses() causes {
	return causes{earlyReads: rate.NewLimiter(rate.Every(earlyInterval), earlyBurst)}
}

// readSettings reads the settings of the cluster, and the claims of an identity
// token, when they are due or when another verdict has just been published, and
// publishes what they say about it.
func (a *Agent) readSettings(ctx context.Context, turned bool) {
	c := &a.causes
	if (a.ClusterSettings == nil && a.Claims == nil) || ctx.Err() != nil {
		return
	}
	scope, due := c.due(turned, a.Snapshot())
	if !due {
		return
	}
	if turned && a.mayFollowAnnotation() {
		if !sleep(ctx, cacheLag) {
			return
		}
		a.beat()
	}
	limited, cancel := context.WithTimeout(ctx, settingsTimeout)
	defer cancel()
	at, claims, settings := time.Now(), c.claims, c.settings
	if scope != diagnose.Refresh {
		claims = a.readClaims(limited)
	}
	if a.ClusterSettings != nil {
		settings = a.ClusterSettings(limited, scope, c.settings)
	}
	a.beat()
	if ctx.Err() != nil {
		return
	}
	c.keep(settings, a.Wall())
	c.claims, c.refresh = claims, time.Now().Add(a.slot(c.shownFor(a.stated().State)))
	if scope == diagnose.Everything {
		c.readAt, c.owed = at, false
	}
	if scope != diagnose.Refresh {
		c.nextRead = time.Now().Add(a.untilNextRead())
	}
	next := *a.Snapshot()
	next.Diagnosis = a.diagnose(next.Observation, next.Verdict)
	a.snapshot.Store(&next)
}

// untilNextRead is how long the settings that were just read will do.
func (a *Agent) untilNextRead() time.Duration {
	c := &a.causes
	if len(c.settings.Unanswered) > 0 {
		window := min(unansweredWithin<<min(c.unanswered, 10), settingsInterval)
		c.unanswered++
		return time.Duration(a.Random() * float64(window))
	}
	c.unanswered = 0
	if a.stated().State != identity.Match {
		return a.slot(wrongInterval)
	}
	return a.slot(settingsInterval)
}

// due tells whether settings are to be read, and which.
func (c *causes) due(turned bool, s *Snapshot) (diagnose.Scope, bool) {
	c.owed = c.owed || turned
	regular := !time.Now().Before(c.nextRead)
	switch {
	case c.owed && c.earlyReads.Allow(), regular && (c.readAt.IsZero() || s.Verdict.State != identity.Match):
		return diagnose.Everything, true
	case regular:
		return diagnose.Routine, true
	case s.Diagnosis.RestsOnCilium() && !time.Now().Before(c.refresh):
		return diagnose.Refresh, true
	}
	return 0, false
}

// shownFor is how old the settings may be on which something rests that is shown.
func (c *causes) shownFor(s identity.State) time.Duration {
	longest := longestRisk
	if s != identity.Match {
		longest = longestShown
	}
	return min(shownInterval<<min(c.unchanged, 10), longest)
}

// keep takes the settings. A key that was removed leaves no time in the object, but is
// missed if it was seen before.
func (c *causes) keep(s diagnose.Settings, now time.Time) {
	before := c.settings.Cilium
	same := func(a, b diagnose.NodeConfig) bool { return a.Name == b.Name && maps.Equal(a.Defaults, b.Defaults) }
	if c.unchanged++; !maps.Equal(before.Data, s.Cilium.Data) || !slices.EqualFunc(c.settings.NodeConfigs.Items, s.NodeConfigs.Items, same) {
		c.unchanged = 0
	}
	if before.State == diagnose.Read && s.Cilium.State == diagnose.Read && !maps.Equal(before.Data, s.Cilium.Data) && !s.Cilium.Changed.After(before.Changed) {
		s.Cilium.Changed = now
	}
	c.settings = s
}

// mayFollowAnnotation reports whether an annotation may explain what is stated that
// nobody has waited for: WI_EXPECTED_EMAILS wins over it, so that the expectation is
// not read, and the API server may learn of it a moment later than the metadata server.
func (a *Agent) mayFollowAnnotation() bool {
	state := a.stated().State
	return a.ClusterSettings != nil && a.expectation.now.Source == identity.SourceConfig &&
		(state == identity.Mismatch || state == identity.Unbound)
}

func (a *Agent) readClaims(ctx context.Context) identity.Claims {
	if a.Claims == nil {
		return identity.Claims{}
	}
	limited, cancel := context.WithTimeout(ctx, claimsTimeout)
	defer cancel()
	return a.Claims(limited)
}

// diagnose says why the verdict is as it is, by what is known now.
func (a *Agent) diagnose(o identity.Observation, v identity.Verdict) diagnose.Diagnosis {
	c := &a.causes
	c.diagnosedAt = time.Now()
	if !v.Same(c.diagnosed) {
		c.diagnosed, c.since = v, c.diagnosedAt
	}
	if last := a.Snapshot(); last.Verdict.State == identity.Match {
		c.threatened = nil
		for _, r := range last.Diagnosis.Risks {
			c.threatened = append(c.threatened, r.Cause)
		}
	}
	old := c.readAt.Before(c.since)
	f := diagnose.Facts{
		Loop: diagnose.Loop{
			Verdict: v, Observation: o, Expectation: a.expectation.now,
			OldSettings: old,
			Recovered:   !c.wrongEnded.IsZero() && time.Since(c.wrongEnded) < recoveredFor,
			Threatened:  c.threatened,
		},
		Settings: c.settings,
		Process:  a.Process,
	}
	if !old {
		f.Claims = c.claims // settings last, a witness speaks of what it saw
	}
	if time.Since(a.expectation.changed) < replacedFor {
		f.Replaced = a.expectation.before
	}
	return diagnose.Diagnose(f)
}
