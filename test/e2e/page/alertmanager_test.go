package page

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

const alerts = "../../../alerts/"

// writeAlertmanagerConfig is the example with its routes, inhibitions and
// templates as they are. Only where the receivers send to is the suite's: each
// gets a webhook beside what it has, for its labels and times; what it has tells
// how people see it.
func writeAlertmanagerConfig(folder, receiver string) (path string, err error) {
	example, err := os.ReadFile(alerts + "alertmanager.yaml")
	if err != nil {
		return "", err
	}
	var config map[string]any
	if err := yaml.UnmarshalStrict(example, &config); err != nil {
		return "", fmt.Errorf("read alertmanager.yaml: %w", err)
	}
	secrets := map[string]string{"pagerduty": "a routing key", "slack": receiver + "/slack"}
	for name, secret := range secrets {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(secret), 0o600); err != nil {
			return "", err
		}
	}
	for r := range each(config, "receivers") {
		name, _ := r["name"].(string)
		r["webhook_configs"] = []any{map[string]any{"url": receiver + "/webhook/" + name, "send_resolved": true}}
		for p := range each(r, "pagerduty_configs") {
			p["url"], p["routing_key_file"] = receiver+"/pagerduty", filepath.Join(folder, "pagerduty")
		}
		for s := range each(r, "slack_configs") {
			s["api_url_file"] = filepath.Join(folder, "slack")
		}
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return "", err
	}
	templates, err := os.ReadFile(alerts + "workload-identity.tmpl")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(folder, "workload-identity.tmpl"), templates, 0o600); err != nil {
		return "", err
	}
	path = filepath.Join(folder, "alertmanager.yaml")
	return path, os.WriteFile(path, text, 0o600)
}

// each goes through the list of objects in a field.
func each(object map[string]any, field string) func(func(map[string]any) bool) {
	return func(yield func(map[string]any) bool) {
		list, _ := object[field].([]any)
		for _, element := range list {
			if e, ok := element.(map[string]any); ok && !yield(e) {
				return
			}
		}
	}
}

var sampleLine = regexp.MustCompile(`(?m)^([a-z_]+(?:\{.*\})?) (\S+)$`)

// samples are the series of a page of metrics.
func samples(page []byte) map[string]float64 {
	all := map[string]float64{}
	for _, line := range sampleLine.FindAllSubmatch(page, -1) {
		if value, err := strconv.ParseFloat(string(line[2]), 64); err == nil {
			all[string(line[1])] = value
		}
	}
	return all
}

func hasName(series string, names ...string) bool {
	for _, n := range names {
		if strings.HasPrefix(series, n+"{") {
			return true
		}
	}
	return false
}
