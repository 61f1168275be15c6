package dashboards

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

// Two versions of the exporter, as during a rollout.
var exporters [2]string

const repository = "../../../"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("PROMETHEUS") == "" {
		fmt.Fprintln(os.Stderr, "dashboards: SKIPPED, because PROMETHEUS does not name the program: run `make e2e-dashboards`, which installs it")
		if os.Getenv("CI") != "" {
			return 1 // in CI nothing may be left out
		}
		return 0
	}
	flag.Parse()
	folder, err := os.MkdirTemp("", "dashboards")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(folder)
	for i, version := range []string{"v1.0.0", "v1.1.0"} {
		if exporters[i], err = program.Build(repository, filepath.Join(folder, version), "-ldflags", "-X main.version="+version); err != nil {
			return fail(err)
		}
	}
	return m.Run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "dashboards:", err)
	return 1
}
