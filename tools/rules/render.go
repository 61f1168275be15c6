package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// file is one that is rendered, by its path in the repository.
type file struct {
	path    string
	content []byte
}

// generated is the first line of each rendered file.
const generated = "# Rendered from alerts/rules.tmpl.yaml and alerts/values.yaml by `make generate`. Do not edit.\n"

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
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		return nil, fmt.Errorf("values.yaml: %w", err)
	}

	plain, err := execute(string(source), values)
	if err != nil {
		return nil, err
	}
	chart, err := execute(escape(string(source)), inChart(values))
	if err != nil {
		return nil, err
	}
	// The braces of a selector must not touch those of an action.
	chart = strings.NewReplacer("{{{ ", "{{ `{` }}{{ ", " }}}", " }}{{ `}` }}").Replace(chart)
	// The chart's rules for GMP have no keep_firing_for either.
	forGMP := join(chartHead("gmp", chartClusterRules), indent(withoutKeepFiringFor(chart)), chartFoot)
	return []file{
		{"alerts/workload-identity.rules.yaml", join(generated, plain)},
		{"deploy/kustomize/overlays/prometheus-operator/prometheusrule.yaml", join(generated, prometheusRule, indent(plain))},
		{"deploy/kustomize/overlays/gmp/clusterrules.yaml", join(generated, clusterRules, indent(withoutKeepFiringFor(plain)))},
		{"deploy/chart/templates/prometheusrule.yaml", join(chartHead("prometheus-operator", chartPrometheusRule), indent(chart), chartFoot)},
		{"deploy/chart/templates/clusterrules.yaml", forGMP},
	}, nil
}

// execute fills the template. Comments at its beginning are about the source.
func execute(source string, values map[string]any) (string, error) {
	_, source, _ = strings.Cut(source, "\ngroups:\n")
	link := func(base any, path string) string { return fmt.Sprint(base) + path }
	where := "?var-cluster={{ $labels.cluster }}"
	if strings.Contains(source, escaped) {
		where = escape(where)
	}
	node := strings.Replace(strings.Replace(where, "var-cluster", "var-node", 1), ".cluster", ".node", 1)
	t, err := template.New("rules").Delims("<%", "%>").Option("missingkey=error").Funcs(template.FuncMap{
		"titled":           titled,
		"runbook":          func(alert string) string { return link(values["runbooks"], "/"+alert+".md") },
		"clusterDashboard": func() string { return link(values["grafana"], "/d/workload-identity-cluster"+where) },
		"nodeDashboard": func() string {
			return link(values["grafana"], "/d/workload-identity-node"+where+"&"+strings.TrimPrefix(node, "?"))
		},
	}).Parse("groups:\n" + source)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, values); err != nil {
		return "", err
	}
	return out.String(), nil
}

// titled continues an action of Prometheus's templates that gives the label of a cause:
// it puts the title for people before it, for the causes that explain the state. What is
// no such cause stays as it is.
func titled(state identity.State) string {
	var chain strings.Builder
	for _, g := range diagnose.Guides() {
		if slices.Contains(g.States, state) {
			fmt.Fprintf(&chain, "\n            | reReplaceAll %q %q", "^"+string(g.Cause)+"$", g.Title+" ("+string(g.Cause)+")")
		}
	}
	return chain.String()
}

// escaped is how a Helm template writes {{.
const escaped = "{{ `{{` }}"

// escape keeps the templates of annotations from Helm, which has the same marks.
func escape(source string) string {
	return regexp.MustCompile(`\{\{-?|-?\}\}`).ReplaceAllStringFunc(source, func(mark string) string { return "{{ `" + mark + "` }}" })
}

// inChart are the values as the Helm chart names them.
func inChart(values map[string]any) map[string]any {
	in := map[string]any{}
	for name := range values {
		in[name] = "{{ .Values.monitoring.rules.values." + name + " }}"
	}
	return in
}

// withoutKeepFiringFor leaves out what the rules of GMP do not know.
func withoutKeepFiringFor(rules string) string {
	return regexp.MustCompile(`(?m)^ *keep_firing_for: .*\n`).ReplaceAllString(rules, "")
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

// chartHead begins a template for the one kind of monitoring.
func chartHead(kind, object string) string {
	return "{{- /* Rendered from alerts/rules.tmpl.yaml by `make generate`. Do not edit. */ -}}\n" +
		`{{- if and (eq .Values.monitoring.kind "` + kind + `") .Values.monitoring.rules.enabled }}` + "\n" + object
}

const chartPrometheusRule = `apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ include "workload-identity-exporter.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "workload-identity-exporter.labels" . | nindent 4 }}
    {{- with .Values.monitoring.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
`

const chartClusterRules = `apiVersion: monitoring.googleapis.com/v1
kind: ClusterRules
metadata:
  name: {{ include "workload-identity-exporter.fullname" . }}
  labels:
    {{- include "workload-identity-exporter.labels" . | nindent 4 }}
spec:
`

const chartFoot = "{{- end }}\n"

func indent(text string) string {
	return regexp.MustCompile(`(?m)^(.+)$`).ReplaceAllString(text, "  $1")
}

func join(parts ...string) []byte { return []byte(strings.Join(parts, "")) }
