package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/util/validation"
)

// packChart packs the chart in a folder as `helm package` does, with the version,
// and returns the name of the file in the folder out. Helm puts the present time
// into the archive; this one has the time of the commit.
func packChart(folder, out, version string, when time.Time) (string, error) {
	c, err := loader.LoadDir(folder)
	if err != nil {
		return "", err
	}
	c.Metadata.Version, c.Metadata.AppVersion = version, version
	temporary, err := os.MkdirTemp("", "release")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temporary) //nolint:errcheck // it is temporary
	saved, err := chartutil.Save(c, temporary)
	if err != nil {
		return "", err
	}
	entries, err := unpack(saved)
	if err != nil {
		return "", err
	}
	name := filepath.Base(saved)
	return name, pack(filepath.Join(out, name), when, entries)
}

// checkChart loads a packed chart as Helm does, and renders it with the least values.
// It fails if it is not of the version, or would not run the image of the version.
func checkChart(path, version string) error {
	c, err := loader.LoadFile(path)
	if err != nil {
		return err
	}
	if c.Metadata.Version != version || c.Metadata.AppVersion != version {
		return fmt.Errorf("its version is %s, and its application's is %s; want %s", c.Metadata.Version, c.Metadata.AppVersion, version)
	}
	const repository = "registry.example/" + program
	values := map[string]any{
		"googleServiceAccount": program + "@example.iam.gserviceaccount.com",
		"image":                map[string]any{"repository": repository},
	}
	options := chartutil.ReleaseOptions{Name: program, Namespace: program, IsInstall: true, Revision: 1}
	filled, err := chartutil.ToRenderValues(c, values, options, chartutil.DefaultCapabilities.Copy())
	if err != nil {
		return err
	}
	files, err := engine.Render(c, filled)
	if err != nil {
		return err
	}
	all := strings.Join(slices.Collect(maps.Values(files)), "\n")
	if image := "image: " + repository + ":" + version + "\n"; !strings.Contains(all, image) {
		return fmt.Errorf("no object of it has %q", strings.TrimSpace(image))
	}
	for _, m := range labels.FindAllStringSubmatch(all, -1) {
		if wrong := validation.IsValidLabelValue(m[2]); len(wrong) > 0 {
			return fmt.Errorf("the label %s cannot be %q: %s", m[1], m[2], strings.Join(wrong, ", "))
		}
	}
	return nil
}

// labels are those that have a version in them.
var labels = regexp.MustCompile(`(helm\.sh/chart|app\.kubernetes\.io/version): "?([^"\s]*)`)
