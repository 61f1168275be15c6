package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
)

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

func (r repository) read(name string) string {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.folder, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
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
	if _, err := read(t.Context(), r.folder); err == nil || !strings.Contains(err.Error(), "git log") {
		t.Errorf("without a commit: %v, want what git says", err)
	}
	last := semver.MustParse("0.0.0-0")
	want := func(version string) {
		t.Helper()
		c, err := read(t.Context(), r.folder)
		if err != nil {
			t.Fatal(err)
		}
		if head := r.git("rev-parse", "HEAD"); c.revision != head || c.when.Unix() != 1770091506 {
			t.Errorf("the commit %s of %s, want %s of 2026-02-03T04:05:06Z", c.revision, c.when, head)
		}
		if version = strings.ReplaceAll(version, "HASH", "g"+c.revision[:7]); c.version != version {
			t.Errorf("version %s, want %s", c.version, version)
		}
		v, err := semver.StrictNewVersion(c.version)
		if err != nil || !strings.Contains(version, ".dirty") && !v.GreaterThan(last) {
			t.Errorf("%s, %v; want a semantic version that is later than %s", c.version, err, last)
		}
		last = v
	}
	r.write(".gitignore", "/ignored\n")
	r.commit("one")
	want("0.0.0-dev.1.HASH")
	r.commit("two")
	for _, tag := range []string{"nightly", "0.1.0", "v1", "v1.2", "v1.2.3+4"} {
		r.git("tag", tag)
	}
	want("0.0.0-dev.2.HASH")
	r.git("tag", "-a", "v0.1.0-rc.9", "-m", "candidate")
	want("0.1.0-rc.9")
	r.commit("three")
	want("0.1.0-rc.9.dev.1.HASH")
	r.git("tag", "v0.1.0-rc.10")
	want("0.1.0-rc.10")
	r.git("tag", "v0.1.0") // without an annotation
	want("0.1.0")
	r.write("ignored", "")
	if c, err := read(t.Context(), r.folder); err != nil || c.version != "0.1.0" {
		t.Errorf("%s, %v; want 0.1.0 with a file that git ignores", c.version, err)
	}
	r.write("new.go", "package new")
	want("0.1.1-dev.0.HASH.dirty")
	r.commit("four")
	want("0.1.1-dev.1.HASH")
	r.write("new.go", "package old")
	want("0.1.1-dev.1.HASH.dirty")

	// A release of another branch does not count.
	r.commit("five")
	r.git("checkout", "-q", "-b", "other", "v0.1.0")
	r.commit("six")
	r.git("tag", "v9.0.0")
	r.git("checkout", "-q", "main")
	want("0.1.1-dev.2.HASH")
}

// What may be the longest has to fit the label helm.sh/chart, with the chart's name.
func TestALongVersionFitsTheLabel(t *testing.T) {
	if version := "0.12.0-rc.10.dev.999.g0123456.dirty"; len(program+"-"+version) > 63 {
		t.Errorf("%s-%s has more than 63 characters", program, version)
	}
}
