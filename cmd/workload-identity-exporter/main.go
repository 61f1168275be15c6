// Command workload-identity-exporter asks the metadata server of a GKE node
// which Google identity Pods get, compares it with the expected one, and
// exports the verdict as Prometheus metrics. It runs as a DaemonSet.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the program: what it returns is the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	// net/http writes what a server sends unasked to the standard logger, where a
	// token could be in it.
	log.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if len(args) > 0 && args[0] == "check" {
		go stopOnSignal(cancel)
		return check(ctx, args[1:], stdout, stderr)
	}
	flags := flag.NewFlagSet("workload-identity-exporter", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	version := flags.Bool("version", false, "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "workload-identity-exporter: %v\nSettings are environment variables, see workload-identity-exporter -help\n", err)
		return exitUsage
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "workload-identity-exporter: unknown argument %q\nSettings are environment variables, see workload-identity-exporter -help\n", flags.Arg(0))
		return exitUsage
	case *version:
		fmt.Fprintln(stdout, buildInfo())
		return exitOK
	}

	beSmall()
	settings, err := config.Load()
	if err != nil {
		fmt.Fprintf(stderr, "workload-identity-exporter: the configuration is wrong, see workload-identity-exporter -help\n%v\n", err)
		return exitUsage
	}

	go stopOnSignal(cancel)
	if err := serve(ctx, settings, stderr); err != nil {
		fmt.Fprintf(stderr, "workload-identity-exporter: %v\n", err)
		return exitError
	}
	return exitOK
}

// beSmall fits the runtime to a program that makes three small requests every
// ten seconds, on every node (`make bench` shows what it is worth). The heap may
// grow by half instead of doubling before it is collected, and one thread at a
// time runs Go code: the collector would otherwise wake one for each core.
func beSmall() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

func usage(w io.Writer) {
	fmt.Fprint(w, `workload-identity-exporter tells which Google identity Pods on a GKE node really
get, and whether it is the one they should get. In a Pod under an annotated
ServiceAccount it needs no configuration.

Usage:
  workload-identity-exporter            probe and serve metrics until SIGTERM
  workload-identity-exporter check      judge once: check -help tells more
  workload-identity-exporter -version   print the version
  workload-identity-exporter -help      print this text

Exit codes: 0 after SIGTERM or SIGINT, 1 if it cannot run or is ended by a second
signal, 2 for a wrong setting.

Environment variables:
`)
	config.WriteText(w)
}
