// Package docs writes the parts of the documentation that the code knows best,
// and fails when they are out of date. `make generate` writes them again.
package docs_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

var update = flag.Bool("update", false, "write the generated parts again")

// A test that the documentation names is one.
func TestNamedTestsExist(t *testing.T) {
	var code strings.Builder
	for _, top := range []string{"../internal", "../cmd", "../test", "../tools"} {
		if err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, "_test.go") {
				code.WriteString(read(t, path))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../README.md", "../CONTRIBUTING.md") {
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w*)`").FindAllStringSubmatch(read(t, page), -1) {
			if !strings.Contains(code.String(), "\nfunc "+m[1]+"(") {
				t.Errorf("%s names %s, and there is no such test", page, m[1])
			}
		}
	}
}

func TestGeneratedParts(t *testing.T) {
	parts := map[string]func(io.Writer){
		"metrics":       exporter.WriteMarkdown,
		"configuration": config.WriteMarkdown,
		"states":        writeStates,
		"faults":        writeFaults,
		"report":        writeReport,
		"outcomes":      writeOutcomes,
		"causes":        writeCauses,
		"checks":        writeChecks,
	}
	for _, tt := range []struct{ file, part string }{
		{"metrics.md", "metrics"},
		{"metrics.md", "states"},
		{"configuration.md", "configuration"},
		{"simulator.md", "faults"},
		{"report.md", "report"},
		{"report.md", "outcomes"},
		{"causes.md", "causes"},
		{"kubectl.md", "checks"},
	} {
		t.Run(tt.file+" "+tt.part, func(t *testing.T) {
			text := read(t, tt.file)
			begin, end := "<!-- begin generated: "+tt.part+" -->\n", "<!-- end generated -->"
			before, rest, ok := strings.Cut(text, begin)
			had, after, ok2 := strings.Cut(rest, end)
			if !ok || !ok2 {
				t.Fatalf("%s lacks the markers of the part %s", tt.file, tt.part)
			}
			var want strings.Builder
			parts[tt.part](&want)
			if had == want.String() {
				return
			}
			if !*update {
				t.Fatalf("the part %s of %s is out of date: run `make generate`", tt.part, tt.file)
			}
			if err := os.WriteFile(tt.file, []byte(before+begin+want.String()+end+after), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func writeStates(w io.Writer) {
	_, _ = io.WriteString(w, "| state | meaning | the agent accuses |\n|---|---|---|\n")
	for _, s := range identity.States() {
		accuses := "no"
		if s.Accuses() {
			accuses = "yes"
		}
		_, _ = io.WriteString(w, "| `"+string(s)+"` | "+s.Meaning()+" | "+accuses+" |\n")
	}
}

func writeFaults(w io.Writer) {
	_, _ = io.WriteString(w, "| fault | what is wrong |\n|---|---|\n")
	for _, f := range simulator.Faults() {
		_, _ = io.WriteString(w, "| `"+f.Name+"` | "+f.Description+" |\n")
	}
}

func writeCauses(w io.Writer) {
	_, _ = io.WriteString(w, "| cause | what it is | explains | first remedy | runbook |\n|---|---|---|---|---|\n")
	for _, g := range diagnose.Guides() {
		var states []string
		for _, s := range g.States {
			states = append(states, "`"+string(s)+"`")
		}
		page := strings.TrimPrefix(g.Runbook, diagnose.Runbooks)
		name, _, _ := strings.Cut(strings.TrimPrefix(page, "WorkloadIdentity"), ".md")
		fmt.Fprintf(w, "| `%s` | %s | %s | %s | [%s](../alerts/runbooks/%s) |\n", g.Cause, g.Title, strings.Join(states, ", "), g.Remedy, name, page)
	}
}

func writeChecks(w io.Writer) {
	_, _ = io.WriteString(w, "| code | severity | what it finds | remedy |\n|---|---|---|---|\n")
	for _, c := range plugin.Checks() {
		fmt.Fprintf(w, "| <a id=%q></a>`%s` | %s | %s | %s |\n", strings.ToLower(c.Code), c.Code, c.Severity, c.What, c.Do)
	}
}

// Whoever adds a confidence tells what it means.
func TestTheConfidencesAreExplained(t *testing.T) {
	text := read(t, "causes.md")
	var schema property
	read, err := os.ReadFile("schema/report.schema.json")
	if err == nil {
		err = json.Unmarshal(read, &schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	finding := schema.resolve(*schema.Properties["causes"].Items)
	confidences := schema.resolve(finding.Properties["confidence"]).Enum
	if len(confidences) == 0 {
		t.Fatal("the schema has no confidences")
	}
	for _, c := range confidences {
		if !strings.Contains(text, fmt.Sprintf("\n| `%v` | ", c)) {
			t.Errorf("causes.md does not say what %v means", c)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
