// Command imagetar packs a static binary into a container image, without a
// container engine: an OCI archive, for one or more architectures, which
// containerd, docker, podman, skopeo and kind load.
//
// The same binaries give the same archive, byte for byte: there is no time in it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "imagetar:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("imagetar [flags] ARCHITECTURE=BINARY...", flag.ContinueOnError)
	tag := flags.String("tag", "", "`NAME:TAG` of the image")
	out := flags.String("out", "", "the archive's `FILE`")
	user := flags.String("user", "65532:65532", "`UID:GID` of the process")
	version := flags.String("version", "dev", "the `VERSION` in the image's labels")
	revision := flags.String("revision", "unknown", "the `COMMIT` in the image's labels")
	most := flags.Int64("max", 0, "fail if an unpacked image has more `BYTES`; 0 is no limit")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 || *tag == "" || *out == "" {
		return errors.New("want -tag NAME:TAG -out FILE and at least one ARCHITECTURE=BINARY")
	}
	reference, err := name.NewTag(*tag)
	if err != nil {
		return fmt.Errorf("-tag: %w", err)
	}
	var images []image
	for _, arg := range flags.Args() {
		architecture, binary, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q: want ARCHITECTURE=BINARY, such as amd64=bin/program", arg)
		}
		i, err := pack(binary, architecture, *user, labels(*version, *revision))
		if err != nil {
			return fmt.Errorf("%s: %w", binary, err)
		}
		if *most > 0 && i.size > *most {
			return fmt.Errorf("%s: %d bytes, want at most %d", binary, i.size, *most)
		}
		fmt.Printf("%s for %s: %.1f MB, packed %.1f MB\n", *tag, architecture, float64(i.size)/1e6, float64(i.packed)/1e6)
		images = append(images, i)
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o750); err != nil {
		return err
	}
	return archive(*out, reference, images)
}

// labels are those of the Dockerfile.
func labels(version, revision string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "workload-identity-exporter",
		"org.opencontainers.image.description": "Watches which Google identity Pods on a GKE node really get",
		"org.opencontainers.image.source":      "https://github.com/workload-identity-exporter/workload-identity-exporter",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     version,
		"org.opencontainers.image.revision":    revision,
	}
}
