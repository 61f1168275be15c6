package diagnose_test

import (
	"regexp"
	"slices"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// The alerts name a cause for people where its guide has their state. Why the VM's server
// answers is explained by a fallback; beside that server other states are rare.
func TestGuidesHaveTheStatesThatTheirCausesExplain(t *testing.T) {
	type explained struct {
		cause diagnose.Cause
		state identity.State
	}
	found := map[explained]bool{}
	look := func(f diagnose.Facts) {
		d := diagnose.Diagnose(f)
		for _, s := range slices.Concat(d.Suspects, d.Risks) {
			rare := (f.Verdict.Server == vm || f.Claims.Server == vm) && f.Verdict.State != identity.NodeFallback &&
				f.Verdict.State != identity.Match && s.Cause != diagnose.EnvironmentOverride
			if s.Confidence != diagnose.Possible && !rare {
				found[explained{s.Cause, f.Verdict.State}] = true
			}
		}
	}
	n := 0
	worlds(func(f diagnose.Facts) {
		if n++; n%11 == 0 { // which meets each value of each fact, while none has a multiple of 11 values
			look(f)
		}
	})
	look(facts(fallback(vm), known, iptables))
	look(facts(fallback(gke), configured(app), annotations(identity.AnnotationServiceAccount, string(node))))
	look(facts(verdict(identity.UnknownExpectation, other, gke), func(f *diagnose.Facts) {
		f.Expectation = identity.Expectation{Invalid: "app"}
	}))
	look(facts(verdict(identity.Match, pool, gke), annotations("iam.gke.io/gcp-service-acount", string(app)), func(f *diagnose.Facts) {
		f.Expectation = identity.Expectation{Source: identity.SourceWorkloadPool}
	}))
	for _, g := range diagnose.Guides() {
		for _, s := range g.States {
			if !found[explained{g.Cause, s}] {
				t.Errorf("%s explains %s by its guide, and is never found there", g.Cause, s)
			}
			delete(found, explained{g.Cause, s})
		}
	}
	for e := range found {
		t.Errorf("%s is found for %s, which its guide does not have", e.cause, e.state)
	}
}

// What is rendered into templates of alerts, tables of Markdown and titles needs no
// escaping anywhere.
func TestTitlesAreWordsInALine(t *testing.T) {
	seen := map[string]diagnose.Cause{}
	for _, g := range diagnose.Guides() {
		if !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9 ,'-]{10,90}[A-Za-z]$`).MatchString(g.Title) {
			t.Errorf("%s: title %q", g.Cause, g.Title)
		}
		if other, known := seen[g.Title]; known {
			t.Errorf("%s and %s have the same title", g.Cause, other)
		}
		seen[g.Title] = g.Cause
		if !isSentence(g.Remedy) {
			t.Errorf("%s: the remedy is no sentence: %q", g.Cause, g.Remedy)
		}
	}
}
