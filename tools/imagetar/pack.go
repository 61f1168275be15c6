package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is one for one architecture.
type image struct {
	v1.Image
	platform     v1.Platform
	size, packed int64 // of its files, in bytes
}

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// pack returns an image that holds the binary alone, in its root folder.
func pack(binary, architecture, user string, labels map[string]string) (image, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return image{}, err
	}
	if err := checkStatic(content, architecture); err != nil {
		return image{}, err
	}
	path := "/" + filepath.Base(binary)
	files, err := layer(path[1:], content)
	if err != nil {
		return image{}, err
	}
	packed, err := files.Size()
	if err != nil {
		return image{}, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	i, err := mutate.AppendLayers(base, files)
	if err != nil {
		return image{}, err
	}
	config, err := i.ConfigFile()
	if err != nil {
		return image{}, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	config.Config = v1.Config{User: user, Entrypoint: []string{path}, ExposedPorts: map[string]struct{}{"10988/tcp": {}}, Labels: labels}
	i, err = mutate.ConfigFile(i, config)
	return image{Image: i, platform: v1.Platform{OS: "linux", Architecture: architecture}, size: int64(len(content)), packed: packed}, err
}

// checkStatic fails for what would not start in an image without libraries.
func checkStatic(content []byte, architecture string) error {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return err
	}
	if want, ok := machines[architecture]; !ok || f.Machine != want {
		return fmt.Errorf("it is for %s, not for %s", f.Machine, architecture)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is linked dynamically, and the image has no libraries")
		}
	}
	return nil
}

// layer holds one program, which root owns and everybody may run.
func layer(name string, content []byte) (v1.Layer, error) {
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}
