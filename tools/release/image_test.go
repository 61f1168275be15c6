package main

import (
	"bytes"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// testImage holds the image of a release to what the manifests count on.
func testImage(t *testing.T, r repository, version string) {
	archive := r.folder + "/bin/images/" + program + ".tar"
	loaded, err := tarball.ImageFromPath(archive, nil) // as docker load takes it
	if err != nil {
		t.Fatal(err)
	}
	top, err := readImage([]byte(r.read("bin/images/"+program+".tar")), t.TempDir(), version)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for image, architecture := range map[v1.Image]string{loaded: "amd64", at(t, top, manifest.Manifests[0]): "amd64", at(t, top, manifest.Manifests[1]): "arm64"} {
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c := config.Config
		if config.Architecture != architecture || config.OS != "linux" || c.User != "65532:65532" || strings.Join(c.Entrypoint, " ") != "/"+program || !maps.Equal(c.Labels, labels(version, r.git("rev-parse", "HEAD"))) {
			t.Errorf("configuration %+v for %s", c, config.Architecture)
		}
		files, err := untarred(mutate.Extract(image))
		if err != nil || len(files) != 3 || files[0].mode != 0o755 {
			t.Errorf("%d files, %v; want the program, which everybody may run and nobody else may write, and two licences", len(files), err)
		}
	}
}

func at(t *testing.T, index v1.ImageIndex, d v1.Descriptor) v1.Image {
	t.Helper()
	image, err := index.Image(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// built is a program for an architecture, with a module that a folder replaces.
func built(t *testing.T, architecture, folder string, flags ...string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"main/go.mod":                "module example.com/main\ngo 1.26\nrequire example.com/lib v1.0.0\nreplace example.com/lib => " + folder + "\n",
		"main/main.go":               "package main\nimport _ \"example.com/lib\"\nfunc main() {}\n",
		"main/" + folder + "/go.mod": "module example.com/lib\n", "main/" + folder + "/lib.go": "package lib\nvar A = 1\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", append([]string{"build", "-trimpath", "-o", "program"}, flags...)...)
	build.Dir, build.Env = root+"/main", append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0", "GOARCH="+architecture)
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return root + "/main/program"
}

func TestWhatWouldNotStartIsRefused(t *testing.T) {
	static := built(t, "amd64", "./lib")
	dynamic, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"another architecture", "not for \"arm64\"", []string{"arm64=" + static}},
		{"an unknown architecture", "not for \"riscv64\"", []string{"riscv64=" + static}},
		{"linked dynamically", "linked dynamically", []string{runtime.GOARCH + "=" + dynamic}},
		{"too large", "want at most 100", []string{"-max", "100", "amd64=" + static}},
		{"no architecture", "no such file", []string{static}},
		{"nothing", "want -tag", nil},
	} {
		out := filepath.Join(t.TempDir(), "x.tar")
		err := packImage(append([]string{"-tag", "a:1", "-out", out}, tt.args...), io.Discard)
		if _, none := os.Stat(out); err == nil || !strings.Contains(err.Error(), tt.want) || none == nil {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestABinaryOfOtherFlagsIsFound(t *testing.T) {
	content, err := os.ReadFile(built(t, "amd64", "./lib", "-trimpath=false"))
	if err != nil {
		t.Fatal(err)
	}
	if err := (release{}).checkBinary(t.Context(), content, "amd64"); err == nil || !strings.Contains(err.Error(), "it was not built with map[-trimpath:true]") {
		t.Errorf("%v, want -trimpath to be missed", err)
	}
}

func TestReplacedModulesAreInTheBill(t *testing.T) {
	bill, err := sbom(built(t, "amd64", "./lib"), "1.2.3", time.Unix(1770091506, 0).UTC())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"specVersion": "1.6"`, `"timestamp": "2026-02-03T04:05:06Z"`, `"name": "example.com/lib"`, `"purl": "pkg:golang/example.com/main@v1.2.3#lib"`, `"purl": "pkg:golang/stdlib@1.`} {
		if !bytes.Contains(bill, []byte(want)) {
			t.Errorf("the bill of materials lacks %s:\n%s", want, bill)
		}
	}
	if _, err := sbom(built(t, "amd64", "../lib"), "1.2.3", time.Time{}); err == nil || !strings.Contains(err.Error(), "example.com/lib is replaced by the folder ../lib, which is outside") {
		t.Errorf("a module outside of the repository: %v, want it to be refused", err)
	}
}

// The two ways to an image lead to the same one, which the manifests ask for.
func TestTheDockerfileMakesTheSame(t *testing.T) {
	r := repository{t, "../.."}
	text, makefile := r.read("Dockerfile"), r.read("Makefile")
	_, last, _ := strings.Cut(text, "\nFROM scratch\n")
	for _, want := range []string{"\nUSER 65532:65532\n", "\nENTRYPOINT [\"/workload-identity-exporter\"]\n", "\nEXPOSE 10988\n", "\nCOPY LICENSE /LICENSE\nCOPY third_party/LICENSES /THIRD_PARTY_LICENSES\n"} {
		if !strings.Contains(last, want) {
			t.Errorf("the Dockerfile's last stage lacks %q", want)
		}
	}
	sent := strings.Fields(r.read(".dockerignore"))
	for _, m := range regexp.MustCompile(`(?m)^COPY ([^-].*) \S+$`).FindAllStringSubmatch(text, -1) {
		for source := range strings.FieldsSeq(m[1]) {
			if top, _, _ := strings.Cut(source, "/"); !slices.Contains(sent, "!"+top) {
				t.Errorf("the Dockerfile copies %s, which .dockerignore keeps from the engine", source)
			}
		}
	}
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(org\.opencontainers\.image\.\w+)="(.*?)"`).FindAllStringSubmatch(last, -1) {
		got[m[1]] = m[2]
	}
	if want := labels("$VERSION", "$REVISION"); !maps.Equal(got, want) {
		t.Errorf("the Dockerfile's labels are %q, want %q", got, want)
	}
	const flags = "-trimpath -buildvcs=false"
	if !strings.Contains(text, flags) || !strings.Contains(makefile, flags) {
		t.Errorf("the Dockerfile and the Makefile build with other flags than %s", flags)
	}
	for _, target := range []string{"image", "image-tar"} {
		out, err := exec.CommandContext(t.Context(), "make", "-C", "../..", "-n", target, "ENGINE=docker").CombinedOutput()
		want := regexp.MustCompile(`image: (\S+)`).FindStringSubmatch(r.read("deploy/kustomize/base/daemonset.yaml"))[1]
		if err != nil || !slices.Contains(strings.Fields(string(out)), want) {
			t.Errorf("make %s does not make %s, which the manifests ask for: %v\n%s", target, want, err, out)
		}
		if target == "image" && !strings.Contains(string(out), "--platform linux/amd64 ") {
			t.Errorf("make image builds for the machine at hand:\n%s", out)
		}
	}
}
