package docs_test

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// `make pictures` takes them; this is what can be told without a browser.
func TestEachStateHasAPictureInThePage(t *testing.T) {
	page, err := os.ReadFile("status-page.md")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]int{}
	for _, s := range identity.States() {
		want[string(s)] = [2]int{1200, 1100}
	}
	for _, s := range []identity.State{identity.Match, identity.NodeFallback} {
		want[string(s)+"-dark"] = [2]int{1200, 1100}
		want[string(s)+"-phone"] = [2]int{390, 844}
	}
	var total int
	for name, size := range want {
		file := "images/status/" + name + ".png"
		picture, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if c, err := png.DecodeConfig(bytes.NewReader(picture)); err != nil || [2]int{c.Width, c.Height} != size {
			t.Errorf("%s: %dx%d, %v, want %v", file, c.Width, c.Height, err, size)
		}
		if len(picture) > 150_000 {
			t.Errorf("%s has %d bytes, want 150,000 at most", file, len(picture))
		}
		total += len(picture)
		if !strings.Contains(string(page), "]("+file+")") {
			t.Errorf("status-page.md does not show %s", file)
		}
	}
	if total > 1_500_000 {
		t.Errorf("the pictures have %d bytes, want 1,500,000 at most", total)
	}
	files, err := filepath.Glob("images/status/*")
	if err != nil || len(files) != len(want) {
		t.Errorf("%d files, %v, want %d: nothing that nobody looks at", len(files), err, len(want))
	}
}
