// Command rules renders the alert rules from their one source: to plain rules, to
// the kinds of prometheus-operator and of Google Cloud Managed Service for
// Prometheus, and to the template of the Helm chart.
//
//	cd tools && go run ./rules        writes the files
//	cd tools && go run ./rules -check fails if one of them differs
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
		fmt.Fprintln(os.Stderr, "rules:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	files, err := render(filepath.Join(root, "alerts"))
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
				return fmt.Errorf("%s is not what alerts/rules.tmpl.yaml and alerts/values.yaml give: run `make generate`", f.path)
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
