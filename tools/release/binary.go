package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// program is the name of what is released.
const program = "workload-identity-exporter"

// architectures are those that binaries and images are for, by the names of Go, with
// those of the ELF format.
var architectures = []struct {
	name    string
	machine elf.Machine
}{
	{"amd64", elf.EM_X86_64},
	{"arm64", elf.EM_AARCH64},
}

// parse reads what Go wrote into a binary.
func parse(content []byte, version string) (binary, error) {
	info, err := buildinfo.Read(bytes.NewReader(content))
	return binary{version: version, content: content, info: info}, err
}

// check fails if the binary is for another architecture, is not the one that the
// Makefile's flags give, or was not told its version and revision. Where it can run
// here, it is asked for them. Otherwise they must be among its constants.
func (b binary) check(ctx context.Context, architecture string, machine elf.Machine, revision string) error {
	file, err := elf.NewFile(bytes.NewReader(b.content))
	if err != nil {
		return err
	}
	if file.Machine != machine {
		return fmt.Errorf("it is for %s, want %s", file.Machine, machine)
	}
	want := map[string]string{"GOOS": "linux", "GOARCH": architecture, "CGO_ENABLED": "0", "-trimpath": "true"}
	for _, s := range b.info.Settings {
		if want[s.Key] == s.Value {
			delete(want, s.Key)
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("it was not built with %v", want)
	}
	if runtime.GOOS == "linux" && runtime.GOARCH == architecture {
		return b.ask(ctx, revision)
	}
	constants := file.Section(".rodata")
	if constants == nil {
		return fmt.Errorf("it has no section .rodata, which should hold its version %s", b.version)
	}
	data, err := constants.Data()
	if err != nil {
		return err
	}
	for _, text := range []string{b.version, revision} {
		if !bytes.Contains(data, []byte(text)) {
			return fmt.Errorf("its constants do not have %q, which it should say of itself", text)
		}
	}
	return nil
}

// ask runs the binary with -version.
func (b binary) ask(ctx context.Context, revision string) error {
	folder, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // it is temporary
	path := filepath.Join(folder, program)
	if err := os.WriteFile(path, b.content, 0o700); err != nil { //nolint:gosec // it is run
		return err
	}
	out, err := exec.CommandContext(ctx, path, "-version").CombinedOutput() //nolint:gosec // it was just built
	if err != nil {
		return fmt.Errorf("%s -version: %w: %s", program, err, out)
	}
	if want := program + " " + b.version + " (revision " + revision + ", "; !strings.HasPrefix(string(out), want) {
		return fmt.Errorf("-version prints %q, want %q", strings.TrimSpace(string(out)), want)
	}
	return nil
}
