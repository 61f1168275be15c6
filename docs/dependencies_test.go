package docs_test

import (
	"encoding/json"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each direct dependency has a row that says why, and what can be read elsewhere is the
// same there: who links it, and its licence.
func TestEachDependencyHasItsReason(t *testing.T) {
	page := read(t, "dependencies.md")
	released, ours, ok := strings.Cut(page, "\n## What is for us alone\n")
	if !ok {
		t.Fatal("the page has no part about what is for us alone")
	}
	linked := map[string][]string{}
	for _, p := range []struct{ name, folder string }{{"agent", "workload-identity-exporter"}, {"plugin", "kubectl-workload-identity"}, {"simulator", "gke-metadata-simulator"}} {
		out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "../cmd/"+p.folder).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, module := range slices.Compact(slices.Sorted(slices.Values(strings.Fields(string(out))))) {
			linked[module] = append(linked[module], p.name)
		}
	}
	licenses := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^(\S+\.\S+): (.*)$`).FindAllStringSubmatch(read(t, "../third_party/LICENSES"), -1) {
		licenses[m[1]] = m[2]
	}
	for _, part := range []struct {
		text, of, folder string
	}{{released, "", ".."}, {ours, "tools", "../tools"}, {ours, "test/e2e", "../test/e2e"}} {
		rows := map[string][]string{}
		for line := range strings.Lines(part.text) {
			if !strings.HasPrefix(line, "| `") {
				continue
			}
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			if module := strings.Trim(cells[0], "`"); part.of == "" || cells[1] == part.of {
				rows[module] = cells
			}
		}
		want := direct(t, part.folder)
		if got := slices.Sorted(maps.Keys(rows)); !slices.Equal(got, want) {
			t.Errorf("the rows of %s are\n%s\nwant\n%s", part.folder, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for module, cells := range rows {
			if part.of != "" {
				continue
			}
			into, license := "tests", "–"
			if by := linked[module]; by != nil {
				into, license = strings.Join(by, ", "), licenses[module]
			}
			if cells[2] != into || cells[4] != license {
				t.Errorf("%s is linked into %s with the licence %s, want %s and %s", module, cells[2], cells[4], into, license)
			}
		}
	}
}

// direct are the modules that the folder's go.mod wants for itself.
func direct(t *testing.T, folder string) []string {
	t.Helper()
	edit := exec.Command("go", "mod", "edit", "-json")
	edit.Dir = folder
	out, err := edit.Output()
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &file); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range file.Require {
		if !r.Indirect && !strings.HasPrefix(r.Path, "github.com/workload-identity-exporter/") {
			all = append(all, r.Path)
		}
	}
	slices.Sort(all)
	return all
}
