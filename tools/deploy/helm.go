package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

// namespace is that of the manifests; in the examples it is also the release's, and its name.
const namespace = "workload-identity-exporter"

// release is what a chart gives with some values.
type release struct {
	objects []object
	tests   []object // by `helm test`
	notes   string
}

// template renders the chart, as `helm template NAME --namespace NAMESPACE` does.
// The schema of the values is applied.
func template(chart, name, namespace string, values map[string]any) (release, error) {
	c, err := loader.LoadDir(chart)
	if err != nil {
		return release{}, err
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	filled, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: name, Namespace: namespace, IsInstall: true, Revision: 1}, capabilities)
	if err != nil {
		return release{}, err
	}
	files, err := engine.Render(c, filled)
	if err != nil {
		return release{}, err
	}
	var r release
	for _, path := range slices.Sorted(maps.Keys(files)) {
		switch {
		case strings.HasSuffix(path, "NOTES.txt"):
			r.notes = files[path]
			continue
		case strings.HasPrefix(path[strings.LastIndex(path, "/")+1:], "_"):
			continue
		}
		objects, err := parse([]byte(files[path]))
		if err != nil {
			return release{}, fmt.Errorf("%s: %w", path, err)
		}
		for _, o := range objects {
			if o.annotation("helm.sh/hook") == "test" {
				r.tests = append(r.tests, o)
			} else {
				r.objects = append(r.objects, o)
			}
		}
	}
	return r, nil
}
