package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// change is what values.yaml says about one alert.
type change struct {
	Enabled     *bool             `yaml:"enabled"`
	Severity    string            `yaml:"severity"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// adjust makes the changes to single alerts, and leaves out annotations that are empty.
// The templates of the chart do the same.
func adjust(rules string, valuesYAML []byte) (string, error) {
	rules = regexp.MustCompile(`(?m)^ *\w+: ''\n`).ReplaceAllString(rules, "")
	values := struct {
		Alerts       map[string]change `yaml:"alerts"`
		CommonLabels map[string]string `yaml:"commonLabels"`
		Others       map[string]any    `yaml:",inline"`
	}{}
	decoder := yaml.NewDecoder(strings.NewReader(string(valuesYAML)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&values); err != nil {
		return "", fmt.Errorf("values.yaml: %w", err)
	}
	if len(values.Alerts) == 0 && len(values.CommonLabels) == 0 {
		return rules, nil
	}
	var file struct {
		Groups []struct {
			Name     string           `yaml:"name"`
			Interval string           `yaml:"interval"`
			Rules    []map[string]any `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(rules), &file); err != nil {
		return "", err
	}
	var names []string
	for i := range file.Groups {
		kept := []map[string]any{}
		for _, rule := range file.Groups[i].Rules {
			name, isAlert := rule["alert"].(string)
			if isAlert {
				names = append(names, name)
				c := values.Alerts[name]
				if c.Enabled != nil && !*c.Enabled {
					continue
				}
				c.apply(rule, values.CommonLabels)
			}
			kept = append(kept, rule)
		}
		file.Groups[i].Rules = kept
	}
	for name := range values.Alerts {
		if !slices.Contains(names, name) {
			return "", fmt.Errorf("values.yaml: alerts: there is no alert %s; there are %s", name, strings.Join(names, ", "))
		}
	}
	out, err := yaml.Marshal(file)
	return string(out), err
}

func (c change) apply(rule map[string]any, common map[string]string) {
	if c.For != "" {
		rule["for"] = c.For
	}
	put := func(part string, more map[string]string) {
		all := rule[part].(map[string]any)
		for k, v := range more {
			all[k] = v
		}
	}
	put("labels", common)
	if c.Severity != "" {
		put("labels", map[string]string{"severity": c.Severity})
	}
	put("labels", c.Labels)
	put("annotations", c.Annotations)
}
