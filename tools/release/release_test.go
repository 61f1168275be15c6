package main

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
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
	copying := exec.CommandContext(t.Context(), "bash", "-c", `git ls-files -z --cached --others --exclude-standard --deduplicate |
		while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done | tar -c --null -T - | tar -x -C "$0"`, folder)
	copying.Dir = "../.."
	if said, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	r := newRepository(t, folder)
	version := chartVersion(t)
	text := r.read("CHANGELOG.md")
	if !strings.Contains(text, "\n## ["+version+"]") {
		r.write("CHANGELOG.md", strings.Replace(text, "## [Unreleased]\n", "## [Unreleased]\n\n## ["+version+"] - 2026-02-03\n\n- A note.\n", 1))
	}
	r.commit("ready")
	return r
}

// released runs the command in the repository, and returns what it prints.
func (r repository) released(args ...string) (string, error) {
	var out bytes.Buffer
	err := run(r.t.Context(), append([]string{"-root", r.folder, "-out", r.folder + "/dist", "-max", "18000000", "-repository", "registry.example.com/agent"}, args...), &out)
	return out.String(), err
}

// The whole way, twice: at another place, the same commit gives the same files.
func TestATagGivesItsFiles(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	image := host + "/some-one/agent"
	version := chartVersion(t)
	r := copied(t)
	r.git("tag", "-a", "v"+version, "-m", version)
	out, err := r.released("-repository", image, "-tag", "v"+version)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sums := r.read("dist/" + sumsName)
	var names []string
	for line := range strings.Lines(sums) {
		name := strings.Fields(line)[1]
		names = append(names, name)
		if documented := "`" + strings.ReplaceAll(name, version, "VERSION") + "`"; !strings.Contains(r.read("docs/releasing.md"), documented) {
			t.Errorf("docs/releasing.md does not tell of %s", documented)
		}
	}
	if len(names) != 15 || !strings.HasSuffix(out, sums) {
		t.Errorf("the files are %q, want 15; and it prints\n%s", names, out)
	}
	if notes := r.read("dist/RELEASE_NOTES.md"); len(notes) < 5 || strings.Contains(notes, "## [") {
		t.Errorf("the notes are not those of one version:\n%s", notes)
	}

	other := repository{t, filepath.Join(t.TempDir(), "elsewhere")}
	r.git("clone", "-q", "file://"+r.folder, other.folder)
	if out, err := other.released("-repository", image); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if two := other.read("dist/" + sumsName); two != sums {
		t.Errorf("the same commit at another place gives\n%s, and here\n%s", two, sums)
	}
	t.Run("image", func(t *testing.T) { testImage(t, r, version) })
	t.Run("publish", func(t *testing.T) { testPublish(t, r, host, version) })
	t.Run("tampered", func(t *testing.T) { testTampered(t, r, image) })
}

// testTampered holds the check to find what is not as it should be.
func testTampered(t *testing.T, in repository, repositoryName string) {
	c, err := read(t.Context(), in.folder)
	if err != nil {
		t.Fatal(err)
	}
	r := release{root: in.folder, out: in.folder + "/dist", repository: repositoryName, commit: c, most: 18000000}
	files := map[string][]byte{}
	entries, err := os.ReadDir(r.out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		files[e.Name()] = []byte(in.read("dist/" + e.Name()))
	}
	binary := func(architecture string) []byte { return []byte(in.read("bin/linux-" + architecture + "/" + program)) }
	put := func(architecture string, mode int64, content []byte) {
		name := r.name("linux_" + architecture)
		packed, err := zipped(r.when, []file{{name + "/" + program, mode, content}})
		if err != nil {
			t.Fatal(err)
		}
		in.write("dist/"+name+".tar.gz", string(packed))
	}
	foreign := func(content []byte) []byte {
		return bytes.ReplaceAll(content, []byte(r.revision), bytes.Repeat([]byte("0"), 40))
	}
	image := func(version string, flags ...string) {
		args := append([]string{"-tag", repositoryName + ":" + r.version, "-version", version, "-out", r.out + "/" + r.name("image.tar")}, flags...)
		if err := packImage(args, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	amd, arm := "amd64="+in.folder+"/bin/linux-amd64/"+program, "arm64="+in.folder+"/bin/linux-arm64/"+program
	for _, tt := range []struct {
		name, want string
		change     func(*release)
	}{
		{"a changed file", "RELEASE_NOTES.md: FAILED", func(*release) { in.write("dist/RELEASE_NOTES.md", "nothing") }},
		{"a file that is gone", "image.tar: FAILED open or read", func(r *release) { _ = os.Remove(r.out + "/" + r.name("image.tar")) }},
		{"another file", "does not have all of the files", func(*release) { in.write("dist/virus.sh", "#!") }},
		{"a bill of another binary", "linux_arm64: its bill of materials is of another binary", func(r *release) {
			in.write("dist/"+r.name("linux_arm64.cdx.json"), string(files[r.name("linux_amd64.cdx.json")]))
		}},
		{"a bill without a module", "bill of materials lacks github.com/prometheus/procfs", func(r *release) {
			in.write("dist/"+r.name("linux_arm64.cdx.json"), strings.ReplaceAll(string(files[r.name("linux_arm64.cdx.json")]), `"github.com/prometheus/procfs"`, `"x"`))
		}},
		{"a program that nobody may run", "no program", func(*release) { put("arm64", 0o644, binary("arm64")) }},
		{"another architecture", "it is for EM_X86_64, not for", func(*release) { put("arm64", 0o755, binary("amd64")) }},
		{"another commit, which cannot run here or can", r.revision, func(*release) { put("arm64", 0o755, foreign(binary("arm64"))) }},
		{"another commit, which can run here or cannot", r.revision, func(*release) { put("amd64", 0o755, foreign(binary("amd64"))) }},
		{"a version that the programs do not say", `it does not have "77.7.7"`, func(r *release) {
			content, err := zipped(r.when, []file{{program + "_77.7.7_linux_amd64/" + program, 0o755, binary("amd64")}})
			if err != nil {
				t.Fatal(err)
			}
			r.version = "77.7.7"
			in.write("dist/"+r.name("linux_amd64.tar.gz"), string(content))
		}},
		{"an image under another tag", "want one entry with the tag " + r.version, func(r *release) {
			in.write("dist/"+r.name("image.tar"), strings.ReplaceAll(string(files[r.name("image.tar")]), `ref.name": "`+r.version, `ref.name": "`+strings.Repeat("9", len(r.version))))
		}},
		{"an image of another version", `its label says the version is "9.9.9"`, func(*release) { image("9.9.9", amd, arm) }},
		{"an image for one architecture", `it is for ["linux/arm64"]`, func(r *release) { image(r.version, arm) }},
		{"an image of another build", "want one: the program", func(r *release) {
			other := filepath.Join(t.TempDir(), program)
			if err := os.WriteFile(other, foreign(binary("arm64")), 0o600); err != nil {
				t.Fatal(err)
			}
			image(r.version, amd, "arm64="+other)
		}},
		{"an image without licences", "image.tar: it lacks the repository's LICENSE", func(r *release) { image(r.version, amd, arm) }},
		{"a blob that is not what its name says", "image.tar: ", func(r *release) {
			in.write("dist/"+r.name("image.tar"), strings.ReplaceAll(string(files[r.name("image.tar")]), `"architecture":"arm64"`, `"architecture":"amd64"`))
		}},
		{"a large image", "want at most 1000000", func(r *release) { r.most = 1000000 }},
		{"a plugin for another system", "it was not built with map[GOOS:windows]", func(r *release) {
			other := *r
			in.write("bin/plugin/windows_amd64/"+plugin+".exe", in.read("bin/plugin/linux_amd64/"+plugin))
			packed := map[string][]byte{}
			licenses, err := readLicenses(r.root)
			if err != nil {
				t.Fatal(err)
			}
			if err := other.plugins(packed, licenses); err != nil {
				t.Fatal(err)
			}
			for name, content := range packed {
				in.write("dist/"+name, string(content))
			}
		}},
		{"a plugin that krew would refuse", "workload-identity.yaml has ", func(*release) {
			in.write("dist/"+krew+".yaml", strings.Replace(string(files[krew+".yaml"]), "sha256: ", "sha256: 0", 1))
		}},
		{"a chart of another version", "its version is 9.9.9", func(r *release) {
			packed, err := packChart(r.root+"/deploy/chart", "9.9.9", repositoryName, "sha256:", r.when)
			if err != nil {
				t.Fatal(err)
			}
			in.write("dist/"+r.chart(), string(packed))
		}},
		{"a chart of another image", `no object of it has "image: other.example.com/agent:` + r.version + "@sha256:", func(r *release) { r.repository = "other.example.com/agent" }},
	} {
		changed := r
		tt.change(&changed)
		if !slices.Contains([]string{"a changed file", "a file that is gone", "another file"}, tt.name) {
			sum := exec.CommandContext(t.Context(), "bash", "-c", "rm SHA256SUMS; export LC_ALL=C; s=$(sha256sum *); echo \"$s\" >SHA256SUMS")
			sum.Dir = r.out
			if said, err := sum.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
		}
		if err := changed.check(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if err := os.RemoveAll(r.out); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(r.out, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, content := range files {
			in.write("dist/"+name, string(content))
		}
	}
	if err := r.check(t.Context(), io.Discard); err != nil {
		t.Errorf("all is as it was, and the check says %v", err)
	}
}

func TestWhatIsNotReadyIsNotReleased(t *testing.T) {
	version := chartVersion(t)
	r := copied(t)
	refused := func(args []string, want ...string) {
		t.Helper()
		out, err := r.released(args...)
		if err == nil {
			t.Fatalf("released, want %q:\n%s", want, out)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v\nwant %q", err, w)
			}
		}
		if _, err := os.Stat(r.folder + "/dist"); !os.IsNotExist(err) {
			t.Errorf("there are files: %v", err)
		}
	}
	refused(nil, "DRY_RUN=1", "has no tag like v0.1.0")
	for _, tag := range []string{"nightly", "v1", "v1.2", "v1.2.3+4"} {
		r.git("tag", tag)
	}
	refused([]string{"-tag", "v1"}, "TAG=v1 is not the highest version")
	r.git("tag", "v77.0.0")
	refused(nil, `CHANGELOG.md has nothing below a heading "## [77.0.0]"`)
	for _, p := range places {
		refused(nil, p.path+` names the version ["`+version+`"], want 77.0.0: change it`)
	}
	r.git("tag", "-d", "v77.0.0")
	r.git("tag", "v"+version)
	refused([]string{"-tag", "v0.0.1"}, "TAG=v0.0.1 is not the highest version at commit")
	r.write("cmd/workload-identity-exporter/new.go", "package main\n")
	refused(nil, `cmd/workload-identity-exporter/new.go": commit them`)
	refused([]string{"extra"}, "no arguments")
}

func TestEveryVersionInAFileIsSeen(t *testing.T) {
	for i, tt := range []struct{ text, want string }{
		{"version: 1.0.0\nappVersion: 2.0.0\nkubeVersion: 3.0.0\n", "1.0.0 2.0.0"},
		{"image: a.io/b/workload-identity-exporter:1.0.0\nimage: a.io/workload-identity-exporter:2.0.0\n", "1.0.0 2.0.0"},
		{"image: a.io/workload-identity-exporter:1.0.0\n", "1.0.0"},
		{"`workload-identity-exporter:1.0.0`, docker://REGISTRY/workload-identity-exporter:1.0.0.\n?ref=v2.0.0-rc.1\nnewTag: 3.0.0 --version 4.0.0 ", "1.0.0 2.0.0-rc.1 3.0.0 4.0.0"},
	} {
		if got := strings.Join(places[i].versions(tt.text), " "); got != tt.want {
			t.Errorf("%s: %s, want %s", places[i].path, got, tt.want)
		}
	}
}
