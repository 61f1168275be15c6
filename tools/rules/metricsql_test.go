package main

import (
	"slices"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
	"sigs.k8s.io/yaml"
)

// vmalert sends each expression to VictoriaMetrics, whose language is not quite that
// of Prometheus: what its parser refuses is never evaluated there.
func TestVictoriaMetricsReadsEveryRule(t *testing.T) {
	var exprs []string
	for _, g := range rules(t) {
		for _, r := range g.Rules {
			exprs = append(exprs, r.Expr.String())
		}
	}
	var form clusterRulesForm
	if err := yaml.Unmarshal(read(t, gmpRules), &form); err != nil {
		t.Fatal(err)
	}
	for _, g := range form.Spec.Groups {
		for _, r := range g.Rules {
			exprs = append(exprs, r.Expr)
		}
	}
	if slices.Contains(exprs, "") || len(exprs) == 0 {
		t.Fatal("an expression is empty, or there is none")
	}
	for _, expr := range exprs {
		if _, err := metricsql.Parse(expr); err != nil {
			t.Errorf("%s: %v", expr, err)
		}
	}
}
