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

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
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
	if _, err := program.Build(repository, folder, "-ldflags", "-X main.version=v1.0.0"); err != nil {
		return fail(err)
	}
	code, err := program.Again(syscall.CLONE_NEWNET, os.Getuid() != 0, inside+"="+folder)
	if err != nil {
		return fail(err)
	}
	return code
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
