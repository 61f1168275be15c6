package web

import "github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"

// tone is how a state is shown: the class of its colour, and a shape for those
// who see no colours.
type tone string

const (
	good   tone = "good"
	bad    tone = "bad"
	unsure tone = "unsure"
)

func toneOf(s identity.State) tone {
	switch {
	case s == identity.Match:
		return good
	case s.Accuses():
		return bad
	}
	return unsure
}

// icon is a picture beside the word, which it does not replace. It is part of the
// page, because a font may lack such characters.
func (t tone) icon() html {
	return `<svg aria-hidden="true" viewBox="0 0 16 16"><path fill="currentColor" fill-rule="evenodd" d="` + t.outline() + `"/></svg>`
}

func (t tone) outline() html {
	switch t {
	case good: // a disc with a tick
		return "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0ZM6.8 11.8 3 8l1.4-1.4 2.4 2.4 4.8-4.8L13 5.6Z"
	case bad: // an octagon with a cross
		return "M4.7 0h6.6L16 4.7v6.6L11.3 16H4.7L0 11.3V4.7ZM5.4 4 4 5.4 6.6 8 4 10.6 5.4 12 8 9.4 10.6 12 12 10.6 9.4 8 12 5.4 10.6 4 8 6.6Z"
	case unsure:
	}
	return "M8 .5 16 15H0ZM7 5.5h2v5H7ZM7 11.5h2v2H7Z" // a triangle with an exclamation mark
}
