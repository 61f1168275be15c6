package main

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chartutil"
)

func chartVersion(t *testing.T) string {
	t.Helper()
	metadata, err := chartutil.LoadChartfile("../../deploy/chart/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return metadata.Version
}

// copied is this repository as it is now, at another place and with another history.
func copied(t *testing.T) repository {
	t.Helper()
	folder := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "git", "-C", "../..", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.Trim(string(out), "\x00"), "\x00") {
		from, to := filepath.Join("../..", name), filepath.Join(folder, name)
		info, err := os.Stat(from)
		if os.IsNotExist(err) {
			continue // it is deleted, and that is not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, content, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return newRepository(t, folder)
}

// note gives the changelog a section.
func (r repository) note(version string) {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.folder, "CHANGELOG.md"))
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := section(string(text), version); err == nil {
		return
	}
	r.write("CHANGELOG.md", strings.Replace(string(text), "## [Unreleased]\n", "## [Unreleased]\n\n## ["+version+"] - 2026-02-03\n\n- A note.\n", 1))
}

// released runs the command in the repository, and returns what it prints.
func (r repository) released(args ...string) (string, error) {
	var out bytes.Buffer
	err := run(r.t.Context(), append([]string{"-root", r.folder, "-out", filepath.Join(r.folder, "dist"), "-max", "18000000"}, args...), &out)
	return out.String(), err
}

// The whole way, twice: at another place, the same commit gives the same files.
func TestATagGivesItsFiles(t *testing.T) {
	version := chartVersion(t)
	r := copied(t)
	r.note(version)
	r.commit("release")
	r.git("tag", "-a", "v"+version, "-m", version)
	out, err := r.released()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := []string{
		"RELEASE_NOTES.md",
		"workload-identity-exporter-VERSION.tgz",
		"workload-identity-exporter_VERSION_image.tar",
		"workload-identity-exporter_VERSION_linux_amd64.cdx.json",
		"workload-identity-exporter_VERSION_linux_amd64.tar.gz",
		"workload-identity-exporter_VERSION_linux_arm64.cdx.json",
		"workload-identity-exporter_VERSION_linux_arm64.tar.gz",
		"workload-identity-exporter_VERSION_monitoring.tar.gz",
	}
	names, err := files(filepath.Join(r.folder, "dist"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/releasing.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range want {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/releasing.md does not tell of %s", name)
		}
		want[i] = strings.ReplaceAll(name, "VERSION", version)
		if !strings.Contains(out, "\n"+want[i]+" ") {
			t.Errorf("the table lacks %s:\n%s", want[i], out)
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("the files are %q, want %q", names, want)
	}
	command := exec.CommandContext(t.Context(), "sha256sum", "--strict", "-c", sumsName)
	command.Dir = filepath.Join(r.folder, "dist")
	if said, err := command.CombinedOutput(); err != nil || strings.Count(string(said), ": OK\n") != len(want) {
		t.Errorf("sha256sum -c: %v: %s", err, said)
	}
	if notes, err := os.ReadFile(filepath.Join(command.Dir, "RELEASE_NOTES.md")); err != nil || strings.Contains(string(notes), "## [") {
		t.Errorf("the notes are those of more than one version: %v\n%s", err, notes)
	}

	other := repository{t, filepath.Join(t.TempDir(), "elsewhere")}
	r.git("clone", "-q", "file://"+r.folder, other.folder)
	if out, err := other.released("-tag", "v"+version); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	one, err := os.ReadFile(filepath.Join(r.folder, "dist", sumsName))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(filepath.Join(other.folder, "dist", sumsName))
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("the same commit at another place gives\n%s(%v), and here\n%s", two, err, one)
	}

	tampered(t, release{root: r.folder, out: filepath.Join(r.folder, "dist"), version: version, revision: r.git("rev-parse", "HEAD"), when: time.Unix(1770091506, 0), most: 18000000})
}

// tampered holds the check to find what is not as it should be.
func tampered(t *testing.T, r release) {
	t.Helper()
	if err := r.check(t.Context()); err != nil {
		t.Fatalf("nothing was changed, and the check says %v", err)
	}
	path := func(name string) string { return filepath.Join(r.out, name) }
	content := func(name string) []byte {
		text, err := os.ReadFile(path(name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	save := func(name string, content []byte) {
		if err := os.WriteFile(path(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	programs := map[string][]byte{}
	for _, a := range architectures {
		entries, err := unpack(path(r.archive(a.name)))
		if err != nil || len(entries) != 2 {
			t.Fatalf("%s has %d files: %v", r.archive(a.name), len(entries), err)
		}
		programs[a.name] = entries[1].content
	}
	// put makes another program that of an architecture, with the bill that it has.
	put := func(architecture string, mode int64, program []byte) {
		name := r.folder(architecture) + "/workload-identity-exporter"
		if err := pack(path(r.archive(architecture)), r.when, []entry{{name, mode, program}}); err != nil {
			t.Fatal(err)
		}
		b, err := parse(program, r.version)
		if err != nil {
			t.Fatal(err)
		}
		bill, err := sbom(b, r.when)
		if err != nil {
			t.Fatal(err)
		}
		save(r.bill(architecture), bill)
	}
	another := bytes.Repeat([]byte("0"), 40)
	foreign := func(program []byte) []byte { return bytes.ReplaceAll(program, []byte(r.revision), another) }
	tests := []struct {
		name   string
		sums   bool // whether the checksums are written again
		change func()
		want   string
	}{
		{"a changed file", false, func() { save("RELEASE_NOTES.md", []byte("nothing")) }, "RELEASE_NOTES.md: the file was changed"},
		{"a file that is gone", false, func() { _ = os.Remove(path(r.image())) }, r.image() + ": the file was changed or is gone"},
		{"another file", false, func() { save("virus.sh", []byte("#!")) }, "virus.sh is not in SHA256SUMS"},
		{"a bill of another binary", true, func() { save(r.bill("arm64"), content(r.bill("amd64"))) }, "linux_arm64.cdx.json is of another binary"},
		{"a program that nobody may run", true, func() { put("arm64", 0o644, programs["arm64"]) }, "no program"},
		{"another architecture", true, func() { put("arm64", 0o755, programs["amd64"]) }, "it is for EM_X86_64, want EM_AARCH64"},
		{"another commit, which cannot run here or can", true, func() { put("arm64", 0o755, foreign(programs["arm64"])) }, r.revision},
		{"another commit, which can run here or cannot", true, func() { put("amd64", 0o755, foreign(programs["amd64"])) }, r.revision},
		{"an image of an earlier build", true, func() {
			images := bytes.ReplaceAll(content(r.image()), []byte("org.opencontainers.image.ref.name\": \""+r.version), []byte("org.opencontainers.image.ref.name\": \""+strings.Repeat("9", len(r.version))))
			save(r.image(), images)
		}, "want one entry with the tag " + r.version},
		{"a chart of another version", true, func() {
			if err := os.Remove(path(r.chart())); err != nil {
				t.Fatal(err)
			}
			name, err := packChart(filepath.Join(r.root, "deploy/chart"), r.out, "9.9.9", r.when)
			if err == nil {
				err = os.Rename(path(name), path(r.chart()))
			}
			if err != nil {
				t.Fatal(err)
			}
		}, "its version is 9.9.9"},
	}
	before := map[string][]byte{}
	names, err := files(r.out)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, sumsName) {
		before[name] = content(name)
	}
	for _, tt := range tests {
		tt.change()
		if tt.sums {
			text, err := sums(r.out)
			if err != nil {
				t.Fatal(err)
			}
			save(sumsName, []byte(text))
		}
		if err := r.check(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		_ = os.Remove(path("virus.sh"))
		for name, content := range before {
			save(name, content)
		}
	}
	if err := r.check(t.Context()); err != nil {
		t.Errorf("all is as it was, and the check says %v", err)
	}
	r.most = 1000000
	if err := r.check(t.Context()); err == nil || !strings.Contains(err.Error(), "bytes, want at most 1000000") {
		t.Errorf("an image that is too large: %v", err)
	}
	// The binary must be that of the archive, not just any of the version.
	one, err := parse(programs["amd64"], r.version)
	if err != nil {
		t.Fatal(err)
	}
	two, err := parse(foreign(programs["arm64"]), r.version)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkImage(path(r.image()), r.version, map[string]binary{"amd64": one, "arm64": two}, 18000000); err == nil || !strings.Contains(err.Error(), "linux/arm64: it has 1 files, want one: the program") {
		t.Errorf("an image with another binary: %v", err)
	}
	for _, a := range architectures {
		b, err := parse(programs[a.name], "1.2.3-dev.nobody")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.check(t.Context(), a.name, a.machine, r.revision); err == nil || !strings.Contains(err.Error(), "1.2.3-dev.nobody") {
			t.Errorf("a binary for %s of another version: %v", a.name, err)
		}
	}
}

func TestWhatIsNotReadyIsNotReleased(t *testing.T) {
	version := chartVersion(t)
	r := copied(t)
	r.commit("not tagged")
	refused := func(want ...string) {
		t.Helper()
		out, err := r.released()
		if err == nil {
			t.Fatalf("released, want %q:\n%s", want, out)
		}
		for _, w := range append(want, "DRY_RUN=1") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v\nwant %q", err, w)
			}
		}
		if _, err := os.Stat(filepath.Join(r.folder, "dist")); !os.IsNotExist(err) {
			t.Errorf("there are files: %v", err)
		}
	}
	refused("has no tag: `git tag")
	r.git("tag", "v77.0.0")
	refused(`CHANGELOG.md has no heading "## [77.0.0] - YYYY-MM-DD"`, "deploy/chart/Chart.yaml names the version "+version+", want 77.0.0")
	r.git("tag", "-d", "v77.0.0")
	r.note(version)
	r.commit("noted")
	r.git("tag", "v"+version)
	r.write("cmd/workload-identity-exporter/new.go", "package main\n")
	refused("cmd/workload-identity-exporter/new.go; commit them")
	if _, err := r.released("-tag", "v0.0.1"); err == nil || !strings.Contains(err.Error(), "TAG=v0.0.1 is not at commit") {
		t.Errorf("a tag of another commit: %v", err)
	}
	if _, err := r.released("extra"); err == nil || !strings.Contains(err.Error(), `got -max 18000000 and ["extra"]`) {
		t.Errorf("an argument: %v", err)
	}
}

// CI has a commit without a tag, and its changelog may have nothing new.
func TestADryRunMakesTheFilesOfAnyCommit(t *testing.T) {
	r := copied(t)
	r.write("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n")
	r.commit("not tagged")
	r.write("new.txt", "not committed")
	out, err := r.released("-dry-run")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"has no tag: `git tag", "new.txt; commit them", `nothing below the heading "## [Unreleased]"`} {
		if !strings.Contains(out, "a release would refuse: ") || !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	version := "0.0.0-dev.1.g" + r.git("rev-parse", "HEAD")[:7] + ".dirty"
	for _, name := range []string{"workload-identity-exporter-" + version + ".tgz", sumsName} {
		if _, err := os.Stat(filepath.Join(r.folder, "dist", name)); err != nil {
			t.Error(err)
		}
	}
}

func TestABinaryOfOtherFlagsIsFound(t *testing.T) {
	b := linked(t)
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, s := range b.info.Settings {
		if s.Key == "GOARCH" {
			if err := b.check(t.Context(), s.Value, machine[s.Value], hash); err == nil || !strings.Contains(err.Error(), "it was not built with map[") || !strings.Contains(err.Error(), "-trimpath:true") {
				t.Errorf("%v, want -trimpath to be missed", err)
			}
		}
	}
}
