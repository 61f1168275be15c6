package cli_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// secret is part of every token that the simulators hand out.
const secret = "ya29.the-secret-of-this-suite"

const (
	app   = "app@demo-project.iam.gserviceaccount.com"
	other = "other@demo-project.iam.gserviceaccount.com"
	node  = "123456789012-compute@developer.gserviceaccount.com"
)

// impatient are the settings of an agent that a test waits for. A probe lasts
// half a second at most, and asks for a token each time.
var impatient = []string{
	"WI_LISTEN_ADDRESS=127.0.0.1:0",
	"WI_PROBE_INTERVAL=1s", "WI_PROBE_TIMEOUT=500ms", "WI_TOKEN_INTERVAL=1s", "WI_STARTUP_GRACE=0s",
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		// Tests here wait most of the time, so that more of them than there are
		// processors can run at once.
		if err := flag.Set("test.parallel", "10"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		folder, err := os.MkdirTemp("", "cli")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(folder)
		if err := build(folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		os.Setenv("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
		// testscript leaves its folder behind when not all scripts are run.
		os.Setenv("GOTMPDIR", folder)
		// By default a program with the race detector sleeps a second before it exits.
		os.Setenv("GORACE", "atexit_sleep_ms=0")
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// build puts the programs into the folder.
func build(folder string) error {
	args := []string{"build", "-o", folder + string(os.PathSeparator)}
	if raceDetector {
		args = append(args, "-race")
	}
	const commands = "github.com/workload-identity-exporter/workload-identity-exporter/cmd/"
	args = append(args, commands+"workload-identity-exporter", commands+"gke-metadata-simulator")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Deadline:            time.Now().Add(5 * time.Minute),
		Cmds:                commands,
		Setup: func(e *testscript.Env) error {
			for name, value := range map[string]string{"APP": app, "OTHER": other, "NODE": node, "SECRET": secret} {
				e.Setenv(name, value)
			}
			s := newScene(e.T().(testing.TB))
			e.Values["scene"] = s
			e.Defer(s.end)
			return nil
		},
	})
}
