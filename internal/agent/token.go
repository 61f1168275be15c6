package agent

import (
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// token is the last answer of the token endpoint. A valid one is asked for less
// often than the email: IAM and STS pay for tokens, and have quotas.
type token struct {
	answer  identity.Token
	at      time.Time
	expires time.Time // wall clock, zero if that is not known
	of      identity.Identity
	// throttled is how many answers in a row said that there are too many requests.
	throttled int
	// withoutEmail: the server did not give the email then, either.
	withoutEmail bool
}

const (
	// throttledAtOnce are the throttled answers in a row after which the token is asked for
	// less often: as many as it takes to state that.
	throttledAtOnce = 3
	// throttledProbes is how many probes one of them asks for a token then, at last.
	throttledProbes = 6
)

// due reports whether the next probe must ask for a token: so early that a
// token is never taken for granted for longer than the interval, nor beyond its
// expiry, if that is known. Where there are too many requests for tokens (429), it asks
// less and less often: each is one more, of this node's Pods or of all whom the quota of
// IAM and STS is for.
func (t *token) due(o Options) bool {
	age := time.Since(t.at) + o.Interval
	if n := t.throttled - throttledAtOnce; n >= 0 {
		return age > o.Interval*time.Duration(min(2<<min(n, 4), throttledProbes))
	}
	return !t.answer.OK() || age > o.TokenInterval || t.answer.Lifetime > 0 && age > t.answer.Lifetime
}

// isOfAnother reports whether the token at hand was given to another identity.
func (t *token) isOfAnother(e identity.Email) bool {
	return e.OK() && t.answer.OK() && e.Identity != t.of
}

// reused is the answer at hand for a probe that did not ask for one.
func (t *token) reused() identity.Token {
	answer := t.answer
	if answer.Known() {
		answer.Origin = identity.Reused
	}
	return answer
}

func (t *token) keep(o identity.Observation, wall time.Time) {
	t.answer, t.at, t.expires = o.Token, time.Now(), time.Time{}
	if o.Token.Lifetime > 0 {
		t.expires = wall.Add(o.Token.Lifetime)
	}
	if o.Email.OK() {
		t.of = o.Email.Identity
	}
	t.withoutEmail = !o.Email.OK()
	if f := o.Token.Failure; f != nil && f.Reason == identity.Throttled {
		t.throttled++
	} else {
		t.throttled = 0
	}
}
