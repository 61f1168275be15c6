package main

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// ruleTests is a file of tests for promtool. What it does not name here is not
// to be used: fuzzy_compare would let wrong values pass.
type ruleTests struct {
	RuleFiles          []string `json:"rule_files"`
	EvaluationInterval string   `json:"evaluation_interval"`
	GroupEvalOrder     []string `json:"group_eval_order"`
	Tests              []struct {
		Name        string `json:"name"`
		Interval    string `json:"interval"`
		InputSeries []struct {
			Series string `json:"series"`
			Values string `json:"values"`
		} `json:"input_series"`
		AlertRuleTest []struct {
			EvalTime  string         `json:"eval_time"`
			AlertName string         `json:"alertname"`
			ExpAlerts []expectedText `json:"exp_alerts"`
		} `json:"alert_rule_test"`
		PromqlExprTest []struct {
			Expr       string `json:"expr"`
			EvalTime   string `json:"eval_time"`
			ExpSamples []struct {
				Labels string  `json:"labels"`
				Value  float64 `json:"value"`
			} `json:"exp_samples"`
		} `json:"promql_expr_test"`
	} `json:"tests"`
}

// expectedText is one alert as promtool compares it: all labels, all annotations.
type expectedText struct {
	Labels      map[string]string `json:"exp_labels"`
	Annotations map[string]string `json:"exp_annotations"`
}

// promtool runs any tests there are. So whoever adds an alert is told here which
// ones it needs: the whole text when it begins, nothing one evaluation before,
// and nothing after its end.
func TestEveryAlertIsTestedWhole(t *testing.T) {
	paths, err := filepath.Glob(repository + "/alerts/tests/*.test.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	var groups []string
	for _, g := range rules(t) {
		groups = append(groups, g.Name)
	}
	begins, ends := map[string]bool{}, map[string]bool{}
	for _, path := range paths {
		var file ruleTests
		// Not UnmarshalStrict, which takes an eval_time beside a merged one for a mistake.
		if err := yaml.Unmarshal(read(t, "alerts/tests/"+filepath.Base(path)), &file, yaml.DisallowUnknownFields); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if !slices.Equal(file.GroupEvalOrder, groups) {
			t.Errorf("%s: group_eval_order %v, want %v", path, file.GroupEvalOrder, groups)
		}
		for _, test := range file.Tests {
			if test.Name == "" {
				t.Errorf("%s: a test has no name", path)
			}
			whole, none := map[string][]time.Duration{}, map[string][]time.Duration{}
			for _, a := range test.AlertRuleTest {
				at := span(t, a.EvalTime)
				if len(a.ExpAlerts) == 0 {
					none[a.AlertName] = append(none[a.AlertName], at)
				}
				for _, e := range a.ExpAlerts {
					if e.Annotations["summary"] != "" && e.Annotations["description"] != "" && e.Labels["severity"] != "" {
						whole[a.AlertName] = append(whole[a.AlertName], at)
					}
				}
			}
			for name, at := range whole {
				for _, quiet := range none[name] {
					begins[name] = begins[name] || slices.Contains(at, quiet+span(t, file.EvaluationInterval))
					ends[name] = ends[name] || slices.Min(at) < quiet
				}
			}
		}
	}
	for _, a := range alerts(t) {
		if !begins[a.Alert] {
			t.Errorf("%s: no test compares it whole when it begins, and finds nothing one evaluation before", a.Alert)
		}
		if !ends[a.Alert] {
			t.Errorf("%s: no test finds nothing after its end", a.Alert)
		}
	}
}

func span(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
