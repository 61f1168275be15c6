package datapath

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
)

// Variables of the environment.
const (
	// inside is set for the suite's second process, to the path of the exporter.
	inside = "DATAPATH_INSIDE"
	// insideRoot is set if that is root, and not only root of its own user namespace.
	insideRoot = "DATAPATH_ROOT"
	// userNamespace set by the caller makes root run the suite as others have to.
	userNamespace = "DATAPATH_USER_NAMESPACE"
)

// TestMain runs the suite in a network and a mount namespace of its own, and for
// others than root in a user namespace, where they are root over nothing but
// what they make.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		// Tests mostly wait for the next probe.
		if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
			_ = f.Value.Set("16") // is a number
		}
		os.Exit(m.Run())
	}
	os.Exit(again())
}

func again() int {
	folder, err := os.MkdirTemp("", "datapath")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(folder)
	exporter := filepath.Join(folder, "workload-identity-exporter")
	build := exec.Command("go", "build", "-o", exporter, "./cmd/workload-identity-exporter")
	build.Dir = "../../.." // the exporter's module
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fail(fmt.Errorf("build the exporter: %w", err))
	}

	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	c := exec.Command(self, os.Args[1:]...)
	c.Env = append(os.Environ(), inside+"="+exporter)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if os.Getuid() == 0 && os.Getenv(userNamespace) == "" {
		c.Env = append(c.Env, insideRoot+"=1")
	} else {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err = c.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		return fail(fmt.Errorf("make namespaces (does the kernel allow user namespaces?): %w", err))
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "datapath:", err)
	return 1
}
