package dashboards

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// dashboard is what of the JSON says which queries Grafana makes.
type dashboard struct {
	UID    string
	Panels []struct {
		Title         string
		GridPos       struct{ W int }
		MaxDataPoints int
		Targets       []struct {
			RefID, Expr, Format string
			Instant             bool
		}
	}
	Templating  struct{ List []variable }
	Annotations struct {
		List []struct{ Name, Expr string }
	}
}

type variable struct {
	Name, Type, Regex, AllValue string
	Multi                       bool
	Query                       json.RawMessage
}

// expression is the query of a variable: what it asks for, and the label whose
// values it wants, if that is all.
func (v variable) expression(t testing.TB) (expression, label string) {
	t.Helper()
	var query struct{ Query string }
	if err := json.Unmarshal(v.Query, &query); err != nil {
		t.Fatal(err)
	}
	if m := regexp.MustCompile(`^label_values\((.+), *(\w+)\)$`).FindStringSubmatch(query.Query); m != nil {
		return m[1], m[2]
	}
	m := regexp.MustCompile(`^query_result\((.+)\)$`).FindStringSubmatch(query.Query)
	if m == nil {
		t.Fatalf("$%s: Grafana knows no query %q", v.Name, query.Query)
	}
	return m[1], ""
}

func (g grafana) dashboards(t testing.TB) []dashboard {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(repository, cmp.Or(g.folder, "dashboards"), "*.json"))
	if err != nil || len(paths) != 3 {
		t.Fatalf("%d dashboards (%v), want 3", len(paths), err)
	}
	var all []dashboard
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, d)
	}
	return all
}
