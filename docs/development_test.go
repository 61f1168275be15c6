package docs_test

import (
	"regexp"
	"testing"
)

// Who has that version can do all that is here, in each of the modules.
func TestTheLeastVersionOfGoIsOne(t *testing.T) {
	least := map[string]string{}
	for file, pattern := range map[string]string{
		"../README.md":                       `With Go (\d+\.\d+\.\d+) or newer`,
		"../go.mod":                          `(?m)^go (\S+)$`,
		"../third_party/conntrack/go.mod":    `(?m)^go (\S+)$`,
		"../tools/go.mod":                    `(?m)^go (\S+)$`,
		"../test/e2e/go.mod":                 `(?m)^go (\S+)$`,
		"../test/e2e/scrape/operator/go.mod": `(?m)^go (\S+)$`,
	} {
		m := regexp.MustCompile(pattern).FindStringSubmatch(read(t, file))
		if m == nil {
			t.Fatalf("%s names no version of Go", file)
		}
		least[m[1]] = file
	}
	if len(least) != 1 {
		t.Errorf("the least versions of Go differ: %v", least)
	}
}
