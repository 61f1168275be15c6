package main

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// file is one that is rendered, by its path in the repository.
type file struct {
	path    string
	content []byte
}

// The folders of the pages: those for the labels of alerts/values.yaml, and those for
// Google Cloud Managed Service for Prometheus. Neither is within the other: Grafana that
// provisions a folder reads it with all folders below, and where two pages have one uid
// it takes no change of any page.
const usual, forGMP = "dashboards", "deploy/dashboards-gmp"

// dashboards are all pages, from the whole to the part.
func dashboards(c clusterLabels) []*Dashboard { return []*Dashboard{fleet(c), cluster(c), node(c)} }

func render(root string) ([]file, error) {
	c, err := configured(root)
	if err != nil {
		return nil, err
	}
	files, err := pages(usual, c)
	if err != nil {
		return nil, err
	}
	more, err := pages(forGMP, gmp)
	return append(files, more...), err
}

func pages(folder string, c clusterLabels) ([]file, error) {
	var files []file
	for _, d := range dashboards(c) {
		content, err := encode(d)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.UID, err)
		}
		files = append(files, file{folder + "/" + d.UID + ".json", content})
	}
	return files, nil
}

// encode writes JSON as people read it: queries keep their < and >.
func encode(d *Dashboard) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(d)
	return b.Bytes(), err
}
