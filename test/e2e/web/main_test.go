package web

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

const (
	repository = "../../../"
	axeScript  = "node_modules/axe-core/axe.min.js"
	// inside is set for the suite's second process, to the folder of the programs.
	inside = "WEB_INSIDE"
)

var (
	update   = flag.Bool("update", false, "take the pictures in docs/images/status again")
	exporter = filepath.Join(os.Getenv(inside), "workload-identity-exporter")
	chromium string
)

// TestMain runs the suite in a network namespace of its own, and for others than
// root in a user namespace, too.
func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if chromium, err = exec.LookPath("chromium"); err == nil {
		_, err = os.Stat(axeScript)
	}
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "web: SKIPPED, because of %v: run `make e2e-web`, which tells what is missing\n", err)
		if os.Getenv("CI") != "" {
			os.Exit(1) // in CI nothing may be left out
		}
	case os.Getenv(inside) == "":
		os.Exit(again())
	default:
		if err := addresses(); err != nil {
			os.Exit(fail(err))
		}
		os.Exit(m.Run())
	}
}

func again() int {
	folder, err := os.MkdirTemp("", "web")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(folder)
	build := exec.Command("go", "build", "-ldflags", "-X main.version=v1.0.0", "-o", folder, "./cmd/workload-identity-exporter")
	build.Dir = repository // the exporter's module
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
	c.Env = append(os.Environ(), inside+"="+folder)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
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
		return fail(fmt.Errorf("make a network namespace (does the kernel allow user namespaces?): %w", err))
	}
	return 0
}

// addresses brings the loopback device up, with the address of the metadata server.
func addresses() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(metadataHost + "/32")
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(loopback), netlink.AddrAdd(loopback, address))
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "web:", err)
	return 1
}
