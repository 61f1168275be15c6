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

// inside is set in the environment of the suite's second process.
const inside = "DATAPATH_INSIDE"

// TestMain runs the suite in a user, a network and a mount namespace of its own,
// where it is root over nothing but what it makes.
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
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
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
