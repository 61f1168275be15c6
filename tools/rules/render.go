package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// file is one that is rendered, by its path in the repository.
type file struct {
	path    string
	content []byte
}

// generated is the first line of each rendered file.
const generated = "# Rendered from alerts/rules.tmpl.yaml and alerts/values.yaml by `make generate`. Do not edit.\n"

// gmpClusterLabels are what Google Cloud Managed Service for Prometheus adds to all series.
var gmpClusterLabels = []string{"project_id", "location", "cluster"}

// overlayNames are the names of the objects beside which the rules of an overlay are.
var overlayNames = map[string]any{
	"agentJob":       `namespace="workload-identity-exporter",job=~"(workload-identity-exporter/)?workload-identity-exporter"`,
	"agentDaemonSet": `namespace="workload-identity-exporter",created_by_kind="DaemonSet",created_by_name="workload-identity-exporter"`,
}

// render returns all forms of the rules in the folder.
func render(folder string) ([]file, error) {
	source, err := os.ReadFile(filepath.Join(folder, "rules.tmpl.yaml"))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(folder, "values.yaml"))
	if err != nil {
		return nil, err
	}
	return withPolicies(renderWith(string(source), text))
}

// renderWith returns all forms of the source with the values.
func renderWith(source string, text []byte) ([]file, error) {
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		return nil, fmt.Errorf("values.yaml: %w", err)
	}
	_, source, _ = strings.Cut(source, "\ngroups:\n")
	source = "groups:\n" + source

	named := maps.Clone(values)
	maps.Copy(named, overlayNames)

	forms := map[string]string{}
	for name, f := range map[string]form{
		"plain":               {values: values},
		"overlay":             {values: named},
		"gmp":                 {values: named, gmp: true},
		"prometheus-operator": {values: inChart(values), chart: true},
		"chart-gmp":           {values: inChart(values), chart: true, gmp: true},
	} {
		rendered, err := f.execute(source)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if !f.chart {
			rendered, err = adjust(rendered, text)
			if err != nil {
				return nil, err
			}
		}
		forms[name] = rendered
	}
	return []file{
		{"alerts/workload-identity.rules.yaml", join(generated, forms["plain"])},
		{"deploy/kustomize/overlays/prometheus-operator/prometheusrule.yaml", join(generated, prometheusRule, indent(forms["overlay"]))},
		{"deploy/kustomize/overlays/gmp/clusterrules.yaml", join(generated, clusterRules, indent(forms["gmp"]))},
		{"deploy/chart/files/prometheus-operator.yaml", join(generated, forms["prometheus-operator"])},
		{"deploy/chart/files/gmp.yaml", join(generated, forms["chart-gmp"])},
	}, nil
}

// inChart are the values as the Helm chart names them.
func inChart(values map[string]any) map[string]any {
	in := map[string]any{}
	for name := range values {
		in[name] = "{{ .Values.monitoring.rules.values." + name + " }}"
	}
	in["agentJob"] = `{{ include "workload-identity-exporter.agentJob" . }}`
	in["agentDaemonSet"] = `{{ include "workload-identity-exporter.agentDaemonSet" . }}`
	return in
}

const prometheusRule = `apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: workload-identity-exporter
  labels:
    app.kubernetes.io/name: workload-identity-exporter
spec:
`

// clusterRules, and not Rules, which would add the namespace to every selector.
const clusterRules = `apiVersion: monitoring.googleapis.com/v1
kind: ClusterRules
metadata:
  name: workload-identity-exporter
  labels:
    app.kubernetes.io/name: workload-identity-exporter
spec:
`

func indent(text string) string {
	return regexp.MustCompile(`(?m)^(.+)$`).ReplaceAllString(text, "  $1")
}

func join(parts ...string) []byte { return []byte(strings.Join(parts, "")) }
