package main

import (
	"testing"

	"github.com/VictoriaMetrics/metricsql"
)

// vmalert sends each expression to VictoriaMetrics, whose language is not quite
// Prometheus's: what its parser refuses would never be evaluated there.
func TestVictoriaMetricsReadsEveryRule(t *testing.T) {
	read := 0
	for _, g := range rules(t) {
		for _, r := range g.Rules {
			if _, err := metricsql.Parse(r.Expr.String()); err != nil {
				t.Errorf("%s%s: %v", r.Record, r.Alert, err)
			}
			read++
		}
	}
	if read == 0 {
		t.Error("no rules")
	}
}
