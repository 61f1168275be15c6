package web

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// finding is what axe says about a rule.
type finding struct {
	ID, Help string
	Nodes    []struct {
		HTML           string
		FailureSummary string
	}
}

// accessible runs all rules of axe on the page of the tab, those of WCAG AAA,
// best practices and experiments too, except for the ones that are named. What
// axe cannot tell counts as a failure as well.
func (b *tab) accessible(t *testing.T, where string, except ...string) {
	t.Helper()
	script, err := os.ReadFile(axeScript)
	if err != nil {
		t.Fatal(err)
	}
	evaluate[bool](t, b, string(script)+"; typeof axe === 'object'")
	type result struct {
		Violations, Incomplete []finding
		Passes                 int
	}
	got := evaluate[result](t, b, fmt.Sprintf(`(async () => {
		const rules = Object.fromEntries(axe.getRules().map(r => [r.ruleId, {enabled: true}]));
		for (const id of %q.split(' ')) delete rules[id];
		const r = await axe.run(document, {runOnly: {type: 'rule', values: Object.keys(rules)}});
		const plain = all => all.map(f => ({id: f.id, help: f.help, nodes: f.nodes.map(n => ({html: n.html, failureSummary: n.failureSummary}))}));
		return {violations: plain(r.violations), incomplete: plain(r.incomplete), passes: r.passes.length};
	})()`, strings.Join(except, " ")))
	for _, f := range append(got.Violations, got.Incomplete...) {
		for _, n := range f.Nodes {
			t.Errorf("%s: axe: %s (%s): %s\n%s", where, f.ID, f.Help, n.HTML, n.FailureSummary)
		}
	}
	if got.Passes < 20 {
		t.Errorf("%s: axe has passed %d rules, which is not all that apply", where, got.Passes)
	}
}
