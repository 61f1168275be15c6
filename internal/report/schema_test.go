package report_test

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// schema is as much of JSON Schema as docs/schema/report.schema.json uses.
type schema struct {
	Ref         string            `json:"$ref"`
	Schema      string            `json:"$schema"`
	Defs        map[string]schema `json:"$defs"`
	Title       string            `json:"title"`
	Description string            `json:"description"`

	Type       string            `json:"type"`
	Format     string            `json:"format"`
	Const      any               `json:"const"`
	Enum       []any             `json:"enum"`
	Items      *schema           `json:"items"`
	Required   []string          `json:"required"`
	Properties map[string]schema `json:"properties"`
	Names      *schema           `json:"propertyNames"`
	Values     *schema           `json:"additionalProperties"`
}

func readSchema(t *testing.T) schema {
	t.Helper()
	f, err := os.Open("../../docs/schema/report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s schema
	d := json.NewDecoder(f)
	d.DisallowUnknownFields() // or a part of it would be held by nobody
	if err := d.Decode(&s); err != nil {
		t.Fatalf("docs/schema/report.schema.json: %v", err)
	}
	return s
}

// closed are the sets that types of the report are of.
func closed() map[reflect.Type][]string {
	var reasons []identity.Reason
	for _, e := range identity.Endpoints() {
		reasons = append(reasons, identity.Reasons(e)...)
	}
	return map[reflect.Type][]string{
		reflect.TypeFor[identity.State]():      sorted(identity.States()),
		reflect.TypeFor[identity.Endpoint]():   sorted(identity.Endpoints()),
		reflect.TypeFor[identity.Reason]():     sorted(reasons),
		reflect.TypeFor[identity.Source]():     sorted([]identity.Source{identity.SourceConfig, identity.SourceAnnotation, identity.SourceWorkloadPool, identity.SourceNone}),
		reflect.TypeFor[identity.Server]():     sorted([]identity.Server{identity.ServerGKE, identity.ServerVM, identity.ServerUnknown}),
		reflect.TypeFor[diagnose.Confidence](): sorted([]diagnose.Confidence{diagnose.Proves, diagnose.Suggests, diagnose.Possible, diagnose.RulesOut}),
	}
}

func sorted[T ~string](set []T) []string {
	var all []string
	for _, v := range set {
		all = append(all, string(v))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// The schema has every field of the report's types with its type, and no other.
func TestTheSchemaIsThatOfTheReport(t *testing.T) {
	s := readSchema(t)
	if s.Properties["version"].Const != float64(report.Version) {
		t.Errorf("the schema is that of version %v, want %d", s.Properties["version"].Const, report.Version)
	}
	var codes []any
	for _, state := range identity.States() {
		codes = append(codes, float64(report.ExitCode(state)))
	}
	slices.SortFunc(codes, func(a, b any) int { return int(a.(float64) - b.(float64)) })
	if got, want := s.Properties["exit_code"].Enum, slices.Compact(codes); !reflect.DeepEqual(got, want) {
		t.Errorf("the schema has the exit codes %v, want %v", got, want)
	}
	s.describes(t, s, reflect.TypeFor[report.Report](), "report")
}

// describes fails unless the part of the schema is what encoding/json makes of the type.
func (s schema) describes(t *testing.T, part schema, of reflect.Type, where string) {
	t.Helper()
	if name, ok := strings.CutPrefix(part.Ref, "#/$defs/"); ok {
		part = s.Defs[name]
	}
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if set := closed()[of]; set != nil {
		var got []string
		for _, v := range part.Enum {
			got = append(got, v.(string))
		}
		if slices.Sort(got); !slices.Equal(got, set) {
			t.Errorf("%s: the schema has the values %q, want %q", where, got, set)
		}
		return
	}
	want, format := map[reflect.Kind]string{
		reflect.Bool: "boolean", reflect.Int: "integer", reflect.Float64: "number", reflect.String: "string",
		reflect.Slice: "array", reflect.Map: "object", reflect.Struct: "object",
	}[of.Kind()], ""
	if of == reflect.TypeFor[time.Time]() {
		want, format = "string", "date-time"
	}
	if part.Const != nil || part.Enum != nil {
		return // see above
	}
	if part.Type != want || part.Format != format {
		t.Errorf("%s: the schema has %q %q, want %q %q", where, part.Type, part.Format, want, format)
		return
	}
	switch {
	case want == "array":
		s.describes(t, *part.Items, of.Elem(), where+"[]")
	case of.Kind() == reflect.Map:
		s.describes(t, *part.Names, of.Key(), where+" names")
		s.describes(t, *part.Values, of.Elem(), where+" values")
	case want == "object":
		var required []string
		fields := map[string]bool{}
		for _, f := range reflect.VisibleFields(of) {
			name, options, tagged := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() {
				continue
			}
			fields[name] = true
			if !tagged {
				required = append(required, name)
			} else if options != "omitempty" {
				t.Errorf("%s.%s: what is %q?", where, name, options)
			}
			s.describes(t, part.Properties[name], f.Type, where+"."+name)
		}
		for name := range part.Properties {
			if !fields[name] {
				t.Errorf("%s: the schema has %s, and the report has not", where, name)
			}
		}
		if slices.Sort(required); !slices.Equal(slices.Sorted(slices.Values(part.Required)), required) {
			t.Errorf("%s: the schema requires %q, want %q", where, part.Required, required)
		}
	}
}

// Nothing of it is null: who reads a list need not ask whether there is one.
func TestWhatIsNotThereIsAbsentOrEmpty(t *testing.T) {
	for _, state := range identity.States() {
		s := agent.Snapshot{Verdict: identity.Verdict{State: state}, Probes: []agent.Probe{{State: state}}}
		text, err := json.Marshal(report.New(&s, report.About{}))
		if err != nil || strings.Contains(string(text), "null") {
			t.Errorf("%s: %s, %v", state, text, err)
		}
	}
}
