package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// place is a file of the repository that names the version that it is for, in the
// first group of a pattern. Who takes it from a tag must get the image of that tag.
type place struct {
	path    string
	pattern *regexp.Regexp
}

var places = []place{
	{"deploy/chart/Chart.yaml", regexp.MustCompile(`(?m)^(?:version|appVersion): (\S+)$`)},
	{"deploy/kustomize/base/daemonset.yaml", regexp.MustCompile(`image: workload-identity-exporter:(\S+)`)},
	{"docs/install.md", regexp.MustCompile(`(?:workload-identity-exporter:|\?ref=v|newTag: )(\d+\.\d+\.\d+(?:-[\w.]*\w)?)`)},
}

// versions are those that the text names, each once.
func (p place) versions(text string) []string {
	var named []string
	for _, m := range p.pattern.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(named, m[1]) {
			named = append(named, m[1])
		}
	}
	return named
}

// outdated says which files name another version, or none at all.
func outdated(root, version string) ([]error, error) {
	var all []error
	for _, p := range places {
		text, err := os.ReadFile(filepath.Join(root, p.path))
		if err != nil {
			return nil, err
		}
		if named := p.versions(string(text)); !slices.Equal(named, []string{version}) {
			all = append(all, fmt.Errorf("%s names the version %s, want %s: change it, commit that, and tag that commit", p.path, list(named), version))
		}
	}
	return all, nil
}
