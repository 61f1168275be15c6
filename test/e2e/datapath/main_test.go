package datapath

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
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
	exporter, err := program.Build("../../..", folder)
	if err != nil {
		return fail(err)
	}
	variables := []string{inside + "=" + exporter}
	root := os.Getuid() == 0 && os.Getenv(userNamespace) == ""
	if root {
		variables = append(variables, insideRoot+"=1")
	}
	code, err := program.Again(syscall.CLONE_NEWNET|syscall.CLONE_NEWNS, !root, variables...)
	if err != nil {
		return fail(err)
	}
	return code
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "datapath:", err)
	return 1
}
