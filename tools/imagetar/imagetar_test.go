package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// program writes the least that is an ELF file, with a program header of the type.
func program(t *testing.T, machine elf.Machine, header elf.ProgType) string {
	t.Helper()
	var b bytes.Buffer
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	for _, part := range []any{
		elf.Header64{Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1},
		elf.Prog64{Type: uint32(header)},
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "workload-identity-exporter")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func packed(t *testing.T, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	if err := run(append([]string{"-tag", "registry.example.com/agent:1", "-version", "1", "-revision", "abc", "-out", out}, args...)); err != nil {
		t.Fatal(err)
	}
	return out
}

// unpack returns the folder with the files of an archive.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	folder := t.TempDir()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return folder
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() > 0 || h.Uid != 0 || h.Uname != "" {
			t.Errorf("%s tells of the machine that packed it: %+v", h.Name, h)
		}
		path := filepath.Join(folder, h.Name)
		content, err := io.ReadAll(r)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o750)
		}
		if err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheArchiveHasAnImageForEachArchitecture(t *testing.T) {
	amd, arm := program(t, elf.EM_X86_64, elf.PT_LOAD), program(t, elf.EM_AARCH64, elf.PT_LOAD)
	index, err := layout.ImageIndexFromPath(unpack(t, packed(t, "amd64="+amd, "arm64="+arm)))
	if err != nil {
		t.Fatal(err)
	}
	top, err := index.IndexManifest()
	if err != nil || len(top.Manifests) != 1 || top.Manifests[0].Annotations["io.containerd.image.name"] != "registry.example.com/agent:1" {
		t.Fatalf("%+v, %v; want one entry with its name", top, err)
	}
	both, err := index.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := both.IndexManifest()
	if err != nil || len(manifests.Manifests) != 2 {
		t.Fatalf("%+v, %v; want two images", manifests, err)
	}
	for i, architecture := range []string{"amd64", "arm64"} {
		m := manifests.Manifests[i]
		if m.Platform == nil || m.Platform.String() != "linux/"+architecture {
			t.Errorf("image %d is for %v, want linux/%s", i, m.Platform, architecture)
		}
		image, err := both.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		check(t, image, architecture)
	}
}

// check holds an image to what the manifests count on.
func check(t *testing.T, image v1.Image, architecture string) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if config.Architecture != architecture || config.OS != "linux" || c.User != "65532:65532" || strings.Join(c.Entrypoint, " ") != "/workload-identity-exporter" {
		t.Errorf("configuration %+v for %s", c, config.Architecture)
	}
	if !config.Created.IsZero() {
		t.Errorf("it was created at %s: the same source would give another image tomorrow", config.Created)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v; want one", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	files := tar.NewReader(content)
	h, err := files.Next()
	if err != nil || h.Name != "workload-identity-exporter" || h.Mode != 0o755 || h.Uid != 0 {
		t.Errorf("%+v, %v; want the program, which everybody may run and nobody else may write", h, err)
	}
	if h.ModTime.Unix() > 0 {
		t.Errorf("the program is of %s: the same source would give another image tomorrow", h.ModTime)
	}
	if _, err := files.Next(); !errors.Is(err, io.EOF) {
		t.Error("there is another file than the program")
	}
}

func TestDockerLoadsIt(t *testing.T) {
	image, err := tarball.ImageFromPath(packed(t, "amd64="+program(t, elf.EM_X86_64, elf.PT_LOAD)), nil)
	if err != nil {
		t.Fatal(err)
	}
	check(t, image, "amd64")
}

func TestTheSameBinaryGivesTheSameArchive(t *testing.T) {
	binary := "amd64=" + program(t, elf.EM_X86_64, elf.PT_LOAD)
	one, err := os.ReadFile(packed(t, binary))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(packed(t, binary))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("two archives of the same binary differ")
	}
}

func TestWhatWouldNotStartIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"another architecture", "not for arm64", []string{"arm64=" + program(t, elf.EM_X86_64, elf.PT_LOAD)}},
		{"an unknown architecture", "not for riscv64", []string{"riscv64=" + program(t, elf.EM_RISCV, elf.PT_LOAD)}},
		{"linked dynamically", "linked dynamically", []string{"amd64=" + program(t, elf.EM_X86_64, elf.PT_INTERP)}},
		{"too large", "want at most 100", []string{"-max", "100", "amd64=" + program(t, elf.EM_X86_64, elf.PT_LOAD)}},
		{"no architecture", "want ARCHITECTURE=BINARY", []string{program(t, elf.EM_X86_64, elf.PT_LOAD)}},
		{"nothing", "want -tag", nil},
	} {
		err := run(append([]string{"-tag", "a:1", "-out", filepath.Join(t.TempDir(), "x.tar")}, tt.args...))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// The two ways to an image lead to the same one.
func TestTheDockerfileMakesTheSame(t *testing.T) {
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, last, _ := strings.Cut(string(text), "\nFROM scratch\n")
	for _, want := range []string{"\nUSER 65532:65532\n", "\nENTRYPOINT [\"/workload-identity-exporter\"]\n", "\nEXPOSE 10988\n"} {
		if !strings.Contains(last, want) {
			t.Errorf("the Dockerfile's last stage lacks %q", want)
		}
	}
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(org\.opencontainers\.image\.\w+)="(.*?)"`).FindAllStringSubmatch(last, -1) {
		got[m[1]] = m[2]
	}
	for name, want := range labels("$VERSION", "$REVISION") {
		if got[name] != want {
			t.Errorf("the Dockerfile's label %s is %q, want %q", name, got[name], want)
		}
	}
	flags := regexp.MustCompile(`-trimpath -buildvcs=false`)
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil || !flags.Match(text) || !flags.Match(makefile) {
		t.Errorf("the Dockerfile and the Makefile build with other flags: %v", err)
	}
}
