package main

import (
	"regexp"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// with renders the rules with more values, those of a site.
func with(t *testing.T, values string) (map[string]string, error) {
	t.Helper()
	shipped := string(read(t, "alerts/values.yaml"))
	for line := range strings.Lines(values) {
		if name, _, own := strings.Cut(line, ":"); own && !strings.HasPrefix(line, " ") {
			shipped = regexp.MustCompile(`(?m)^`+name+`: .*\n`).ReplaceAllString(shipped, "")
		}
	}
	files, err := renderWith(string(read(t, "alerts/rules.tmpl.yaml")), []byte(shipped+values))
	byPath := map[string]string{}
	for _, f := range files {
		byPath[f.path] = string(f.content)
	}
	return byPath, err
}

func alertsOf(t *testing.T, text string) map[string]monitoringv1.Rule {
	t.Helper()
	var spec monitoringv1.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	all := map[string]monitoringv1.Rule{}
	for _, g := range spec.Groups {
		for _, r := range g.Rules {
			all[r.Alert] = r
		}
	}
	return all
}

// A cluster is more than its name where several projects have one of the same name.
func TestClustersDifferByAllTheirLabels(t *testing.T) {
	files, err := with(t, "clusterLabels: [project_id, location, cluster]\n")
	if err != nil {
		t.Fatal(err)
	}
	var spec monitoringv1.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict([]byte(files["alerts/workload-identity.rules.yaml"]), &spec); err != nil {
		t.Fatal(err)
	}
	for _, g := range spec.Groups {
		for _, r := range g.Rules {
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr.String())
			if err != nil {
				t.Fatalf("%s%s: %v", r.Record, r.Alert, err)
			}
			keepsTheCluster(t, r.Record+r.Alert, expr, []string{"project_id", "location", "cluster"})
			for _, query := range regexp.MustCompile(`_(cause|total)\{([^}]*)\}`).FindAllStringSubmatch(r.Annotations["description"], -1) {
				if !strings.Contains(query[2], `project_id=%q,location=%q,cluster=%q,`) {
					t.Errorf("%s asks for %s", r.Alert, query[0])
				}
			}
		}
	}
	if s := alertsOf(t, files["alerts/workload-identity.rules.yaml"])["WorkloadIdentityAgentsGone"].Annotations["summary"]; !strings.Contains(s,
		"{{ with $labels.cluster }} of cluster {{ . }}{{ end }}{{ with $labels.location }} in {{ . }}{{ end }}{{ with $labels.project_id }} in {{ . }}{{ end }}") {
		t.Errorf("the text does not name the cluster: %s", s)
	}
}

func TestLinksToDashboardsNeedAnAddress(t *testing.T) {
	files, err := with(t, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range alertsOf(t, files["alerts/workload-identity.rules.yaml"]) {
		if link, has := a.Annotations["dashboard_url"]; has {
			t.Errorf("%s links to %s, which nobody set", name, link)
		}
	}
	files, err = with(t, "grafana: https://g\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range alertsOf(t, files["alerts/workload-identity.rules.yaml"]) {
		if name != "" && !strings.HasPrefix(a.Annotations["dashboard_url"], "https://g/d/workload-identity-") {
			t.Errorf("%s links to %q", name, a.Annotations["dashboard_url"])
		}
		// One that stands for many nodes leads to their cluster.
		if link := a.Annotations["dashboard_url"]; strings.Contains(link, "var-node=") && !strings.Contains(link, "{{ if $labels.node }}node{{ else }}cluster{{ end }}?") {
			t.Errorf("%s links to the page of a node whether it names one or not: %s", name, link)
		}
	}
}

func TestASiteChangesSingleAlerts(t *testing.T) {
	files, err := with(t, `alerts:
  WorkloadIdentityFlapping: {severity: info, for: 3m, labels: {team: a}, annotations: {summary: S, more: M}}
  WorkloadIdentityAgentDown: {enabled: false}
commonLabels: {team: b, area: identity}
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"alerts/workload-identity.rules.yaml"} {
		all := alertsOf(t, files[path])
		if _, there := all["WorkloadIdentityAgentDown"]; there {
			t.Error("the alert that was switched off is there")
		}
		a := all["WorkloadIdentityFlapping"]
		if a.Labels["severity"] != "info" || a.Labels["team"] != "a" || a.Labels["area"] != "identity" || a.For == nil || *a.For != "3m" || a.Annotations["summary"] != "S" || a.Annotations["more"] != "M" || a.Annotations["runbook_url"] == "" {
			t.Errorf("%+v", a)
		}
		if a := all["WorkloadIdentityNodeFallback"]; a.Labels["severity"] != "critical" || a.Labels["team"] != "b" {
			t.Errorf("%+v", a.Labels)
		}
	}
	for values, want := range map[string]string{
		"alerts: {WorkloadIdentityFlaping: {}}":                    "there is no alert WorkloadIdentityFlaping; there are WorkloadIdentityClusterWideFallback,",
		"alerts: {WorkloadIdentityFlapping: {severty: info}}":      "field severty not found",
		"alerts: {WorkloadIdentityFlapping: {enabled: perhaps}}":   "cannot unmarshal",
		"alerts: {WorkloadIdentityFlapping: {labels: [severity]}}": "cannot unmarshal",
	} {
		if _, err := with(t, values+"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", values, err, want)
		}
	}
}
