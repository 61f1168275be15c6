package main

import (
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// checkImage fails if an OCI archive does not hold, under the tag of the version, an
// image for each architecture with nothing but the given binary in it, or if one has
// more bytes than most.
func checkImage(archive, version string, binaries map[string]binary, most int64) error {
	folder, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // it is temporary
	if err := unfold(archive, folder); err != nil {
		return err
	}
	top, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return err
	}
	manifest, err := top.IndexManifest()
	if err != nil {
		return err
	}
	const tag = "org.opencontainers.image.ref.name"
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations[tag] != version {
		return fmt.Errorf("its index is %+v, want one entry with the tag %s", manifest.Manifests, version)
	}
	all, err := top.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		return err
	}
	if manifest, err = all.IndexManifest(); err != nil {
		return err
	}
	if len(manifest.Manifests) != len(binaries) {
		return fmt.Errorf("it has %d images, want %d", len(manifest.Manifests), len(binaries))
	}
	for _, m := range manifest.Manifests {
		if m.Platform == nil || m.Platform.OS != "linux" {
			return fmt.Errorf("it has an image for %v, want linux", m.Platform)
		}
		b, ok := binaries[m.Platform.Architecture]
		if !ok {
			return fmt.Errorf("it has an image for %s, twice or unasked", m.Platform)
		}
		one, err := all.Image(m.Digest)
		if err == nil {
			err = holds(one, b, most)
		}
		if err != nil {
			return fmt.Errorf("its image for %s: %w", m.Platform, err)
		}
	}
	return nil
}

// holds fails if the image is not the binary alone, in at most so many bytes.
func holds(image v1.Image, b binary, most int64) error {
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	if label := config.Config.Labels["org.opencontainers.image.version"]; label != b.version {
		return fmt.Errorf("its label says the version is %q, want %s", label, b.version)
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	var found []entry
	var size int64
	for _, l := range layers {
		content, err := l.Uncompressed()
		if err != nil {
			return err
		}
		entries, err := untar(content)
		if err != nil {
			return err
		}
		for _, e := range entries {
			size += int64(len(e.content))
		}
		found = append(found, entries...)
	}
	if size > most {
		return fmt.Errorf("%d bytes, want at most %d", size, most)
	}
	if len(found) != 1 || found[0].name != program || digest(found[0].content) != digest(b.content) {
		return fmt.Errorf("it has %d files, want one: the program %s of the binary's archive", len(found), program)
	}
	return nil
}

// unfold writes the files of a tar archive into a folder.
func unfold(archive, folder string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	entries, err := untar(f)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !filepath.IsLocal(e.name) {
			return fmt.Errorf("%s would be outside of the folder", e.name)
		}
		path := filepath.Join(folder, e.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, e.content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
