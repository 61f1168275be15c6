package agent

import (
	"fmt"
	"math/rand/v2"
	"slices"
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
	"a": {State: identity.Mismatch, Identity: "a@p.iam.gserviceaccount.com", Server: identity.ServerUnknown},
	"B": {State: identity.Mismatch, Identity: "b@p.iam.gserviceaccount.com", Server: identity.ServerGKE},
	"P": {State: identity.Unbound, Identity: "p.svc.id.goog", Server: identity.ServerGKE},
	"D": {State: identity.TokenDenied, Identity: "app@p.iam.gserviceaccount.com", Server: identity.ServerGKE},
	"U": {State: identity.Unavailable, Server: identity.ServerUnknown},
	"u": {State: identity.Unavailable, Server: identity.ServerGKE},
	"S": {State: identity.Starting, Server: identity.ServerUnknown},
	"x": {State: identity.UnknownExpectation, Identity: "node@p.iam.gserviceaccount.com", Server: identity.ServerUnknown},
	// What cannot be judged since the expectation could not be read.
	"?": {State: identity.UnknownExpectation, Identity: "a@p.iam.gserviceaccount.com", Server: identity.ServerGKE},
}

// run carries out a confirmation. The probes have these verdicts in turn, the last
// one for ever; read and lag are what the two kinds of reads do: "" nothing,
// "failed", or the letter that explains what is observed from then on.
func run(t *testing.T, c *confirmation, probes, read, lag string) (steps []string) {
	t.Helper()
	explained := "" // by this letter
	made := 0
	probe := func() {
		letter := string(probes[min(made, len(probes)-1)])
		made++
		steps = append(steps, "probe")
		// The observation carries the letter, so that it can be judged again.
		o := identity.Observation{Email: identity.Email{Identity: identity.Identity(letter)}}
		v := verdicts[letter]
		if explained != "" && explainable(v) {
			v = verdicts[explained]
		}
		c.probed(o, v)
	}
	judge := func(o identity.Observation) identity.Verdict {
		v := verdicts[string(o.Email.Identity)]
		if explained != "" && explainable(v) {
			return verdicts[explained]
		}
		return v
	}
	does := func(what string) {
		if what == "changed" {
			c.expectationRead(doubt{"it was changed", true}, judge)
			return
		}
		if what == "failed" {
			c.expectationRead(doubt{why: "it could not be read"}, judge)
			return
		}
		if what != "" {
			explained = what
		}
		c.expectationRead(doubt{}, judge)
	}
	probe()
	for c.next() != finish {
		if len(steps) > 30 {
			t.Fatalf("no end after %v", steps)
		}
		switch c.next() {
		case probeAgain:
			probe()
		case readExpectation:
			steps = append(steps, "read")
			does(read)
		case readAfterCacheLag:
			steps = append(steps, "lag")
			does(lag)
		case finish:
		}
	}
	return steps
}

func TestConfirmation(t *testing.T) {
	for _, tt := range []struct {
		name      string
		stated    string
		probes    string
		read, lag string
		steps     string
		want      string
		settings  func(*confirmation)
	}{
		{name: "what is stated holds", stated: "M", probes: "M", steps: "probe", want: "M"},
		{name: "the first match needs nothing", stated: "S", probes: "M", steps: "probe", want: "M"},
		{name: "a check confirms it", stated: "S", probes: "M", steps: "probe probe probe", want: "M", settings: func(c *confirmation) { c.confirmsFirst = true }},
		{name: "the VM's server", stated: "M", probes: "N", steps: "probe read probe probe", want: "N"},
		{name: "a recovery is confirmed", stated: "N", probes: "M", steps: "probe probe probe", want: "M"},
		{name: "one lucky connection", stated: "N", probes: "MN", steps: "probe probe", want: "N"},
		{name: "a blip", stated: "M", probes: "NNM", steps: "probe read probe probe", want: "M"},
		{name: "an outage", stated: "M", probes: "U", steps: "probe probe probe", want: "U"},
		{name: "a refused token", stated: "M", probes: "D", steps: "probe probe probe", want: "D"},
		{name: "the VM's server gives the expected identity", stated: "M", probes: "m", steps: "probe probe probe", want: "m"},

		{name: "the read explains it", stated: "M", probes: "A", read: "M", steps: "probe read", want: "M"},
		{name: "a foreign account is read about twice", stated: "M", probes: "A", steps: "probe read probe probe lag", want: "A"},
		{name: "the second read explains it", stated: "M", probes: "A", lag: "M", steps: "probe read probe probe lag", want: "M"},
		{name: "a node's account needs one read", stated: "M", probes: "n", steps: "probe read probe probe", want: "n"},
		{name: "or none that is good", stated: "M", probes: "N", read: "failed", steps: "probe read probe probe", want: "N"},
		{name: "a foreign account without a read", stated: "M", probes: "A", read: "failed", steps: "probe read probe probe", want: "?"},
		{name: "without the second one", stated: "M", probes: "A", lag: "failed", steps: "probe read probe probe lag", want: "?"},
		{name: "and it stays so", stated: "?", probes: "A", read: "failed", steps: "probe read", want: "?"},
		{name: "a recovery meanwhile", stated: "?", probes: "M", steps: "probe probe probe", want: "M"},
		{name: "what was stated on a fresh read stays", stated: "A", probes: "A", read: "failed", steps: "probe", want: "A"},
		{name: "nothing explains it to WI_EXPECTED_EMAILS", stated: "M", probes: "A", steps: "probe read probe probe", want: "A", settings: func(c *confirmation) { c.byAnnotation = false }},
		{name: "one answer of the VM's server among foreign ones", stated: "M", probes: "NAAA", lag: "M", steps: "probe read probe probe probe lag", want: "M"},
		{name: "a node's account a moment after a change", stated: "M", probes: "n", read: "changed", steps: "probe read probe probe", want: "x"},
		{name: "the VM's server a moment after a change", stated: "M", probes: "N", read: "changed", steps: "probe read probe probe", want: "N"},
		{name: "the same without a read is no fallback", stated: "M", probes: "NAAA", read: "failed", steps: "probe read probe probe probe", want: "?"},

		// Hostile answers: "email: two wrong accounts in turns" and the rows like it.
		{name: "two wrong accounts in turns", stated: "M", probes: "ABABAB", steps: "probe read probe probe lag", want: "A"},
		{name: "and they make no new label value each time", stated: "A", probes: "BBA", steps: "probe read probe probe", want: "A"},
		{name: "unless one of them stays", stated: "A", probes: "B", steps: "probe read probe probe lag", want: "B"},
		{name: "a node's account and a foreign one in turns", stated: "M", probes: "ANANAN", steps: "probe read probe probe probe probe probe lag", want: "N"},
		{name: "a mixed probe before the VM's server", stated: "M", probes: "ANNN", steps: "probe read probe probe probe", want: "N"},
		{name: "a node's account, the server known now and then", stated: "M", probes: "nNnNnN", steps: "probe read probe probe", want: "N"},
		{name: "a foreign account, the server known now and then", stated: "M", probes: "aAaAaA", steps: "probe read probe probe lag", want: "A"},
		{name: "no email, the server known now and then", stated: "M", probes: "uUuUuU", steps: "probe probe probe", want: "u"},
		{name: "right and wrong in turns", stated: "M", probes: "AMAMAM", steps: "probe read probe", want: "M"},
		{name: "no two of a class, and no match", stated: "M", probes: "NUNUNU", steps: "probe read probe probe read probe probe read probe", want: "U"},
		{name: "nothing accuses any more", stated: "N", probes: "MUMUMU", steps: "probe probe probe probe probe probe", want: "U"},
		{name: "something still does", stated: "N", probes: "MUAUMU", steps: "probe probe probe read probe probe probe", want: "N"},

		{name: "a start without an answer is no news", stated: "S", probes: "U", steps: "probe probe probe", want: "S", settings: inGrace},
		{name: "nor one that contradicts itself", stated: "S", probes: "NUNUNU", steps: "probe read probe probe read probe probe read probe", want: "S", settings: inGrace},
		{name: "a wrong identity is", stated: "S", probes: "N", steps: "probe read probe probe", want: "N", settings: inGrace},
		{name: "after the grace it is one", stated: "S", probes: "U", steps: "probe probe probe", want: "U"},
		{name: "contradictions are, too", stated: "S", probes: "NUNUNU", steps: "probe read probe probe read probe probe read probe", want: "U"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := confirmation{stated: verdicts[tt.stated], byAnnotation: true}
			grace := false
			if tt.settings != nil {
				tt.settings(&c)
				grace = c.stated.Why == graceMark
			}
			steps := run(t, &c, tt.probes, tt.read, tt.lag)
			if got := strings.Join(steps, " "); got != tt.steps {
				t.Errorf("steps %q, want %q", got, tt.steps)
			}
			if got := c.result(grace); !got.Same(verdicts[tt.want]) {
				t.Errorf("states %+v, want %+v", got, verdicts[tt.want])
			}
		})
	}
}

// graceMark tells the table that a start is in its grace.
const graceMark = "in grace"

func inGrace(c *confirmation) { c.stated.Why = graceMark }

func TestWhatIsStatedSaysThatTheAnswersDiffer(t *testing.T) {
	c := confirmation{stated: verdicts["M"]}
	run(t, &c, "AB", "", "")
	if got := c.result(false).Why; !strings.Contains(got, "the answers differ") {
		t.Errorf("why %q", got)
	}
	c = confirmation{stated: verdicts["M"]}
	run(t, &c, "A", "", "")
	if got := c.result(false).Why; strings.Contains(got, "differ") {
		t.Errorf("why %q, though they do not", got)
	}
}

// The two promises of a confirmation, for any answers: no match in the window, no
// match is stated; and nobody is accused unless three probes in a row accuse.
func TestNoMatchWithoutAMatchAndNoAccusationWithoutThree(t *testing.T) {
	letters := []string{"M", "m", "N", "n", "A", "a", "B", "P", "D", "U", "u"}
	reads := []string{"", "", "failed", "M"}
	random := rand.New(rand.NewPCG(5, 6)) //nolint:gosec // repeatable
	reached := map[identity.State]int{}
	for range 20_000 {
		var probes strings.Builder
		for range maxProbesOfCycle {
			if n := probes.Len(); n > 0 && random.IntN(3) == 0 {
				probes.WriteByte(probes.String()[n-1]) // answers often stay
				continue
			}
			probes.WriteString(letters[random.IntN(len(letters))])
		}
		stated := verdicts[append(letters, "S", "?")[random.IntN(len(letters)+2)]]
		c := confirmation{stated: stated, byAnnotation: random.IntN(2) == 0, confirmsFirst: random.IntN(4) == 0}
		read, lag := reads[random.IntN(len(reads))], reads[random.IntN(len(reads))]
		steps := run(t, &c, probes.String(), read, lag)
		grace := random.IntN(2) == 0
		v := c.result(grace)
		reached[v.State]++
		tells := func() string {
			return fmt.Sprintf("stated %s, probes %s, reads %q %q, steps %v, grace %t: states %+v", stated.State, probes.String(), read, lag, steps, grace, v)
		}
		of := func(want class) (n, row int) {
			for _, p := range c.probes {
				if classOf(p.verdict) != want {
					row = 0
					continue
				}
				n++
				row++
			}
			return n, row
		}
		if n, _ := of(matches); n == 0 && v.State == identity.Match {
			t.Fatalf("no probe is a match: %s", tells())
		}
		n, row := of(accuses)
		if !stated.State.Accuses() && v.State.Accuses() && row < agreeingProbes {
			t.Fatalf("%d probes in a row accuse: %s", row, tells())
		}
		if v.State.Accuses() && n == 0 {
			t.Fatalf("no probe accuses: %s", tells())
		}
		if explainable(v) && !explainable(stated) && c.byAnnotation && c.fresh != readTwice {
			t.Fatalf("an annotation may explain it: %s", tells())
		}
		if len(c.probes) > maxProbesOfCycle {
			t.Fatalf("%d probes: %s", len(c.probes), tells())
		}
	}
	for _, s := range slices.Concat(identity.VerdictStates(), []identity.State{identity.Starting}) {
		if reached[s] == 0 {
			t.Errorf("the state %s was never reached", s)
		}
	}
}
