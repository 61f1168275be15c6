package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
)

// place is a file of the repository that names the version that it is for, in the
// first group of a pattern. Who takes it from a tag must get the image of that tag.
type place struct {
	path    string
	pattern *regexp.Regexp
}

var places = []place{
	{"deploy/chart/Chart.yaml", regexp.MustCompile(`(?m)^(?:version|appVersion): (\S+)$`)},
	{"deploy/kustomize/base/daemonset.yaml", regexp.MustCompile(`image: \S+/workload-identity-exporter:(\S+)`)},
	{"docs/gating.md", regexp.MustCompile(`image: \S+/workload-identity-exporter:(\S+)`)},
	{"docs/install.md", regexp.MustCompile(`(?:workload-identity-exporter:|\?ref=v|newTag: |--version )(\d+\.\d+\.\d+(?:-[\w.]*\w)?)`)},
}

// versions are those that the text names, each once.
func (p place) versions(text string) []string {
	var named []string
	for _, m := range p.pattern.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(named, m[1]) {
			named = append(named, m[1])
		}
	}
	return named
}

// versionTag is what the workflow takes for one: v1.2.3 and v1.2.3-rc.1. An image
// cannot be tagged with more, such as 1.2.3+4.
var versionTag = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[a-z]+\.\d+)?$`)

// commit is the one that is checked out.
type commit struct {
	revision string // 40 hex digits
	when     time.Time
	tags     []string // of versions, the highest first
	changed  []string // what differs from it in the work tree, as `git status --porcelain` says it

	// version is the tag's, if there is one and nothing was changed. Otherwise it sorts
	// after the last release and before the next one:
	//
	//	0.0.0-dev.7.g0123456       7 commits, and no release yet
	//	0.1.1-dev.7.g0123456       7 commits after v0.1.0
	//	0.2.0-rc.1.dev.7.g0123456  7 commits after v0.2.0-rc.1
	//
	// with .dirty at its end if files were changed. The label helm.sh/chart has room for
	// 36 characters of it.
	version string
}

// read asks git.
func read(ctx context.Context, root string) (commit, error) {
	var failed error
	lines := func(args ...string) []string {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root, "-c", "versionsort.suffix=-"}, args...)...).Output() //nolint:gosec // the arguments are ours
		if err != nil && failed == nil {
			failed = fmt.Errorf("the version comes from git, and git %s failed: %w", strings.Join(args, " "), err)
		}
		return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
	}
	noVersion := func(tag string) bool { return !versionTag.MatchString(tag) }
	head := lines("log", "-1", "--format=%H%n%ct")
	if failed != nil {
		return commit{}, failed
	}
	seconds, err := strconv.ParseInt(head[1], 10, 64)
	if err != nil {
		return commit{}, err
	}
	c := commit{revision: head[0], when: time.Unix(seconds, 0).UTC()}
	c.tags = slices.DeleteFunc(lines("tag", "--points-at", "HEAD", "--sort=-version:refname"), noVersion)
	// Files that git does not know of are a part of what is built, too.
	for _, line := range lines("status", "--porcelain", "--untracked-files=all") {
		c.changed = append(c.changed, strings.TrimSpace(line))
	}
	if len(c.tags) > 0 && len(c.changed) == 0 {
		c.version = c.tags[0][1:]
		return c, failed
	}
	base, since := "0.0.0-dev", "HEAD"
	if before := slices.DeleteFunc(lines("tag", "--merged", "HEAD", "--sort=-version:refname"), noVersion); len(before) > 0 {
		last := semver.MustParse(before[0])
		base, since = last.IncPatch().String()+"-dev", before[0]+"..HEAD"
		if last.Prerelease() != "" {
			base = last.String() + ".dev"
		}
	}
	c.version = fmt.Sprintf("%s.%s.g%s", base, strings.Join(lines("rev-list", "--count", since), ""), c.revision[:7])
	if len(c.changed) > 0 {
		c.version += ".dirty"
	}
	return c, failed
}

// refusals are the reasons why this commit cannot be released, each with a remedy.
// The notes are what the changelog says about it.
func (c commit) refusals(root, asked string) (notes string, all []error, err error) {
	section := "Unreleased"
	switch {
	case asked != "" && (len(c.tags) == 0 || asked != c.tags[0]):
		all = append(all, fmt.Errorf("TAG=%s is not the highest version at commit %s, whose tags of versions are %q: check out the commit of the tag", asked, c.revision[:12], c.tags))
	case len(c.tags) == 0:
		all = append(all, fmt.Errorf("commit %s has no tag like v0.1.0 or v0.2.0-rc.1: `git tag -a v0.1.0 -m v0.1.0` gives it one", c.revision[:12]))
	}
	if len(c.changed) > 0 {
		all = append(all, fmt.Errorf("%d files are not as commit %s has them, such as %q: commit them and tag that, or `git stash -u`", len(c.changed), c.revision[:12], c.changed[0]))
	}
	if len(c.tags) > 0 && len(c.changed) == 0 {
		section = c.version
		for _, p := range places {
			text, err := os.ReadFile(filepath.Join(root, p.path))
			if err != nil {
				return "", nil, err
			}
			if named := p.versions(string(text)); !slices.Equal(named, []string{c.version}) {
				all = append(all, fmt.Errorf("%s names the version %q, want %s: change it, commit that, and tag that commit", p.path, named, c.version))
			}
		}
	}
	changelog, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
	if err != nil {
		return "", nil, err
	}
	_, notes, found := strings.Cut("\n"+string(changelog), "\n## ["+section+"]")
	_, notes, _ = strings.Cut(notes, "\n") // the date
	notes, _, _ = strings.Cut("\n"+notes, "\n## ")
	if notes = strings.TrimSpace(notes); !found || notes == "" {
		all = append(all, fmt.Errorf("CHANGELOG.md has nothing below a heading %q: say what changed", "## ["+section+"]"))
	}
	return notes + "\n", all, nil
}
