package identity

import (
	"errors"
	"strings"
)

// Pattern names one identity, or several by a "*" that stands for any run of
// characters: *-compute@developer.gserviceaccount.com.
type Pattern string

// Exactly is the pattern that only this identity matches.
func Exactly(id Identity) Pattern { return Pattern(id) }

// ParsePattern reads an email that may hold "*". A pattern without "@" is
// refused: it would match identities of other kinds, or everything.
func ParsePattern(s string) (Pattern, error) {
	p := strings.ToLower(strings.TrimSpace(s))
	// With each star replaced by a character of an email, the rest must be one.
	id, err := Parse(strings.ReplaceAll(p, "*", "x"))
	if err != nil || id.Kind() != ServiceAccount || !strings.Contains(strings.TrimRight(p, "*."), "@") {
		return "", errors.New("not an email, and not a pattern of one with an @ and a domain")
	}
	return Pattern(p), nil
}

// Match reports whether the pattern names this identity.
func (p Pattern) Match(id Identity) bool {
	parts := strings.Split(string(p), "*")
	if len(parts) == 1 {
		return string(p) == string(id)
	}
	rest, ok := strings.CutPrefix(string(id), parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, last)
}
