package agent

import (
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// verdicts by a letter, for the tables of this file.
var verdicts = map[string]identity.Verdict{
	"M": {State: identity.Match, Identity: "app@p.iam.gserviceaccount.com", Server: identity.ServerGKE},
	"m": {State: identity.Match, Identity: "app@p.iam.gserviceaccount.com", Server: identity.ServerVM},
	"N": {State: identity.NodeFallback, Identity: "node@p.iam.gserviceaccount.com", Server: identity.ServerVM},
	"n": {State: identity.NodeFallback, Identity: "node@p.iam.gserviceaccount.com", Server: identity.ServerUnknown},
	"A": {State: identity.Mismatch, Identity: "a@p.iam.gserviceaccount.com", Server: identity.ServerGKE},
	"B": {State: identity.Mismatch, Identity: "b@p.iam.gserviceaccount.com", Server: identity.ServerGKE},
	"P": {State: identity.Unbound, Identity: "p.svc.id.goog", Server: identity.ServerGKE},
	"D": {State: identity.TokenDenied, Identity: "app@p.iam.gserviceaccount.com", Server: identity.ServerGKE},
	"U": {State: identity.Unavailable, Server: identity.ServerUnknown},
	"u": {State: identity.Unavailable, Server: identity.ServerGKE},
	"S": {State: identity.Starting, Server: identity.ServerUnknown},
}

func TestConfirmation(t *testing.T) {
	for _, tt := range []struct {
		name     string
		stated   string
		probes   string // in turn, the last one for ever
		read     string // what happens to a read: "" ok, "refused", or the letter that it turns the verdict into
		lag      string // what the verdict is after the second read, "" the same
		steps    string // what the machine asked for
		want     string // the letter that is stated
		settings func(*confirmation)
	}{
		{name: "what is stated holds", stated: "M", probes: "M", steps: "probe", want: "M"},
		{name: "the first match needs nothing", stated: "S", probes: "M", steps: "probe", want: "M"},
		{name: "a check confirms it", stated: "S", probes: "M", steps: "probe probe probe", want: "M", settings: func(c *confirmation) { c.confirmsFirst = true }},
		{name: "the VM's server", stated: "M", probes: "N", steps: "probe read probe probe", want: "N"},
		{name: "a recovery is confirmed", stated: "N", probes: "M", steps: "probe probe probe", want: "M"},
		{name: "one lucky connection", stated: "N", probes: "MN", steps: "probe probe", want: "N"},
		{name: "a blip", stated: "M", probes: "NNM", steps: "probe read probe probe", want: "M"},
		{name: "an outage", stated: "M", probes: "U", steps: "probe probe probe", want: "U"},
		{name: "the read explains it", stated: "M", probes: "A", read: "M", steps: "probe read", want: "M"},
		{name: "a foreign account is read about twice", stated: "M", probes: "A", steps: "probe read probe probe lag", want: "A"},
		{name: "the second read explains it", stated: "M", probes: "A", lag: "M", steps: "probe read probe probe lag", want: "M"},
		{name: "a node's account needs one read", stated: "M", probes: "n", steps: "probe read probe probe", want: "n"},
		{name: "it may not be read", stated: "M", probes: "N", read: "refused", steps: "probe read probe read probe read", want: "N"},
		{name: "nor for a foreign account", stated: "M", probes: "A", read: "refused", steps: "probe read probe read probe read", want: "M"},
		{name: "nothing explains it to WI_EXPECTED_EMAILS", stated: "M", probes: "A", steps: "probe read probe probe", want: "A", settings: func(c *confirmation) { c.explainable = false }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := confirmation{stated: verdicts[tt.stated], explainable: true}
			if tt.settings != nil {
				tt.settings(&c)
			}
			steps := []string{"probe"}
			probe := func(i int) {
				c.probed(identity.Observation{}, verdicts[string(tt.probes[min(i, len(tt.probes)-1)])])
			}
			judgeAs := func(letter string) func(identity.Observation) identity.Verdict {
				if letter == "" {
					return func(identity.Observation) identity.Verdict { return c.newest().verdict }
				}
				return func(identity.Observation) identity.Verdict { return verdicts[letter] }
			}
			probe(0)
			for c.next() != finish {
				if len(steps) > 20 {
					t.Fatalf("no end after %v", steps)
				}
				switch c.next() {
				case probeAgain:
					steps = append(steps, "probe")
					probe(len(c.probes))
				case readExpectation:
					steps = append(steps, "read")
					if tt.read == "refused" {
						c.expectationRead(readRefused, judgeAs(""))
						// It asks again only with the next probe.
						continue
					}
					c.expectationRead(readDone, judgeAs(tt.read))
				case readAfterCacheLag:
					steps = append(steps, "lag")
					c.expectationRead(readDone, judgeAs(tt.lag))
				case finish:
				}
			}
			if got := strings.Join(steps, " "); got != tt.steps {
				t.Errorf("steps %q, want %q", got, tt.steps)
			}
			if got := c.result(false); !got.Same(verdicts[tt.want]) {
				t.Errorf("states %+v, want %+v", got, verdicts[tt.want])
			}
		})
	}
}
