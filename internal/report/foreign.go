package report

import (
	"strings"
	"unicode"
)

// maxForeign is how many bytes of one foreign text are shown. The agent's own are
// far shorter.
const maxForeign = 4 << 10

// foreign is a text that may quote others, such as a metadata server or an API
// server, as it may be shown: without what could steer a terminal, and of a
// length that can be read. Every such text of a Report has gone through it.
func foreign(s string) string {
	if len(s) > maxForeign {
		s = strings.ToValidUTF8(s[:maxForeign-3], "") + "..."
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// each is foreign of each text.
func each(texts []string) []string {
	var shown []string
	for _, t := range texts {
		shown = append(shown, foreign(t))
	}
	return shown
}
