package metadata

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func TestPausesAreTheTimeInWhichNothingTicks(t *testing.T) {
	const timeout = 3 * time.Second
	tests := []struct {
		name  string
		ticks []time.Duration // from one to the next
		want  time.Duration
	}{
		{"every tick comes", []time.Duration{150, 150, 151, 149}, 0},
		{"a busy machine lets them wait", []time.Duration{150, 400, 599, 300, 590}, 0},
		{"one stop", []time.Duration{150, 3150, 150}, 3150},
		{"several stops", []time.Duration{1000, 150, 1000, 150, 700}, 2700},
		{"a stop before the first tick", []time.Duration{2900}, 2900},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Now()
			p := pauses{every: tickOf(timeout), last: now}
			for _, d := range tt.ticks {
				now = now.Add(d * time.Millisecond)
				p.tick(now)
			}
			if want := tt.want * time.Millisecond; p.lost != want {
				t.Errorf("pauses of %s, want %s", p.lost, want)
			}
		})
	}
}

func TestAProcessThatRunsHasNoPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := watchPauses(3 * time.Second)
		time.Sleep(3 * time.Second) // time of the bubble
		if lost := p.stop(); lost != 0 {
			t.Errorf("pauses of %s, want none", lost)
		}
		time.Sleep(time.Minute) // nothing ticks any more, or the bubble never ends
	})
}

func TestOnlyFailuresThatAPauseExplainsMakeAProbeVoid(t *testing.T) {
	asked := func(r identity.Reason) identity.Request {
		q := identity.Request{Origin: identity.Asked}
		if r != "" {
			q.Failure = &identity.Failure{Reason: r}
		}
		return q
	}
	const timeout = 3 * time.Second
	tests := []struct {
		name         string
		email, token identity.Request
		lost         time.Duration
		want         bool
	}{
		{"a request ran into its deadline", asked(identity.Timeout), asked(""), timeout, true},
		{"the other one did", asked(""), asked(identity.Timeout), timeout, true},
		{"there were no resources", asked(identity.LocalResources), asked(""), timeout, true},
		{"a pause of half the time", asked(identity.Timeout), asked(""), timeout / 2, true},
		{"a shorter one", asked(identity.Timeout), asked(""), timeout/2 - 1, false},
		{"none", asked(identity.Timeout), asked(identity.Timeout), 0, false},
		{"all requests succeeded", asked(""), asked(""), timeout, false},
		{"the connection was closed", asked(""), asked(identity.Unreachable), timeout, true},
		{"the server answered", asked(identity.Malformed), asked(identity.Denied), timeout, false},
		{"the failure is an old one", asked(""), identity.Request{Origin: identity.Reused, Failure: &identity.Failure{Reason: identity.Timeout}}, timeout, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := identity.Observation{Email: identity.Email{Request: tt.email}, Token: identity.Token{Request: tt.token}}
			if got := isVoid(o, tt.lost, timeout); got != tt.want {
				t.Errorf("void %t, want %t", got, tt.want)
			}
		})
	}
}
