// Command dashboards writes the Grafana dashboards.
//
//	cd tools && go run ./dashboards        writes the files
//	cd tools && go run ./dashboards -check fails if one of them differs
//
// Each dashboard is a file that reads like the page: fleet.go, cluster.go and
// node.go. clusters.go has the labels by which clusters differ, grafana.go the JSON
// that Grafana reads, panels.go the kinds of panels, states.go the states with
// their colours.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	root := flag.String("root", "..", "the repository's `FOLDER`")
	check := flag.Bool("check", false, "only tell whether the files are what they should be")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "dashboards:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	files, err := render(root)
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(root, f.path)
		if check {
			committed, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if !bytes.Equal(committed, f.content) {
				return fmt.Errorf("%s is not what tools/dashboards gives: run `make generate`", f.path)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.content, 0o644); err != nil { //nolint:gosec // everybody may read it
			return err
		}
	}
	return nil
}
