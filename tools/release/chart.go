package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/util/validation"
)

var imageValues = regexp.MustCompile(`(?m)^(  repository: ).*$((?s:.*?)^  digest: )""$`)

// packChart packs the chart in a folder as `helm package` does, with the version and
// with the image by its digest. Helm puts the present time into the archive; this one
// has the time of the commit.
func packChart(folder, version, repository, digest string, when time.Time) ([]byte, error) {
	c, err := loader.LoadDir(folder)
	if err != nil {
		return nil, err
	}
	c.Metadata.Version, c.Metadata.AppVersion = version, version
	for _, f := range c.Raw {
		if f.Name == chartutil.ValuesfileName {
			f.Data = imageValues.ReplaceAll(f.Data, []byte(`${1}`+repository+`${2}"`+digest+`"`))
		}
	}
	temporary, err := os.MkdirTemp("", "release")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temporary) //nolint:errcheck // it is temporary
	saved, err := chartutil.Save(c, temporary)
	if err != nil {
		return nil, err
	}
	packed, err := os.ReadFile(saved)
	if err != nil {
		return nil, err
	}
	files, err := unzipped(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return zipped(when, files)
}

// checkChart loads a packed chart as Helm does, and renders it with the least values.
// It fails if it is not of the version, or would not run that image.
func checkChart(packed []byte, version, repository, digest string) error {
	c, err := loader.LoadArchive(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	if c.Metadata.Version != version || c.Metadata.AppVersion != version {
		return fmt.Errorf("its version is %s, and its application's is %s; want %s", c.Metadata.Version, c.Metadata.AppVersion, version)
	}
	values := map[string]any{"googleServiceAccount": program + "@example.iam.gserviceaccount.com"}
	filled, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: program, Namespace: program, IsInstall: true}, nil)
	if err != nil {
		return err
	}
	files, err := engine.Render(c, filled)
	if err != nil {
		return err
	}
	all := strings.Join(slices.Collect(maps.Values(files)), "\n")
	if image := "image: " + repository + ":" + version + "@" + digest + "\n"; !strings.Contains(all, image) {
		return fmt.Errorf("no object of it has %q", strings.TrimSpace(image))
	}
	for _, m := range versionLabels.FindAllStringSubmatch(all, -1) {
		if wrong := validation.IsValidLabelValue(m[2]); len(wrong) > 0 {
			return fmt.Errorf("the label %s cannot be %q: %s", m[1], m[2], strings.Join(wrong, ", "))
		}
	}
	return nil
}

var versionLabels = regexp.MustCompile(`(helm\.sh/chart|app\.kubernetes\.io/version): "?([^"\s]*)`)
