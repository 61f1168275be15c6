package main

import (
	"fmt"
	"regexp"
	"strings"
)

// unreleased is the heading of what no release has yet.
const unreleased = "Unreleased"

var (
	// A link's definition, as keepachangelog.com has them at the end: [0.1.0]: https://...
	definition = regexp.MustCompile(`^\[([^\]]+)\]:\s+\S`)
	// A heading of a version: ## [0.1.0] - 2026-01-31.
	heading = regexp.MustCompile(`^## \[([^\]]+)\]`)
)

// section returns the text below the heading "## [NAME]" of a changelog in the
// format of keepachangelog.com, without that heading and with the definitions of
// the links that it uses. It fails if there is no such heading, or nothing below.
func section(changelog, name string) (string, error) {
	var body, definitions []string
	found, inside, fenced := false, false, false
	for line := range strings.Lines(changelog) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		switch m := heading.FindStringSubmatch(line); {
		case fenced:
		case m != nil:
			inside = m[1] == name
			found = found || inside
			continue
		case strings.HasPrefix(line, "## "):
			inside = false
		case definition.MatchString(line):
			definitions = append(definitions, line)
			continue
		}
		if inside {
			body = append(body, line)
		}
	}
	text := strings.TrimSpace(strings.Join(body, "\n"))
	switch {
	case !found:
		return "", fmt.Errorf("CHANGELOG.md has no heading %q: put it below %q, above what changed", title(name), "## ["+unreleased+"]")
	case text == "":
		return "", fmt.Errorf("CHANGELOG.md has nothing below the heading %q: say what changed", "## ["+name+"]")
	}
	var used []string
	for _, line := range definitions {
		if label := definition.FindStringSubmatch(line)[1]; strings.Contains(text, "["+label+"]") {
			used = append(used, line)
		}
	}
	if len(used) > 0 {
		text += "\n\n" + strings.Join(used, "\n")
	}
	return text + "\n", nil
}

// title is the heading that a section should have.
func title(name string) string {
	if name == unreleased {
		return "## [" + name + "]"
	}
	return "## [" + name + "] - YYYY-MM-DD"
}
