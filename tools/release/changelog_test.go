package main

import (
	"os"
	"strings"
	"testing"
)

const changelog = `# Changelog

Text, and [a link](https://example.com).

## [Unreleased]

## [0.2.0] - 2026-02-01

### Added

- What [Helm] does.

` + "```md\n## [9.9.9]\n```" + `

## [0.1.1-rc.1] - 2026-01-02

## [0.1.1] - 2026-01-03

## Not a version

- Of nobody.

## [0.1.0] - 2026-01-01

- The first.

[Unreleased]: https://example.com/compare
[0.2.0]: https://example.com/0.2.0
[Helm]: https://helm.sh
`

func TestSections(t *testing.T) {
	for _, tt := range []struct{ name, want, wrong string }{
		{"0.2.0", "### Added\n\n- What [Helm] does.\n\n```md\n## [9.9.9]\n```\n\n[Helm]: https://helm.sh\n", ""},
		{"0.1.0", "- The first.\n", ""},
		{"0.1.1", "", `nothing below the heading "## [0.1.1]"`},
		{"Unreleased", "", `nothing below the heading "## [Unreleased]"`},
		{"0.3.0", "", `no heading "## [0.3.0] - YYYY-MM-DD": put it below "## [Unreleased]"`},
		{"9.9.9", "", "no heading"},
		{"0.1", "", "no heading"},
	} {
		got, err := section(changelog, tt.name)
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.wrong)
		}
	}
}

func TestTheLastSectionEndsWithTheFile(t *testing.T) {
	got, err := section("## [0.1.0]\r\n\r\n- One.\r\n- Two.", "0.1.0")
	if err != nil || got != "- One.\n- Two.\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOurChangelogHasSections(t *testing.T) {
	text, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n## ["+unreleased+"]\n") {
		t.Error("CHANGELOG.md has no place for what comes next")
	}
	for line := range strings.Lines(string(text)) {
		if m := heading.FindStringSubmatch(line); m == nil && strings.HasPrefix(line, "## ") {
			t.Errorf("%q is a heading that no release would find", strings.TrimSpace(line))
		}
	}
}
