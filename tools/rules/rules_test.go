package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const repository = "../.."

func TestWhatIsCommittedIsRendered(t *testing.T) {
	if err := run(repository, true); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(repository + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// rules are those of the plain form.
func rules(t *testing.T) []monitoringv1.RuleGroup {
	t.Helper()
	var spec monitoringv1.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict(read(t, "alerts/workload-identity.rules.yaml"), &spec); err != nil {
		t.Fatal(err)
	}
	return spec.Groups
}

func TestPrometheusOperatorReadsItsForm(t *testing.T) {
	var rule monitoringv1.PrometheusRule
	if err := yaml.UnmarshalStrict(read(t, "deploy/kustomize/overlays/prometheus-operator/prometheusrule.yaml"), &rule); err != nil {
		t.Fatal(err)
	}
	if rule.APIVersion != "monitoring.coreos.com/v1" || rule.Kind != monitoringv1.PrometheusRuleKind {
		t.Errorf("%s %s, want a PrometheusRule", rule.APIVersion, rule.Kind)
	}
	if got, want := marshal(t, rule.Spec.Groups), named(t, marshal(t, rules(t))); got != want {
		t.Error("its groups are not those of the plain form with the names of the overlay")
	}
}

// The types of Google Cloud Managed Service for Prometheus are not published as a
// module that could be had; these are the fields of its documentation.
type clusterRulesForm struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       struct {
		Groups []struct {
			Name     string `json:"name"`
			Interval string `json:"interval"`
			Rules    []struct {
				Record      string            `json:"record,omitempty"`
				Alert       string            `json:"alert,omitempty"`
				Expr        string            `json:"expr"`
				For         string            `json:"for,omitempty"`
				Labels      map[string]string `json:"labels,omitempty"`
				Annotations map[string]string `json:"annotations,omitempty"`
			} `json:"rules"`
		} `json:"groups"`
	} `json:"spec"`
}

func TestManagedPrometheusReadsItsForm(t *testing.T) {
	var form clusterRulesForm
	if err := yaml.UnmarshalStrict(read(t, "deploy/kustomize/overlays/gmp/clusterrules.yaml"), &form); err != nil {
		t.Fatal(err)
	}
	if form.Kind != "ClusterRules" || form.APIVersion != "monitoring.googleapis.com/v1" {
		t.Errorf("%s %s, want ClusterRules", form.APIVersion, form.Kind)
	}
	for _, g := range form.Spec.Groups {
		for _, r := range g.Rules {
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr)
			if err != nil {
				t.Fatal(err)
			}
			keepsTheCluster(t, r.Record+r.Alert, expr, []string{"project_id", "location", "cluster"})
			// Its evaluator sends what it records to the backend, and asks for it again.
			parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
				if s, ok := n.(*parser.VectorSelector); ok && r.Labels["severity"] == "critical" && strings.Contains(s.Name, ":") {
					t.Errorf("%s pages by %s, which is recorded", r.Alert, s.Name)
				}
				return nil
			})
		}
	}
	var got, want []string
	for _, g := range form.Spec.Groups {
		for _, r := range g.Rules {
			got = append(got, g.Name+" "+r.Record+r.Alert+" "+r.For)
		}
	}
	for _, g := range rules(t) {
		for _, r := range g.Rules {
			var held string
			if r.For != nil {
				held = string(*r.For)
			}
			want = append(want, g.Name+" "+r.Record+r.Alert+" "+held)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("it has the rules\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// named puts the names of the overlays in the place of the wider ones of the plain form.
func named(t *testing.T, groups string) string {
	t.Helper()
	var values map[string]any
	if err := yaml.Unmarshal(read(t, "alerts/values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	for name, v := range overlayNames {
		groups = strings.ReplaceAll(groups, fmt.Sprint(values[name]), fmt.Sprint(v))
	}
	return groups
}

func marshal(t *testing.T, value any) string {
	t.Helper()
	text, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// An alert that asks for causes names those that explain its state, and no others, by
// the title and the label. A title with what templates, YAML or regular expressions
// mean something by would come out as something else.
func TestAlertsNameCausesInTheWordsOfTheAgent(t *testing.T) {
	renamed := regexp.MustCompile(`eq \$\S*cause "(\w+)"\s+\}\}(.*?)\{\{ else`)
	selected := regexp.MustCompile(`\bstate="(\w+)"`)
	asking := 0
	for _, a := range alerts(t) {
		text := a.Annotations["summary"] + a.Annotations["description"]
		if !strings.Contains(text, ".cause") && !strings.Contains(text, ".Labels.cause") {
			continue
		}
		asking++
		state := selected.FindStringSubmatch(a.Expr.String())
		if state == nil {
			t.Errorf("%s asks for causes of no state", a.Alert)
			continue
		}
		var want, first, got []string
		for _, g := range diagnose.Guides() {
			if slices.Contains(g.States, identity.State(state[1])) {
				want = append(want, string(g.Cause)+": "+strconv.Quote(g.Title+" ("+string(g.Cause)+")"))
				first = append(first, string(g.Cause)+": "+strconv.Quote(g.Remedy))
			}
		}
		for _, m := range renamed.FindAllStringSubmatch(text, -1) {
			got = append(got, m[1]+": "+strconv.Quote(m[2]))
		}
		want = append(want, first...)
		if !slices.Equal(got, want) || len(want) == 0 {
			t.Errorf("%s names causes of %s\n%s\nwant\n%s", a.Alert, state[1], strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if asking != 9 {
		t.Errorf("%d alerts name causes, want those of the six states that are explained, of two in a cluster, and of a risk", asking)
	}
}

// A setting that makes Pods the node is no risk that only the status page may show.
func TestRisksOfTheDatapathAlert(t *testing.T) {
	var values struct{ RiskCauses string }
	if err := yaml.Unmarshal(read(t, "alerts/values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(strings.TrimSuffix(values.RiskCauses, `"`), `cause=~"`)
	causes := strings.Split(list, "|")
	for _, c := range causes {
		if !slices.Contains(diagnose.RiskCauses(), diagnose.Cause(c)) {
			t.Errorf("riskCauses: %s is no risk", c)
		}
	}
	for _, c := range []diagnose.Cause{diagnose.CiliumBPFHostRouting, diagnose.CiliumNoConntrack, diagnose.LocalRedirectDormant, diagnose.NodeIdentityExpected} {
		if !slices.Contains(causes, string(c)) {
			t.Errorf("riskCauses lacks %s", c)
		}
	}
}

// A rule that loses the cluster mixes clusters, or matches nodes of different
// ones that have the same name.
func TestEveryAggregationAndMatchKeepsTheCluster(t *testing.T) {
	each(t, func(name string, expr parser.Expr) { keepsTheCluster(t, name, expr, []string{"cluster"}) })
}

func keepsTheCluster(t *testing.T, name string, expr parser.Expr, cluster []string) {
	t.Helper()
	has := func(labels []string) bool {
		return !slices.ContainsFunc(cluster, func(l string) bool { return !slices.Contains(labels, l) })
	}
	lacks := func(labels []string) bool {
		return !slices.ContainsFunc(cluster, func(l string) bool { return slices.Contains(labels, l) })
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.AggregateExpr:
			if n.Without && !lacks(n.Grouping) || !n.Without && !has(n.Grouping) {
				t.Errorf("%s: %s loses the cluster", name, n)
			}
		case *parser.BinaryExpr:
			if m := n.VectorMatching; m != nil && hasSeries(n.RHS) && (m.On && !has(m.MatchingLabels) || !m.On && !lacks(m.MatchingLabels)) {
				t.Errorf("%s: %s does not match the cluster", name, n)
			}
		}
		return nil
	})
}

// hasSeries is false of what is the same for all clusters.
func hasSeries(expr parser.Expr) bool { return len(parser.ExtractSelectors(expr)) > 0 }

// external are the series that others export.
var external = []string{
	"up", "kube_node_labels", "kube_node_spec_unschedulable", "kube_pod_info",
	"kube_pod_service_account", "kube_pod_start_time", "kube_pod_status_phase", "kube_serviceaccount_annotations",
}

// exported are the series of the exporter, and those that the rules record. A
// histogram has three more, for servers that do not scrape native ones.
func exported(t *testing.T) []string {
	t.Helper()
	known := []string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(workload_identity_\\w+)` \\| (\\w+)").FindAllStringSubmatch(string(read(t, "docs/metrics.md")), -1) {
		known = append(known, m[1])
		if m[2] == "histogram" {
			known = append(known, m[1]+"_bucket", m[1]+"_count", m[1]+"_sum")
		}
	}
	each(t, func(name string, _ parser.Expr) { known = append(known, name) })
	return known
}

func TestEverySeriesIsExportedOrRecorded(t *testing.T) {
	known := append(exported(t), external...)
	each(t, func(name string, expr parser.Expr) {
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if s, ok := n.(*parser.VectorSelector); ok && !slices.Contains(known, s.Name) {
				t.Errorf("%s asks for %s, which nobody exports", name, s.Name)
			}
			return nil
		})
	})
}

// each calls f with the name and the expression of each rule.
func each(t *testing.T, f func(name string, expr parser.Expr)) {
	t.Helper()
	for _, g := range rules(t) {
		for _, r := range g.Rules {
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr.String())
			if err != nil {
				t.Fatalf("%s%s: %v", r.Record, r.Alert, err)
			}
			f(r.Record+r.Alert, expr)
		}
	}
}

// An inhibition that names an alert which does not exist never inhibits.
func TestInhibitionNamesAlertsThatThereAre(t *testing.T) {
	var config struct {
		InhibitRules []struct {
			Source []string `json:"source_matchers"`
			Target []string `json:"target_matchers"`
		} `json:"inhibit_rules"`
	}
	if err := yaml.Unmarshal(read(t, "alerts/alertmanager.yaml"), &config); err != nil {
		t.Fatal(err)
	}
	var alerts []string
	each(t, func(name string, _ parser.Expr) { alerts = append(alerts, name) })
	if len(config.InhibitRules) == 0 {
		t.Error("no inhibition")
	}
	matcher := regexp.MustCompile(`^alertname=~?"(\w+)(?:\(([\w|]+)\))?"$`)
	for _, r := range config.InhibitRules {
		for _, text := range slices.Concat(r.Source[:1], r.Target) {
			m := matcher.FindStringSubmatch(text)
			if m == nil {
				t.Errorf("matcher %s: want alertname and a list of names", text)
				continue
			}
			for end := range strings.SplitSeq(m[2], "|") {
				if !slices.Contains(alerts, m[1]+end) {
					t.Errorf("matcher %s: there is no alert %s", text, m[1]+end)
				}
			}
		}
	}
}
