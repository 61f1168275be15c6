// Command deploy renders what is in the repository's folder deploy, and writes the
// generated parts of the chart: the values of the alert rules, its README, and the
// dashboards.
//
//	cd tools && go run ./deploy               writes the generated parts
//	cd tools && go run ./deploy -render DIR   writes all objects of each overlay and
//	                                          of each example of the chart to a file there
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	root := flag.String("root", "..", "the repository's `FOLDER`")
	out := flag.String("render", "", "write rendered objects to files in this `FOLDER`, and nothing else")
	flag.Parse()
	err := generate(*root)
	if *out != "" {
		err = render(*root, *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		os.Exit(1)
	}
}

func generate(root string) error {
	files, err := generated(root)
	if err != nil {
		return err
	}
	for path, content := range files {
		if err := os.WriteFile(filepath.Join(root, path), content, 0o644); err != nil { //nolint:gosec // everybody may read it
			return err
		}
	}
	return nil
}

// overlays are the kustomizations that people apply, and examples of their own.
func overlays(root string) ([]string, error) {
	found := []string{filepath.Join(root, "deploy/kustomize/base")}
	for _, pattern := range []string{"deploy/kustomize/overlays/*", "tools/deploy/testdata/kustomize/*"} {
		more, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

func render(root, out string) error {
	if err := os.RemoveAll(out); err != nil { // an overlay that is gone must not stay
		return err
	}
	if err := os.MkdirAll(out, 0o750); err != nil {
		return err
	}
	write := func(name string, objects []object) error {
		return os.WriteFile(filepath.Join(out, name+".yaml"), file(objects), 0o600)
	}
	folders, err := overlays(root)
	if err != nil {
		return err
	}
	for _, folder := range folders {
		objects, err := build(folder)
		if err != nil {
			return err
		}
		if err := write("kustomize-"+filepath.Base(folder), objects); err != nil {
			return err
		}
	}
	all, err := examples(filepath.Join(root, "tools/deploy/testdata/rendered"))
	if err != nil {
		return err
	}
	for _, e := range all {
		r, err := template(filepath.Join(root, "deploy/chart"), namespace, namespace, e.values)
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		if err := write("helm-"+e.name, append(r.objects, r.tests...)); err != nil {
			return err
		}
	}
	return nil
}

func bufferedReader(text []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(text)) }
