package web

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// heard is a node of the accessibility tree, which is what a screen reader has.
type heard struct{ role, name, level string }

// hear returns the tree, in the order in which it is read.
func (b *tab) hear(t *testing.T) []heard {
	t.Helper()
	var all []heard
	for _, n := range must(t, b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if n.Ignored {
			continue
		}
		h := heard{role: word(n.Role), name: word(n.Name)}
		for _, p := range n.Properties {
			if p.Name == "level" {
				h.level = word(p.Value)
			}
		}
		all = append(all, h)
	}
	return all
}

func word(v *accessibility.Value) string {
	if v == nil {
		return ""
	}
	var s any
	if json.Unmarshal([]byte(v.Value), &s) != nil {
		return ""
	}
	switch s := s.(type) {
	case string:
		return s
	case float64:
		return strconv.FormatFloat(s, 'g', -1, 64)
	}
	return ""
}

// readable fails unless a screen reader finds its way: one landmark, one heading
// with the state, headings of levels without a gap, the strip as one sentence, and
// tables that are tables at any width.
func (b *tab) readable(t *testing.T, where string, state identity.State) {
	t.Helper()
	count := map[string]int{}
	var level int
	for _, h := range b.hear(t) {
		count[h.role]++
		switch h.role {
		case "heading":
			l, err := strconv.Atoi(h.level)
			if err != nil || l > level+1 {
				t.Errorf("%s: the heading %q has the level %q below %d", where, h.name, h.level, level)
			}
			level = l
			if l == 1 {
				count["h1"]++
				if h.name != string(state) {
					t.Errorf("%s: the first heading is read as %q, want %q", where, h.name, state)
				}
			}
		case "image":
			if !strings.HasPrefix(h.name, "Last ") && !strings.HasPrefix(h.name, "Only one probe yet: ") {
				t.Errorf("%s: an image is read as %q, want a sentence about the last probes", where, h.name)
			}
		case "link":
			if h.name == "" {
				t.Errorf("%s: a link has no name", where)
			}
		}
	}
	strips := evaluate[int](t, b, `document.querySelectorAll('.strip').length`)
	for role, want := range map[string]int{"main": 1, "h1": 1, "image": strips} {
		if count[role] != want {
			t.Errorf("%s: %d of the role %s, want %d", where, count[role], role, want)
		}
	}
	for role, least := range map[string]int{"table": 2, "row": 14, "rowheader": 14, "cell": 14, "columnheader": 7 * strips} {
		if count[role] < least {
			t.Errorf("%s: %d of the role %s, want %d at least: %v", where, count[role], role, least, count)
		}
	}
}
