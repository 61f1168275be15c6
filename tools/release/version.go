package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// commit is what git tells of the commit that is checked out.
type commit struct {
	Hash     string   // 40 hex digits
	Time     int64    // of the committer, in seconds since 1970
	Tags     []string // those that point at it, in any order
	Last     string   // the tag of the last release before it; empty if there is none
	Distance int      // how many commits it is after Last, or after the beginning
	Changed  []string // what differs from it in the work tree, as `git status --porcelain` says it
}

// released returns the version that a tag like v1.2.3 or v1.2.3-rc.1 names. Build
// metadata (v1.2.3+5) is no version here, because a tag of an image cannot have it.
func released(tag string) (*semver.Version, bool) {
	text, ok := strings.CutPrefix(tag, "v")
	if !ok {
		return nil, false
	}
	v, err := semver.StrictNewVersion(text)
	return v, err == nil && v.Metadata() == ""
}

// tag returns the tag that this commit is released by: the one that is asked for,
// or the highest version of its tags. It is empty if there is none.
func (c commit) tag(asked string) string {
	if asked != "" {
		if _, ok := released(asked); ok && slices.Contains(c.Tags, asked) {
			return asked
		}
		return ""
	}
	var highest *semver.Version
	for _, t := range c.Tags {
		if v, ok := released(t); ok && (highest == nil || v.GreaterThan(highest)) {
			highest = v
		}
	}
	if highest == nil {
		return ""
	}
	return "v" + highest.String()
}

// version returns the version of what is built: that of the tag, if nothing was
// changed since. Otherwise it is the one of a build of the development, which sorts
// after the last release and before the next one:
//
//	0.1.0                           the tag v0.1.0
//	0.0.0-dev.7.g0123456       7 commits, and no release yet
//	0.1.1-dev.7.g0123456       7 commits after v0.1.0
//	0.2.0-rc.1.dev.7.g0123456  7 commits after v0.2.0-rc.1
//
// with .dirty at its end if files were changed. Each is a semantic version without
// "+", so it can be that of a chart and the tag of an image, and short enough for the
// label helm.sh/chart, which has room for 36 characters of it.
func (c commit) version(tag string) string {
	if tag != "" && len(c.Changed) == 0 {
		return strings.TrimPrefix(tag, "v")
	}
	base, distance := "0.0.0-dev", c.Distance
	last := c.Last
	if tag != "" {
		last, distance = tag, 0
	}
	if v, ok := released(last); ok {
		if v.Prerelease() != "" {
			base = v.String() + ".dev"
		} else {
			base = v.IncPatch().String() + "-dev"
		}
	}
	text := base + "." + strconv.Itoa(distance) + ".g" + c.Hash[:7]
	if len(c.Changed) > 0 {
		text += ".dirty"
	}
	return text
}

// refusals are the reasons why this commit cannot be released, each with a remedy.
func (c commit) refusals(asked string) []error {
	var all []error
	switch {
	case c.tag(asked) != "":
	case asked != "" && !slices.Contains(c.Tags, asked):
		all = append(all, fmt.Errorf("TAG=%s is not at commit %s, whose tags are: %s; check out the commit of the tag, or leave TAG out", asked, c.Hash[:12], list(c.Tags)))
	case asked != "":
		all = append(all, fmt.Errorf("TAG=%s is no version: want vMAJOR.MINOR.PATCH, such as v0.1.0 or v0.2.0-rc.1", asked))
	case len(c.Tags) == 0:
		all = append(all, fmt.Errorf("commit %s has no tag: `git tag -a v0.1.0 -m v0.1.0` gives it one", c.Hash[:12]))
	default:
		all = append(all, fmt.Errorf("commit %s has no tag that is a version, only: %s; want vMAJOR.MINOR.PATCH, such as v0.1.0 or v0.2.0-rc.1", c.Hash[:12], list(c.Tags)))
	}
	if len(c.Changed) > 0 {
		shown := c.Changed[:min(5, len(c.Changed))]
		all = append(all, fmt.Errorf("%d files are not as commit %s has them: %s; commit them and tag that, or `git stash -u`", len(c.Changed), c.Hash[:12], list(shown)))
	}
	return all
}

func list(items []string) string {
	if len(items) == 0 {
		return "none"
	}
	return strings.Join(items, ", ")
}
