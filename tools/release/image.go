package main

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// packImage packs a static binary into an image for each architecture, and these into
// an OCI archive, without a container engine. The same binaries give the same archive.
func packImage(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("release image [flags] ARCHITECTURE=BINARY...", flag.ContinueOnError)
	tag := flags.String("tag", "", "`NAME:TAG` of the image")
	out := flags.String("out", "", "the archive's `FILE`")
	user := flags.String("user", "65532:65532", "`UID:GID` of the process")
	version := flags.String("version", "dev", "the `VERSION` in the image's labels")
	revision := flags.String("revision", "unknown", "the `COMMIT` in the image's labels")
	var with []file
	flags.Func("with", "`NAME=FILE` that goes along, for everybody to read", func(s string) error {
		name, path, _ := strings.Cut(s, "=")
		content, err := os.ReadFile(path)
		with = append(with, file{name, 0o644, content})
		return err
	})
	most := flags.Int64("max", 0, "fail if an unpacked image has more `BYTES`; 0 is no limit")
	if err := flags.Parse(args); err != nil {
		return err
	}
	reference, err := name.NewTag(*tag)
	if err != nil || flags.NArg() == 0 || *out == "" {
		return fmt.Errorf("want -tag NAME:TAG -out FILE and at least one ARCHITECTURE=BINARY: %w", err)
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var first v1.Image
	for _, arg := range flags.Args() {
		architecture, binary, _ := strings.Cut(arg, "=")
		content, err := os.ReadFile(binary)
		if err == nil {
			err = checkStatic(content, architecture)
		}
		if size := int64(len(content)); err == nil && *most > 0 && size > *most {
			err = fmt.Errorf("%d bytes, want at most %d", size, *most)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		path := "/" + filepath.Base(binary)
		image, err := single(append([]file{{path[1:], 0o755, content}}, with...), architecture,
			v1.Config{User: *user, Entrypoint: []string{path}, ExposedPorts: map[string]struct{}{"10988/tcp": {}}, Labels: labels(*version, *revision)})
		if err != nil {
			return err
		}
		if first == nil {
			first = image
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}}})
		fmt.Fprintf(stdout, "%s for %s: %.1f MB\n", *tag, architecture, float64(len(content))/1e6)
	}
	archive, err := archived(reference, index, first)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(*out), 0o750), os.WriteFile(*out, archive, 0o600))
}

// labels are those of the Dockerfile.
func labels(version, revision string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       program,
		"org.opencontainers.image.description": "Watches which Google identity Pods on a GKE node really get",
		"org.opencontainers.image.source":      "https://github.com/workload-identity-exporter/workload-identity-exporter",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     version,
		"org.opencontainers.image.revision":    revision,
	}
}

// checkStatic fails for what would not start in an image without libraries.
func checkStatic(content []byte, architecture string) error {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return err
	}
	if want, ok := machines[architecture]; !ok || f.Machine != want {
		return fmt.Errorf("it is for %s, not for %q", f.Machine, architecture)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is linked dynamically, and the image has no libraries")
		}
	}
	return nil
}

// single is an image for one architecture that has nothing but the files, which root owns.
func single(content []file, architecture string, config v1.Config) (v1.Image, error) {
	files, err := tarred(time.Time{}, content)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		return nil, err
	}
	all, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	all = all.DeepCopy()
	all.OS, all.Architecture, all.Config = "linux", architecture, config
	return mutate.ConfigFile(image, all)
}

// archived is a tar file in the layout of OCI. For `docker load` it also has the file
// manifest.json of `docker save`, which knows one architecture: the first.
func archived(tag name.Tag, index v1.ImageIndex, first v1.Image) ([]byte, error) {
	folder, err := os.MkdirTemp("", "release")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // it is temporary
	written, err := layout.Write(folder, empty.Index)
	if err != nil {
		return nil, err
	}
	// The first is the specification's, the second is where containerd looks for a
	// whole name: it gives a name without a registry the default one, as this library
	// does, but for the host's first label.
	err = written.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tag.TagStr(),
		"io.containerd.image.name":          strings.TrimPrefix(tag.Name(), "index."),
	}))
	if err != nil {
		return nil, err
	}
	manifest, err := first.Manifest()
	if err != nil {
		return nil, err
	}
	blob := func(d v1.Descriptor) string { return "blobs/sha256/" + d.Digest.Hex }
	docker, err := json.Marshal([]any{map[string]any{"Config": blob(manifest.Config), "RepoTags": []string{tag.String()}, "Layers": []string{blob(manifest.Layers[0])}}})
	if err != nil {
		return nil, err
	}
	files := []file{{"manifest.json", 0o644, docker}}
	err = fs.WalkDir(os.DirFS(folder), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(folder, path)) //nolint:gosec // it is our own folder
		files = append(files, file{path, 0o644, content})
		return err
	})
	if err != nil {
		return nil, err
	}
	return tarred(time.Time{}, files)
}
