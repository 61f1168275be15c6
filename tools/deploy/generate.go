package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	valuesPath = "deploy/chart/values.yaml"
	readmePath = "deploy/chart/README.md"
	rulesPath  = "alerts/values.yaml"

	// rulesValue is the value of the chart that has those of rulesPath.
	rulesValue = "monitoring.rules.values"
)

// generated are the files with generated parts, by their path in the repository.
func generated(root string) (map[string][]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, valuesPath))
	if err != nil {
		return nil, err
	}
	rules, err := os.ReadFile(filepath.Join(root, rulesPath))
	if err != nil {
		return nil, err
	}
	text, err = withRules(text, rules)
	if err != nil {
		return nil, err
	}
	readme, err := readme(text)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{valuesPath: text, readmePath: readme}
	return files, addDashboards(root, files)
}

// addDashboards adds those that the chart has, on one line each: Helm keeps the whole
// chart in a Secret.
func addDashboards(root string, files map[string][]byte) error {
	for from, to := range map[string]string{"dashboards": "dashboards", "deploy/dashboards-gmp": "dashboards/gmp"} {
		paths, err := filepath.Glob(filepath.Join(root, from, "*.json"))
		if err != nil || len(paths) == 0 {
			return fmt.Errorf("no dashboards: %w", err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var line bytes.Buffer
			if err := json.Compact(&line, text); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			line.WriteByte('\n')
			files[filepath.Join("deploy/chart/files", to, filepath.Base(path))] = line.Bytes()
		}
	}
	return nil
}

// withRules puts the values of the alert rules into those of the chart, without
// their comments. The chart finds the agents by the names of the release.
func withRules(text, rules []byte) ([]byte, error) {
	var lines strings.Builder
	for line := range strings.Lines(string(rules)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			line = regexp.MustCompile(`^(agentJob|agentDaemonSet): .*`).ReplaceAllString(line, `$1: ""`)
			lines.WriteString("      " + line + "\n")
		}
	}
	part := regexp.MustCompile(`(?s)( *# begin generated: ` + rulesPath + `\n).*?( *# end generated\n)`)
	if !part.Match(text) {
		return nil, errors.New(valuesPath + " lacks the marks of its generated part")
	}
	return part.ReplaceAllFunc(text, func(found []byte) []byte {
		m := part.FindSubmatch(found)
		return bytes.Join([][]byte{m[1], []byte(lines.String()), m[2]}, nil)
	}), nil
}

const readmeHead = `# workload-identity-exporter

<!-- Made of values.yaml by ` + "`make generate`" + `. Do not edit. -->

Watches on every GKE node which Google identity Pods really get, and whether it is the right one.

` + "```sh" + `
helm install workload-identity-exporter oci://ghcr.io/workload-identity-exporter/charts/workload-identity-exporter \
  --namespace workload-identity-exporter --create-namespace \
  --set googleServiceAccount=workload-identity-exporter@PROJECT_ID.iam.gserviceaccount.com
` + "```" + `

The Google service account needs no roles. [docs/install.md](../../docs/install.md) has its side, and the same by
Kustomize; [docs/security.md](../../docs/security.md) has the reason for each permission.

Values that contradict each other are refused, with what would be right. The first five are all that most clusters need.
`

const (
	readmeFirst = "googleServiceAccount image.registry monitoring.kind autopilot networkPolicy.dataplane"
	readmeTable = "\n| value | default | meaning |\n|---|---|---|\n"
)

const readmeAlerts = `
## Alerts

` + "`monitoring.rules.values`" + ` changes the rules without a copy of them; what a value leaves out stays as it is. An alert or a
key that there is not is refused.

` + "```yaml" + `
monitoring:
  kind: prometheus-operator
  rules:
    values:
      grafana: https://grafana.example.com # pages link to its dashboards
      clusterLabels: [location, cluster] # by which clusters differ
      commonLabels: {team: platform} # for all alerts
      alerts:
        WorkloadIdentityFlapping:
          severity: info
          for: 30m
          labels: {team: identity}
          annotations: {chat: "#identity-{{ $labels.cluster }}"}
        WorkloadIdentitySlowMetadata:
          enabled: false
` + "```" + `

[docs/alerting.md](../../docs/alerting.md) has what the rules need.

Several releases in a cluster need one set of rules, because an alert is about a node, whichever agent on it says so: set
` + "`monitoring.rules.enabled=false`" + ` in the others. The rules ask kube-state-metrics for the DaemonSet of their own release only.
`

func readme(values []byte) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(values, &document); err != nil {
		return nil, err
	}
	rows, err := describe("", document.Content[0])
	if err != nil {
		return nil, err
	}
	var first, others strings.Builder
	for _, r := range rows {
		if slices.Contains(strings.Fields(readmeFirst), r.name) {
			first.WriteString(r.line)
		} else {
			others.WriteString(r.line)
		}
	}
	return []byte(readmeHead + readmeTable + first.String() + "\n## All others\n" + readmeTable + others.String() + readmeAlerts), nil
}

// row is one of a table of values.
type row struct{ name, line string }

// describe gives a row for each value. A mapping whose values are explained one by
// one has a row for each of them instead.
func describe(prefix string, mapping *yaml.Node) ([]row, error) {
	var rows []row
	for i := 0; i < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		name := prefix + key.Value
		comment := strings.Join(strings.Fields(strings.ReplaceAll(lastParagraph(key.HeadComment), "#", "")), " ")
		switch {
		case name != rulesValue && value.Kind == yaml.MappingNode && len(value.Content) > 0 && value.Content[0].HeadComment != "":
			more, err := describe(name+".", value)
			if err != nil {
				return nil, err
			}
			rows = append(rows, more...)
			continue
		case comment == "":
			return nil, fmt.Errorf("%s: no comment above the value %s", valuesPath, name)
		}
		shown, err := inline(value)
		if err != nil {
			return nil, err
		}
		if name == rulesValue {
			shown = "those of alerts/values.yaml"
		}
		rows = append(rows, row{name, fmt.Sprintf("| `%s` | %s | %s |\n", name, shown, strings.ReplaceAll(comment, "|", "\\|"))})
	}
	return rows, nil
}

// lastParagraph leaves out what is about the whole file.
func lastParagraph(comment string) string {
	parts := strings.Split(comment, "\n\n")
	return parts[len(parts)-1]
}

func inline(value *yaml.Node) (string, error) {
	var v any
	if err := value.Decode(&v); err != nil {
		return "", err
	}
	text, err := json.Marshal(v)
	if s, ok := v.(string); ok {
		text = []byte(s)
	}
	if len(text) == 0 {
		return "none", err
	}
	return "`" + string(text) + "`", err
}
