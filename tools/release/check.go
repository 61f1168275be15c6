package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// check reads the written files again, and fails if one is not what a user of the
// version may expect.
func (r release) check(ctx context.Context, stdout io.Writer) error {
	command := exec.CommandContext(ctx, "sha256sum", "--strict", "--check", "--quiet", sumsName)
	command.Dir = r.out
	if said, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	files := map[string][]byte{}
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(r.out, e.Name())); err != nil {
			return err
		}
	}
	text := files[sumsName]
	delete(files, sumsName)
	if string(text) != string(sums(files)) {
		return fmt.Errorf("%s does not have all of the files", sumsName)
	}
	binaries := map[string][]byte{}
	for _, a := range architectures {
		name := r.name("linux_" + a)
		binary, err := only(files[name+".tar.gz"], name+"/"+program)
		if err == nil {
			err = r.checkBinary(ctx, binary, a)
		}
		if err == nil {
			err = checkBill(files[name+".cdx.json"], binary)
		}
		if err == nil {
			err = r.licensed(files[name+".tar.gz"], name+"/")
		}
		binaries[a] = binary
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := r.checkPlugins(ctx, files); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // it is temporary
	index, err := readImage(files[r.name("image.tar")], folder, r.version)
	if err == nil {
		err = r.checkImage(index, binaries)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.name("image.tar"), err)
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if err := checkChart(files[r.chart()], r.version, r.repository, digest.String()); err != nil {
		return fmt.Errorf("%s: %w", r.chart(), err)
	}
	fmt.Fprintf(stdout, "%s of %s: %s:%s@%s\n%s", r.version, r.revision[:12], r.repository, r.version, digest, text)
	return nil
}

// only is the program in an archive.
func only(packed []byte, name string) ([]byte, error) {
	files, err := unzipped(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if f.name == name && f.mode == 0o755 {
			return f.content, nil
		}
	}
	return nil, fmt.Errorf("it has no program %s that can be run", name)
}

// checkBinary fails if the binary is not the one that the Makefile's flags give for
// the architecture, or was not told its version and revision. Where it can run here,
// it is asked for them. Otherwise they must be somewhere in it.
func (r release) checkBinary(ctx context.Context, content []byte, architecture string) error {
	if err := checkStatic(content, architecture); err != nil {
		return err
	}
	if err := builtFor(content, platform{"linux", architecture}); err != nil {
		return err
	}
	for _, text := range []string{r.version, r.revision} {
		if !bytes.Contains(content, []byte(text)) {
			return fmt.Errorf("it does not have %q, which it should say of itself", text)
		}
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != architecture {
		return nil
	}
	said, err := runs(ctx, content, program, "-version")
	if want := program + " " + r.version + " (revision " + r.revision + ", "; err != nil || !strings.HasPrefix(said, want) {
		return fmt.Errorf("-version prints %q, want %q: %w", said, want, err)
	}
	return nil
}

// builtFor fails if the binary is not the one that the Makefile's flags give for the
// platform.
func builtFor(content []byte, p platform) error {
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		return err
	}
	want := map[string]string{"GOOS": p.system, "GOARCH": p.architecture, "CGO_ENABLED": "0", "-trimpath": "true"}
	for _, s := range info.Settings {
		if want[s.Key] == s.Value {
			delete(want, s.Key)
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("it was not built with %v", want)
	}
	return nil
}

// runs is what the program says.
func runs(ctx context.Context, content []byte, name string, args ...string) (string, error) {
	folder, err := os.MkdirTemp("", "release")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // it is temporary
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, content, 0o700); err != nil { //nolint:gosec // it is run
		return "", err
	}
	said, err := exec.CommandContext(ctx, path, args...).CombinedOutput() //nolint:gosec // it was just built
	return string(said), err
}

// checkBill fails if a bill of materials is of another binary, or lacks a module that
// is linked.
func checkBill(text, binary []byte) error {
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return err
	}
	var bom cyclonedx.BOM
	if err := json.Unmarshal(text, &bom); err != nil {
		return err
	}
	if !bytes.Contains(text, fmt.Appendf(nil, "%x", sha256.Sum256(binary))) {
		return errors.New("its bill of materials is of another binary")
	}
	listed := map[string]bool{}
	for _, c := range *bom.Components {
		listed[c.Name] = true
	}
	for _, d := range info.Deps {
		if d.Replace != nil && !strings.HasPrefix(d.Replace.Path, ".") {
			d = d.Replace
		}
		if !listed[d.Path] {
			return fmt.Errorf("its bill of materials lacks %s", d.Path)
		}
	}
	if !listed["stdlib"] {
		return errors.New("its bill of materials lacks Go's standard library")
	}
	return nil
}

// readImage unfolds an OCI archive into a folder, and returns what its one tag stands
// for.
func readImage(archive []byte, folder, tag string) (v1.ImageIndex, error) {
	files, err := untarred(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(folder) // no name leads out of it
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // nothing is buffered
	for _, f := range files {
		if err := errors.Join(root.MkdirAll(filepath.Dir(f.name), 0o700), root.WriteFile(f.name, f.content, 0o600)); err != nil {
			return nil, err
		}
	}
	top, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return nil, err
	}
	manifest, err := top.IndexManifest()
	if err != nil {
		return nil, err
	}
	if m := manifest.Manifests; len(m) != 1 || m[0].Annotations["org.opencontainers.image.ref.name"] != tag {
		return nil, fmt.Errorf("its index is %+v, want one entry with the tag %s", m, tag)
	}
	return top.ImageIndex(manifest.Manifests[0].Digest)
}

// checkImage fails if there is not one image for each binary with that and licences in it, as
// a registry takes it, or if one has more bytes than it may.
func (r release) checkImage(index v1.ImageIndex, binaries map[string][]byte) error {
	if err := validate.Index(index); err != nil { // digests and sizes
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	var platforms []string
	var licensed error
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
		image, err := index.Image(m.Digest)
		if err != nil {
			return err
		}
		config, err := image.ConfigFile()
		if err != nil {
			return err
		}
		if label := config.Config.Labels["org.opencontainers.image.version"]; label != r.version {
			return fmt.Errorf("its label says the version is %q, want %s", label, r.version)
		}
		content := mutate.Extract(image)
		files, err := untarred(content)
		if err = errors.Join(err, content.Close()); err != nil {
			return err
		}
		if len(files) == 0 || files[0].name != program || !bytes.Equal(files[0].content, binaries[m.Platform.Architecture]) {
			return fmt.Errorf("it has %d files for %s, want one: the program %s of the binary's archive, and licences", len(files), m.Platform, program)
		}
		licensed = errors.Join(licensed, r.checkLicenses(files[1:], ""))
		if len(files) != 1+len(licenseFiles) {
			licensed = errors.Join(licensed, fmt.Errorf("it has %d files for %s, want the program and licences", len(files), m.Platform))
		}
		if size := int64(len(files[0].content)); size > r.most {
			return fmt.Errorf("it has %d bytes for %s, want at most %d", size, m.Platform, r.most)
		}
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(platforms, want) {
		return fmt.Errorf("it is for %q, want %q", platforms, want)
	}
	return licensed
}
