package program

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Build builds the exporter of the checkout at root, another module, into the folder,
// and returns its path.
func Build(root, folder string, flags ...string) (string, error) {
	exporter := filepath.Join(folder, "workload-identity-exporter")
	build := exec.Command("go", append(append([]string{"build", "-o", exporter}, flags...), "./cmd/workload-identity-exporter")...) //nolint:gosec,noctx // the suite chooses
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build the exporter: %w", err)
	}
	return exporter, nil
}

// Again runs the suite once more in namespaces of its own (CLONE_NEWNET, ...) with
// more variables, and returns its exit code. Mapped: in a user namespace, too, where
// it is root over nothing but what it makes.
func Again(namespaces uintptr, mapped bool, variables ...string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	c := exec.Command(self, os.Args[1:]...) //nolint:gosec,noctx // itself
	c.Env = append(os.Environ(), variables...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if mapped {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err = c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("make namespaces (does the kernel allow user namespaces?): %w", err)
	}
	return 0, nil
}
