// Command imagetar packs one static binary into a container image, without a
// container engine: an archive as `docker save` writes it, which containerd,
// docker, podman and kind load.
//
// The same binary gives the same archive, byte for byte: there is no time in it.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "imagetar:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("imagetar [flags] BINARY", flag.ContinueOnError)
	tag := flags.String("tag", "", "`NAME:TAG` of the image")
	out := flags.String("out", "", "the archive's `FILE`")
	user := flags.String("user", "65532:65532", "`UID:GID` of the process")
	architecture := flags.String("arch", "amd64", "what the binary was built for, as GOARCH")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || *tag == "" || *out == "" {
		return errors.New("want -tag NAME:TAG -out FILE BINARY")
	}
	reference, err := name.NewTag(*tag)
	if err != nil {
		return fmt.Errorf("-tag: %w", err)
	}
	image, err := pack(flags.Arg(0), *user, *architecture)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o750); err != nil {
		return err
	}
	return tarball.WriteToFile(*out, reference, image)
}

// pack returns an image that holds the binary alone, in its root folder.
func pack(binary, user, architecture string) (v1.Image, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	path := "/" + filepath.Base(binary)
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Name: path[1:], Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", architecture
	file.Config = v1.Config{User: user, Entrypoint: []string{path}}
	return mutate.ConfigFile(image, file)
}
