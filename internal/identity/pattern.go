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

// ParsePattern reads an email that may hold "*". A pattern without "@" is refused,
// since it would match identities of other kinds. So is one that matches the
// accounts of everybody: all that is wrong would be called a node's.
func ParsePattern(s string) (Pattern, error) {
	p, err := fold(s)
	if err != nil {
		return "", err
	}
	// With each star replaced by a character of an email, the rest must be one.
	id, err := Parse(strings.ReplaceAll(p, "*", "x"))
	if err != nil || id.Kind() != ServiceAccount {
		return "", errors.New("not an email, and not a pattern of one with an @ and a domain")
	}
	switch name, domain, _ := strings.Cut(p, "@"); {
	case !isFixed(domain):
		return "", errors.New("no part of the domain is fixed: write it, as in nodes-*@PROJECT.iam.gserviceaccount.com")
	case !isFixed(name) && strings.HasPrefix(domain, "*"):
		return "", errors.New("this is every service account of every project: write the project, as in *@PROJECT.iam.gserviceaccount.com, or the account, as in nodes@*.iam.gserviceaccount.com")
	}
	return Pattern(p), nil
}

// isFixed reports whether there is anything in a part of a pattern but stars and
// what joins them.
func isFixed(part string) bool { return strings.Trim(part, "*.-_+") != "" }

// Match reports whether the pattern names this identity. No "*" stands for an "@": the
// pattern of all workload pools names no account whose domain reads like one.
func (p Pattern) Match(id Identity) bool {
	if strings.Count(string(p), "@") != strings.Count(string(id), "@") {
		return false
	}
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
