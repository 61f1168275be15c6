package agent_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func TestAValidTokenIsAskedForOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Hour)
		if n := len(w.tokenProbes); n < 60 || n > 73 {
			t.Errorf("%d requests for a token in an hour, want 60 to 72", n)
		}
		for i := 1; i < len(w.tokenProbes); i++ {
			if gap := w.tokenProbes[i].Sub(w.tokenProbes[i-1]); gap > time.Minute {
				t.Errorf("two requests are %s apart, want at most a minute", gap)
			}
		}
	})
}

func TestATokenIsAskedForEachTime(t *testing.T) {
	short := gke(app)
	short.Token.Lifetime = interval - time.Second
	refused := denied()
	for name, o := range map[string]identity.Observation{"it expires before the next probe": short, "it was refused": refused, "nobody answers": down()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, nil)
				w.answers(o)
				w.after(10 * time.Minute)
				if len(w.tokenProbes) != len(w.probes) {
					t.Errorf("%d of %d probes asked for a token, want all", len(w.tokenProbes), len(w.probes))
				}
			})
		})
	}
	t.Run("its interval is that of the probes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, func(o *agent.Options) { o.TokenInterval = interval })
			w.after(10 * time.Minute)
			if len(w.tokenProbes) != len(w.probes) {
				t.Errorf("%d of %d probes asked for a token, want all", len(w.tokenProbes), len(w.probes))
			}
		})
	})
}

// Each request for a token is one of too many, of the node's Pods or of all whom a quota
// is for. The email costs nobody anything.
func TestAThrottledTokenIsAskedForLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Minute)
		throttled := gke(app)
		throttled.Token = identity.Token{Request: failed(identity.Throttled)}
		began := time.Now()
		w.answers(throttled)
		w.after(2 * time.Minute)
		w.wants(t, identity.Unavailable)
		probes, tokens := len(w.probes), len(w.tokenProbes)
		for range 60 {
			w.after(interval)
			if got, want := w.suspects(), "proves throttled"; w.Snapshot().Verdict.State != identity.Unavailable || got != want {
				t.Fatalf("%s with the suspects %v, want unavailable with %v also where no token was asked for", w.Snapshot().Verdict.State, got, want)
			}
		}
		if n := len(w.tokenProbes) - tokens; n < 9 || n > 11 {
			t.Errorf("%d requests for a token in ten minutes, want one a minute: %v", n, w.tokenProbes)
		}
		if n := len(w.probes) - probes; n < 60 {
			t.Errorf("%d probes in ten minutes, want as many as ever", n)
		}
		var first int
		for _, at := range w.tokenProbes {
			if d := at.Sub(began); d > 0 && d < 2*time.Minute {
				first++
			}
		}
		if first > 7 {
			t.Errorf("%d requests for a token in the first two minutes, want three to state it, and then after 20, 40 and 60 seconds", first)
		}
		w.answers(gke(app))
		w.after(70 * time.Second)
		w.wants(t, identity.Match)
		w.answers(vm(customSA)) // it is looked at once a minute no more
		w.after(interval + time.Second)
		w.wants(t, identity.NodeFallback)
	})
}

// Where nothing was answered, the email tells that the server answers again.
func TestWhatWasThrottledAltogetherIsWellAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Minute)
		all := failed(identity.Throttled)
		w.answers(identity.Observation{Email: identity.Email{Request: all}, Token: identity.Token{Request: all}, Server: identity.Responder{Request: all, Server: identity.ServerUnknown}})
		w.after(10 * time.Minute)
		w.wants(t, identity.Unavailable)
		w.answers(gke(app))
		w.after(interval + time.Second)
		w.wants(t, identity.Match)
	})
}

// Its server need not say how long a token lives.
func TestATokenOfUnknownLifetimeIsAskedForOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		o := gke(app)
		o.Token.Lifetime = 0
		w.answers(o)
		w.after(time.Hour)
		if n := len(w.tokenProbes); n < 60 || n > 73 {
			t.Errorf("%d requests for a token in an hour, want 60 to 72", n)
		}
		if s := w.Snapshot(); !s.TokenExpiry.IsZero() || s.TimeToFirstToken == 0 {
			t.Errorf("expiry %s and first token after %s, want none and a time", s.TokenExpiry, s.TimeToFirstToken)
		}
		w.wants(t, identity.Match)
	})
}

// A valid token of the one identity says nothing about the other one.
func TestANewIdentityIsAskedForItsTokenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(o *agent.Options) { o.TokenInterval = time.Hour })
		w.expects(identity.Expect(app, other), nil)
		w.after(2 * interval)
		o := denied()
		o.Email.Identity = other
		w.answers(o)
		w.after(interval + time.Second)
		w.wants(t, identity.TokenDenied)
		if w.judged[identity.Match] > 3 {
			t.Errorf("%d matches counted: the old token was taken for the new identity's", w.judged[identity.Match])
		}
	})
}

func TestTokenTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.answers(denied())
		w.after(5*interval + time.Second)
		if s := w.Snapshot(); !s.TokenExpiry.IsZero() || s.TimeToFirstToken != 0 {
			t.Errorf("expiry %s and first token after %s, want neither", s.TokenExpiry, s.TimeToFirstToken)
		}
		w.answers(gke(app))
		w.after(interval)
		got := w.Snapshot()
		if got.TimeToFirstToken < 5*interval || got.TimeToFirstToken > 6*interval+time.Second {
			t.Errorf("first token after %s, want that of the sixth probe", got.TimeToFirstToken)
		}
		want := w.tokenProbes[len(w.tokenProbes)-1].Add(time.Hour)
		if !got.TokenExpiry.Equal(want) {
			t.Errorf("the token expires %s, want %s", got.TokenExpiry, want)
		}
		w.after(3 * interval)
		if s := w.Snapshot(); !s.TokenExpiry.Equal(want) || s.TimeToFirstToken != got.TimeToFirstToken {
			t.Errorf("expiry moved to %s, first token to %s, without a new token", s.TokenExpiry, s.TimeToFirstToken)
		}
	})
}

// Downstream tells by it what is known of the token from what a server says now.
func TestATokenThatWasNotAskedForIsMarkedAsReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		if got := w.Snapshot().Observation.Token; !got.Live() {
			t.Errorf("the token of the first probe has the origin %d, want a live one", got.Origin)
		}
		w.after(interval)
		if got := w.Snapshot().Observation.Token; got.Origin != identity.Reused || got.Live() || !got.OK() {
			t.Errorf("the token of the second probe has the origin %d, want a good one that is reused", got.Origin)
		}
		if e := w.Snapshot().Observation.Email; !e.Live() {
			t.Errorf("the email has the origin %d, want a live one", e.Origin)
		}
	})
}

// An email that says nothing, and a 404 for the machine type: whether a metadata server
// answers so, only a token tells, which not each probe asks for. The one who answers
// must not change with it.
func TestATokenIsAskedForWhereItAloneTellsWhoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nil)
		w.after(time.Second)
		servers := map[identity.Server]int{}
		w.answersBy(func(withToken bool) identity.Observation {
			o := gke("")
			o.Email.Failure = failed(identity.Malformed).Failure
			if !withToken {
				o.Server = identity.Responder{Request: failed(identity.NotFound), Server: identity.ServerUnknown}
			}
			return o
		})
		w.after(interval + time.Second)
		for range 20 {
			w.after(interval)
			servers[w.Snapshot().Verdict.Server]++
		}
		if w.wants(t, identity.Unavailable); len(servers) != 1 || servers[identity.ServerGKE] == 0 {
			t.Errorf("the verdicts are about %v, want the GKE server alone", servers)
		}
	})
}
