package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
)

const hash = "0123456789abcdef0123456789abcdef01234567"

func TestVersions(t *testing.T) {
	changed := []string{"M Makefile"}
	tests := []struct {
		name, asked string
		commit      commit
		want        string
	}{
		{"a tag", "", commit{Tags: []string{"v0.1.0"}}, "0.1.0"},
		{"a candidate", "", commit{Tags: []string{"v0.2.0-rc.1"}}, "0.2.0-rc.1"},
		{"a candidate that became the release", "", commit{Tags: []string{"v0.2.0", "v0.2.0-rc.9"}}, "0.2.0"},
		{"by number, not by letter", "", commit{Tags: []string{"v0.9.0", "v0.10.0"}}, "0.10.0"},
		{"the one that is asked for", "v0.2.0-rc.9", commit{Tags: []string{"v0.2.0", "v0.2.0-rc.9"}}, "0.2.0-rc.9"},
		{"no release yet", "", commit{Distance: 7}, "0.0.0-dev.7.g0123456"},
		{"after a release", "", commit{Last: "v0.1.9", Distance: 7}, "0.1.10-dev.7.g0123456"},
		{"after a candidate", "", commit{Last: "v0.2.0-rc.1", Distance: 7}, "0.2.0-rc.1.dev.7.g0123456"},
		{"a tag that is no version", "", commit{Tags: []string{"nightly", "0.1.0", "v1", "v1.2", "v01.2.3", "v1.2.3+4"}, Distance: 7}, "0.0.0-dev.7.g0123456"},
		{"a tag, and changes", "", commit{Tags: []string{"v0.1.0"}, Last: "v0.1.0", Changed: changed}, "0.1.1-dev.0.g0123456.dirty"},
		{"changes", "", commit{Last: "v0.1.0", Distance: 7, Changed: changed}, "0.1.1-dev.7.g0123456.dirty"},
		{"the longest that is likely", "", commit{Last: "v0.12.0-rc.10", Distance: 999, Changed: changed}, "0.12.0-rc.10.dev.999.g0123456.dirty"},
	}
	for _, tt := range tests {
		tt.commit.Hash = hash
		got := tt.commit.version(tt.commit.tag(tt.asked))
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		if v, err := semver.StrictNewVersion(got); err != nil || v.Metadata() != "" {
			t.Errorf("%s: %s is no version for a chart and an image: %v", tt.name, got, err)
		}
		if len(got) > 36 {
			t.Errorf("%s: %s has %d characters, which the label helm.sh/chart has no room for", tt.name, got, len(got))
		}
	}
}

func TestABuildOfTheDevelopmentSortsBetweenReleases(t *testing.T) {
	var all []*semver.Version
	for _, c := range []commit{
		{Distance: 7},
		{Tags: []string{"v0.1.0"}},
		{Last: "v0.1.0", Distance: 9},
		{Last: "v0.1.0", Distance: 10},
		{Tags: []string{"v0.1.1-rc.1"}},
		{Last: "v0.1.1-rc.1", Distance: 3},
		{Tags: []string{"v0.1.1-rc.2"}},
		{Tags: []string{"v0.1.1"}},
	} {
		c.Hash = hash
		all = append(all, semver.MustParse(c.version(c.tag(""))))
	}
	if !slices.IsSortedFunc(all, (*semver.Version).Compare) {
		t.Errorf("%v is not in order", all)
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, asked string
		commit      commit
		want        []string
	}{
		{"a tag", "", commit{Tags: []string{"v0.1.0"}}, nil},
		{"the tag that is asked for", "v0.1.0", commit{Tags: []string{"v0.1.0"}}, nil},
		{"no tag", "", commit{}, []string{"commit 0123456789ab has no tag: `git tag"}},
		{"tags that are no versions", "", commit{Tags: []string{"nightly", "v1.2"}}, []string{"only: nightly, v1.2; want vMAJOR.MINOR.PATCH"}},
		{"a tag of another commit", "v0.2.0", commit{Tags: []string{"v0.1.0"}}, []string{"TAG=v0.2.0 is not at commit 0123456789ab, whose tags are: v0.1.0; check out"}},
		{"a tag that is asked for and is no version", "v1", commit{Tags: []string{"v1", "v0.1.0"}}, []string{"TAG=v1 is no version: want vMAJOR.MINOR.PATCH"}},
		{"a changed file", "", commit{Tags: []string{"v0.1.0"}, Changed: []string{"M go.mod"}}, []string{"1 files are not as commit 0123456789ab has them: M go.mod; commit them"}},
		{"both", "", commit{Changed: []string{"M go.mod"}}, []string{"has no tag", "M go.mod"}},
	} {
		tt.commit.Hash = hash
		got := tt.commit.refusals(tt.asked)
		if len(got) != len(tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, got, tt.want)
			continue
		}
		for i, err := range got {
			if !strings.Contains(err.Error(), tt.want[i]) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.want[i])
			}
		}
	}
}

// repository is a real one in a folder of its own.
type repository struct {
	t      *testing.T
	folder string
}

func newRepository(t *testing.T, folder string) repository {
	t.Helper()
	for name, value := range map[string]string{
		"GIT_CONFIG_GLOBAL": os.DevNull, "GIT_CONFIG_SYSTEM": os.DevNull,
		"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_AUTHOR_DATE": "2026-02-03T04:05:06Z",
		"GIT_COMMITTER_NAME": "c", "GIT_COMMITTER_EMAIL": "c@example.com", "GIT_COMMITTER_DATE": "2026-02-03T04:05:06Z",
	} {
		t.Setenv(name, value)
	}
	r := repository{t, folder}
	r.git("init", "-q", "-b", "main")
	return r
}

func (r repository) git(args ...string) string {
	r.t.Helper()
	out, err := exec.CommandContext(r.t.Context(), "git", append([]string{"-C", r.folder}, args...)...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r repository) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.folder, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r repository) commit(message string) {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", message)
}

func TestTheVersionComesFromGit(t *testing.T) {
	r := newRepository(t, t.TempDir())
	if _, err := read(t.Context(), r.folder); err == nil || !strings.Contains(err.Error(), "git rev-parse") {
		t.Errorf("without a commit: %v, want what git says", err)
	}
	want := func(version string, refused int) {
		t.Helper()
		c, err := read(t.Context(), r.folder)
		if err != nil {
			t.Fatal(err)
		}
		if head := r.git("rev-parse", "HEAD"); c.Hash != head || c.Time != 1770091506 {
			t.Errorf("the commit %s of %d, want %s of 2026-02-03T04:05:06Z", c.Hash, c.Time, head)
		}
		version = strings.ReplaceAll(version, "HASH", "g"+c.Hash[:7])
		if got := c.version(c.tag("")); got != version {
			t.Errorf("version %s, want %s", got, version)
		}
		if got := c.refusals(""); len(got) != refused {
			t.Errorf("version %s: refused for %v, want %d reasons", version, got, refused)
		}
	}
	r.write(".gitignore", "/dist/\n")
	r.commit("one")
	want("0.0.0-dev.1.HASH", 1)
	r.commit("two")
	r.git("tag", "nightly")
	want("0.0.0-dev.2.HASH", 1)
	r.git("tag", "-a", "v0.1.0-rc.1", "-m", "candidate")
	want("0.1.0-rc.1", 0)
	r.git("tag", "v0.1.0") // without an annotation
	want("0.1.0", 0)

	if err := os.Mkdir(filepath.Join(r.folder, "dist"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.write("dist/file", "ignored")
	want("0.1.0", 0)
	r.write("new.go", "package new")
	want("0.1.1-dev.0.HASH.dirty", 1)
	r.commit("three")
	want("0.1.1-dev.1.HASH", 1)
	r.write("new.go", "package old")
	want("0.1.1-dev.1.HASH.dirty", 2)
	r.commit("four")

	// A release of another branch does not count, and a candidate before the last
	// release does not either.
	r.git("checkout", "-q", "-b", "other", "v0.1.0")
	r.commit("five")
	r.git("tag", "v9.0.0")
	r.git("checkout", "-q", "main")
	want("0.1.1-dev.2.HASH", 1)

	// What CI often has: one commit, and no tags.
	clone := t.TempDir()
	r.git("clone", "-q", "--depth=1", "--no-tags", "file://"+r.folder, clone)
	r.folder = clone
	want("0.0.0-dev.1.HASH", 1)
}

func TestTheVersionIsInOnePieceWithTheFiles(t *testing.T) {
	version := chartVersion(t)
	if all, err := outdated("../..", version); err != nil || len(all) > 0 {
		t.Errorf("%v, %v; want all files to name the version %s of the chart", all, err, version)
	}
	all, err := outdated("../..", "7.7.7")
	if err != nil || len(all) != len(places) {
		t.Fatalf("%v, %v; want a reason for each of %d files", all, err, len(places))
	}
	for i, p := range places {
		if got := all[i].Error(); !strings.Contains(got, p.path+" names the version "+version+", want 7.7.7: change it") {
			t.Errorf("%s: %s", p.path, got)
		}
	}
}

func TestEveryVersionInAFileIsSeen(t *testing.T) {
	for i, tt := range []struct{ text, want string }{
		{"version: 1.0.0\nappVersion: 2.0.0\nkubeVersion: 3.0.0\n", "1.0.0, 2.0.0"},
		{"image: workload-identity-exporter:1.0.0\nimage: workload-identity-exporter:2.0.0\n", "1.0.0, 2.0.0"},
		{"`workload-identity-exporter:1.0.0`, docker://REGISTRY/workload-identity-exporter:1.0.0.\n?ref=v2.0.0-rc.1\nnewTag: 3.0.0", "1.0.0, 2.0.0-rc.1, 3.0.0"},
	} {
		if got := list(places[i].versions(tt.text)); got != tt.want {
			t.Errorf("%s: %s, want %s", places[i].path, got, tt.want)
		}
		if got := list(places[i].versions("nothing")); got != "none" {
			t.Errorf("%s: %s, want none", places[i].path, got)
		}
	}
}
