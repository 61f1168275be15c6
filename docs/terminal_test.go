package docs_test

import (
	"bytes"
	"fmt"
	"html"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

// The pictures of a terminal show what the plugin prints, in its colours.
func TestPicturesOfATerminal(t *testing.T) {
	ago := func(d time.Duration) *time.Time { at := time.Now().Add(-d); return &at }
	const app, node = "app@my-project.iam.gserviceaccount.com", "123456789012-compute@developer.gserviceaccount.com"
	nodes := func(out *bytes.Buffer) error {
		return plugin.PrintNodes(out, []plugin.NodeRow{
			{Node: "gke-a-9z1q", State: identity.NodeFallback, Since: ago(12 * time.Minute), Expected: app, Observed: node, Cause: "eBPF host routing bypasses the GKE metadata server"},
			{Node: "gke-a-x7c2", State: plugin.Silent, Cause: "no agent: the node has the taint gpu, which the agent may not tolerate"},
			{Node: "gke-a-0p4d", State: identity.Match, Since: ago(75 * time.Hour), Expected: app, Observed: app},
			{Node: "gke-a-k3wm", State: identity.Match, Since: ago(75 * time.Hour), Expected: app, Observed: app},
		}, "table", true)
	}
	audit := func(out *bytes.Buffer) error {
		dump, err := os.Open("testdata/audit.json")
		if err != nil {
			return err
		}
		defer dump.Close()
		inventory, err := plugin.ReadDump(dump)
		if err != nil {
			return err
		}
		return plugin.PrintFindings(out, plugin.Audit(inventory), nil, "table", true)
	}
	for _, p := range []struct {
		name  string
		print func(*bytes.Buffer) error
	}{{"nodes", nodes}, {"audit", audit}} {
		var out bytes.Buffer
		if err := p.print(&out); err != nil {
			t.Fatal(err)
		}
		want := terminal("$ kubectl workload-identity "+p.name, out.String())
		path := "images/kubectl-" + p.name + ".svg"
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil { //nolint:gosec // everybody may see it
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is not what the plugin prints (%v): run `go test ./docs -update`", path, err)
		}
	}
}

var escape = regexp.MustCompile("\x1b\\[(\\d+)m([^\x1b]*)\x1b\\[0m")

// terminal is a picture of the lines: dark, and as wide as they are.
func terminal(command, printed string) string {
	lines := append([]string{command}, strings.Split(strings.TrimRight(printed, "\n"), "\n")...)
	colours := map[string]string{"31": "#ff7b72", "32": "#56d364", "33": "#e3b341", "39": "#e6edf3"}
	width := 0
	for _, l := range lines {
		width = max(width, len([]rune(escape.ReplaceAllString(l, "$2"))))
	}
	const advance, height, margin = 7.83, 20, 16 // of a monospace font of 13 pixels
	var svg strings.Builder
	fmt.Fprintf(&svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%d\" font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"13\">\n", float64(width)*advance+2*margin, len(lines)*height+2*margin)
	fmt.Fprintf(&svg, "<rect width=\"100%%\" height=\"100%%\" rx=\"8\" fill=\"#0d1117\"/>\n")
	for i, l := range lines {
		// Each run of text has its place, so that columns hold in any font.
		at := 0
		place := func(text, colour string) {
			for _, cell := range regexp.MustCompile(`\S+( \S+)*`).FindAllStringIndex(text, -1) {
				before, word := len([]rune(text[:cell[0]])), text[cell[0]:cell[1]]
				fmt.Fprintf(&svg, "<text x=\"%.1f\" y=\"%d\" fill=\"%s\" textLength=\"%.1f\" lengthAdjust=\"spacingAndGlyphs\">%s</text>\n",
					margin+float64(at+before)*advance, margin+14+i*height, colour, float64(len([]rune(word)))*advance, html.EscapeString(word))
			}
			at += len([]rune(text))
		}
		rest := l
		for _, m := range escape.FindAllStringSubmatch(l, -1) {
			before, after, _ := strings.Cut(rest, m[0])
			place(before, colours["39"])
			place(m[2], colours[m[1]])
			rest = after
		}
		place(rest, colours["39"])
	}
	svg.WriteString("</svg>\n")
	return svg.String()
}
