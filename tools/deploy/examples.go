package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// example is a set of values for the chart, from a file whose first line may name the
// overlay that is the same.
type example struct {
	name   string
	values map[string]any
	// overlay is a kustomization in the repository.
	overlay string
}

var firstLine = regexp.MustCompile(`^# overlay: (.+)\n`)

// examples are those in a folder.
func examples(folder string) ([]example, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no examples in %s: %w", folder, err)
	}
	var found []example
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		e := example{name: strings.TrimSuffix(filepath.Base(path), ".yaml")}
		if err := yaml.UnmarshalStrict(text, &e.values); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if m := firstLine.FindStringSubmatch(string(text)); m != nil {
			e.overlay = m[1]
		}
		found = append(found, e)
	}
	return found, nil
}
