// Command gke-metadata-simulator plays the metadata servers that a Pod on a GKE
// node may reach, with faults that are switched while it runs. It is made for
// demos and tests: its tokens open nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// Exit codes. A demo's script tells its own mistake from a busy port by them.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

// addresses as the demo uses them; the switches are found there by default.
const (
	metadataAddress = "127.0.0.1:10980"
	controlAddress  = "127.0.0.1:10981"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// The first signal stops in an orderly way; the second one finds the default
	// action again, and ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	command := serve
	if len(args) > 0 {
		switch args[0] {
		case "fault":
			command, args = switchFault, args[1:]
		case "faults":
			command, args = listFaults, args[1:]
		}
	}
	err := command(ctx, args, stdout)
	var wrong usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "gke-metadata-simulator: %v\nTry gke-metadata-simulator -help.\n", err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "gke-metadata-simulator: %v\n", err)
		return exitFailed
	}
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// parse reads the flags and refuses arguments that nobody asks for. It reports
// true when there is nothing left to do, because help was asked for.
func parse(flags *flag.FlagSet, args []string, usage string, stdout io.Writer) (bool, error) {
	flags.SetOutput(io.Discard) // run prints errors, once
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stdout)
		fmt.Fprint(stdout, usage)
		flags.PrintDefaults()
		return true, nil
	case err != nil:
		return false, usageError{err}
	case flags.NArg() > 0:
		return false, usageError{fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	default:
		return false, nil
	}
}

// version is what the Go toolchain noted at the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version + " " + info.GoVersion
}
