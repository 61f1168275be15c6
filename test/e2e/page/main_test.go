package page

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

// Times. The first two only bound waits.
const (
	// patience is longer than anything takes: most of all the page for answers of which
	// half are wrong. In 3,000 runs by a model of probes, scrapes and the rule, half of
	// these pages came within 188 s, 98 % within 411 s, and all within 852 s, since any
	// minute in which all answers are of one kind by chance begins its two minutes again.
	patience = 15 * time.Minute
	// soon is for what takes no time, such as the start of a process.
	soon = 30 * time.Second
	// promised is what docs/alerting.md promises from the fault to the page.
	promised = time.Minute
	// resolves is how long an alert that lost its reason may take until
	// Alertmanager says so: a probe and a scrape, wrongIdentityKeepFiringFor, and
	// group_interval. A page that is to stay must stay for longer.
	resolves = 270 * time.Second
)

// What all scenarios share. Those that restart Prometheus have their own.
var (
	exporterBinary string
	shared         *monitoring
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("PROMETHEUS") == "" || os.Getenv("ALERTMANAGER") == "" {
		fmt.Fprintln(os.Stderr, "page: SKIPPED, because PROMETHEUS and ALERTMANAGER do not name the programs: run `make e2e-page`, which installs them")
		if os.Getenv("CI") != "" {
			return 1 // in CI nothing may be left out
		}
		return 0
	}
	flag.Parse()
	// Tests mostly wait for the next page.
	if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = f.Value.Set("64") // is a number
	}
	folder, err := os.MkdirTemp("", "page")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(folder)
	if exporterBinary, err = program.Build("../../..", folder); err != nil {
		return fail(err)
	}
	if shared, err = startMonitoring(filepath.Join(folder, "shared"), shippedRules); err != nil {
		return fail(err)
	}
	code := m.Run()
	if err := shared.stop(); err != nil {
		code = max(code, fail(err))
	}
	if code != 0 {
		fmt.Fprintf(os.Stderr, "page: Prometheus's log:\n%s\npage: Alertmanager's log:\n%s\n", &shared.prometheus.Log, &shared.alertmanager.Log)
	}
	fmt.Print(results.markdown())
	return code
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "page:", err)
	return 1
}
