package main

import (
	"archive/tar"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// archive writes the images to a tar file in the layout of OCI (image-spec,
// "image-layout"). For `docker load` and `podman load` it also has the file
// manifest.json of `docker save`, which knows one architecture: the first.
func archive(out string, tag name.Tag, images []image) error {
	folder, err := os.MkdirTemp("", "imagetar")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // it is temporary
	files, err := layout.Write(folder, empty.Index)
	if err != nil {
		return err
	}
	// The first is the specification's, the second is where containerd looks for a
	// whole name: it gives a name without a registry the default one, as this library
	// does, but for the host's first label.
	named := layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tag.TagStr(),
		"io.containerd.image.name":          strings.TrimPrefix(tag.Name(), "index."),
	})
	if len(images) == 1 {
		err = files.AppendImage(images[0], named)
	} else {
		index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
		for _, i := range images {
			add := mutate.IndexAddendum{Add: i}
			add.Platform = &i.platform
			index = mutate.AppendManifests(index, add)
		}
		err = files.AppendIndex(index, named)
	}
	if err != nil {
		return err
	}
	manifest, err := dockers(images[0], tag)
	if err != nil {
		return err
	}
	if err := files.WriteFile("manifest.json", manifest, 0o600); err != nil {
		return err
	}
	return writeTar(out, folder)
}

// dockers is the file manifest.json.
func dockers(i image, tag name.Tag) ([]byte, error) {
	manifest, err := i.Manifest()
	if err != nil {
		return nil, err
	}
	blob := func(hex string) string { return "blobs/sha256/" + hex }
	var layers []string
	for _, l := range manifest.Layers {
		layers = append(layers, blob(l.Digest.Hex))
	}
	return json.Marshal([]any{map[string]any{"Config": blob(manifest.Config.Digest.Hex), "RepoTags": []string{tag.String()}, "Layers": layers}})
}

// writeTar writes the folder's files, in the order of their names, with nothing of
// this machine: no times, owners or modes.
func writeTar(out, folder string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path) //nolint:gosec // it is our own folder
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(relative), Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}
