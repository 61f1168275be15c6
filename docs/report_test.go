package docs_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// property is what the table says of a field; the tests of internal/report hold
// the schema to the types.
type property struct {
	Ref         string `json:"$ref"`
	Description string
	Type        string
	Format      string
	Const       any
	Enum        []any
	Items       *property
	Properties  map[string]property
	Defs        map[string]property `json:"$defs"`
}

// writeReport writes the fields in the order of the report, as the schema has them.
func writeReport(w io.Writer) {
	text, err := os.ReadFile("schema/report.schema.json")
	var schema property
	if err == nil {
		err = json.Unmarshal(text, &schema)
	}
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(w, "| field | type | meaning |\n|---|---|---|\n")
	schema.writeFields(w, schema.Properties, reflect.TypeFor[report.Report](), "", map[reflect.Type]bool{})
}

// writeFields has those of each type once.
func (s property) writeFields(w io.Writer, fields map[string]property, of reflect.Type, prefix string, known map[reflect.Type]bool) {
	if known[of] {
		return
	}
	known[of] = true
	for _, f := range reflect.VisibleFields(of) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() {
			continue
		}
		p := s.resolve(fields[name])
		fmt.Fprintf(w, "| `%s%s` | %s | %s |\n", prefix, name, s.kind(fields[name]), p.Description)
		switch {
		case p.Items != nil && s.resolve(*p.Items).Properties != nil:
			s.writeFields(w, s.resolve(*p.Items).Properties, f.Type.Elem(), prefix+name+"[].", known)
		case p.Properties != nil:
			s.writeFields(w, p.Properties, f.Type, prefix+name+".", known)
		}
	}
}

// resolve is what the property refers to, with its own description.
func (s property) resolve(p property) property {
	if name, ok := strings.CutPrefix(p.Ref, "#/$defs/"); ok {
		description := p.Description
		p = s.Defs[name]
		p.Description = description
	}
	return p
}

// kind is the type in a word, or the values.
func (s property) kind(p property) string {
	if p.Ref == "#/$defs/state" {
		return "a [state](metrics.md#states)"
	}
	p = s.resolve(p)
	switch {
	case p.Const != nil:
		return fmt.Sprintf("%v", p.Const)
	case p.Enum != nil:
		var values []string
		for _, v := range p.Enum {
			values = append(values, fmt.Sprintf("`%v`", v))
		}
		return strings.Join(values, ", ")
	case p.Format == "date-time":
		return "time"
	}
	return map[string]string{
		"array": "list", "boolean": "true or false", "integer": "number", "number": "number", "object": "object", "string": "string",
	}[p.Type]
}

func writeOutcomes(w io.Writer) {
	_, _ = io.WriteString(w, "| state | exit code | runbook |\n|---|---|---|\n")
	for _, s := range identity.States() {
		runbook := ""
		if name, ok := strings.CutPrefix(report.Runbook(s), diagnose.Runbooks); ok {
			runbook = fmt.Sprintf("[%s](../alerts/runbooks/%s)", strings.TrimSuffix(name, ".md"), name)
		}
		fmt.Fprintf(w, "| `%s` | %d | %s |\n", s, report.ExitCode(s), runbook)
	}
}

func TestEveryFieldOfTheReportIsExplained(t *testing.T) {
	var table strings.Builder
	writeReport(&table)
	for line := range strings.Lines(table.String()) {
		if strings.Contains(line, "|  |") {
			t.Errorf("docs/schema/report.schema.json lacks a type or description: %s", line)
		}
	}
}
