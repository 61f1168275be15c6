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
}

// due reports whether the next probe must ask for a token: so early that a
// token is never taken for granted for longer than the interval, nor beyond its
// expiry, if that is known.
func (t *token) due(o Options) bool {
	age := time.Since(t.at) + o.Interval
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
}
