package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// places are where files of the repository name the version that they are for, in
// the first group. Who takes them from a tag must get the image of that tag.
var places = []struct {
	path    string
	version *regexp.Regexp
}{
	{"deploy/chart/Chart.yaml", regexp.MustCompile(`(?m)^(?:version|appVersion): (\S+)$`)},
	{"deploy/kustomize/base/daemonset.yaml", regexp.MustCompile(`image: workload-identity-exporter:(\S+)`)},
	{"docs/install.md", regexp.MustCompile(`(?:workload-identity-exporter:|\?ref=v|newTag: )(\d+\.\d+\.\d+(?:-[\w.]*\w)?)`)},
}

// outdated says which files name another version, or none at all.
func outdated(root, version string) ([]error, error) {
	var all []error
	for _, p := range places {
		text, err := os.ReadFile(filepath.Join(root, p.path))
		if err != nil {
			return nil, err
		}
		var named []string
		for _, m := range p.version.FindAllSubmatch(text, -1) {
			if v := string(m[1]); !slices.Contains(named, v) {
				named = append(named, v)
			}
		}
		if !slices.Equal(named, []string{version}) {
			all = append(all, fmt.Errorf("%s names the version %s, want %s: change it, commit that, and tag that commit", p.path, list(named), version))
		}
	}
	return all, nil
}
