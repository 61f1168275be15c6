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

	"github.com/prometheus/client_golang/prometheus"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/app"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

func main() {
	noCores()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program: what it returns is the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	// net/http writes what a server sends unasked to the standard logger, where a
	// token could be in it.
	log.SetOutput(io.Discard)
	environment := config.EnvironmentOf(os.Environ())
	// The client library builds every request with it, and fails where it is not a
	// host name, although the prober replaces it.
	_ = os.Unsetenv("GCE_METADATA_HOST") // cannot fail: the name is valid
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if len(args) > 0 && args[0] == "check" {
		go stopOnSignal(cancel)
		return check(ctx, args[1:], environment, stdout, stderr)
	}
	if len(args) > 0 && args[0] == "redact" {
		return redactNames(args[1:], os.Stdin, stdout, stderr)
	}
	flags := flag.NewFlagSet("workload-identity-exporter", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	version := flags.Bool("version", false, "")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "workload-identity-exporter: %v\nSettings are environment variables, see workload-identity-exporter -help\n", err)
		return exitUsage
	case *version:
		fmt.Fprintln(stdout, buildInfo())
		return exitOK
	}

	tuneRuntime(environment)
	settings, err := config.Load()
	redactor, _ := settings.Redactor() // Load has checked its key
	stderr = redactor.Writer(stderr)
	if err != nil {
		fmt.Fprintf(stderr, "workload-identity-exporter: the configuration is wrong, see workload-identity-exporter -help\n%v\n", err)
		return exitUsage
	}

	go stopOnSignal(cancel)
	a, err := app.New(app.Options{
		Config: settings, Environment: environment, Build: buildInfo(),
		Logger: newLogger(stderr, settings.LogFormat, settings.LogLevel), Registry: prometheus.NewRegistry(), Redactor: redactor,
	})
	if err == nil {
		err = a.Run(ctx)
	}
	if err != nil {
		fmt.Fprintf(stderr, "workload-identity-exporter: %v\n", err)
		return exitError
	}
	return exitOK
}
