package diagnose

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Somebody who has the label of an alert, or the title of the status page, searches the
// runbooks for it.
func TestTheSectionOfACauseNamesIt(t *testing.T) {
	for _, r := range rules() {
		if r.pages[""] == "" {
			t.Errorf("%s has no section", r.cause)
		}
		for state, link := range r.pages {
			if state == identity.Match && r.risk == nil {
				continue // the section is that of others
			}
			file, anchor, _ := strings.Cut(link, "#")
			text, ok := section(t, file, anchor)
			if !ok {
				t.Errorf("%s: %s has no section #%s", r.cause, file, anchor)
				continue
			}
			if want := "`" + string(r.cause) + "`: " + r.title + "."; !strings.Contains(text, want) {
				t.Errorf("%s: the section %s#%s lacks %q", r.cause, file, anchor, want)
			}
		}
	}
}

// section is the text below a heading, as far as the next one, in one line.
func section(t *testing.T, file, anchor string) (string, bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../alerts/runbooks", file))
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("(?ms)^ *```.*?^ *```$") // whose comments look like headings
	for part := range strings.SplitSeq("\n"+code.ReplaceAllString(string(text), ""), "\n#") {
		heading, content, _ := strings.Cut(part, "\n")
		heading = strings.ToLower(strings.TrimLeft(heading, "# "))
		heading = regexp.MustCompile(`[^a-z0-9_ -]`).ReplaceAllString(heading, "")
		if strings.ReplaceAll(heading, " ", "-") == anchor {
			return strings.Join(strings.Fields(content), " "), true
		}
	}
	return "", false
}
