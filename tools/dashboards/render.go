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

// dashboards are all pages, from the whole to the part.
func dashboards() []*Dashboard { return []*Dashboard{fleet(), cluster(), node()} }

func render() ([]file, error) {
	var files []file
	for _, d := range dashboards() {
		content, err := encode(d)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.UID, err)
		}
		files = append(files, file{"dashboards/" + d.UID + ".json", content})
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
