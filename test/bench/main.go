// Command bench measures what the exporter costs a node: memory, CPU, and the
// size and latency of its scrapes, next to those of the floor program, which is
// the least that any such agent would cost, and to Prometheus's blackbox exporter,
// which is what people would run instead. It needs Linux, for /proc.
//
// It is a report and no test: a missed target does not change the exit code,
// because the figures are those of one machine at one time. It fails only when
// it could not measure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// interval is that between two probes of a program, and between two scrapes of
// it. It is the least that the exporter accepts: the more cycles, the surer the mean.
const interval = time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	duration := flags.Duration("duration", 120*time.Second, "how long to measure, from 2s up, before a minute at the default intervals")
	warmUp := flags.Duration("warmup", 5*time.Second, "how long the programs run before that, from 2s up")
	names := flags.String("programs", exporterName+","+floorName+","+blackboxName, "the programs to measure, separated by commas")
	metadata := flags.Bool("metadata", false, "measure instead what the exporter asks of the metadata server, with its default intervals")
	paths := map[string]*string{
		exporterName: flags.String(exporterName, "bin/workload-identity-exporter", "path of the exporter"),
		floorName:    flags.String(floorName, "bin/floor", "path of the floor program, built from test/bench/floor"),
		blackboxName: flags.String(blackboxName, "/usr/bin/prometheus-blackbox-exporter", "path of Prometheus's blackbox exporter"),
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if least := 2 * interval; *duration < least || *warmUp < least {
		return fmt.Errorf("-duration and -warmup must be %s or longer", least)
	}
	if *metadata {
		return askMetadata(ctx, *paths[exporterName], *duration, stdout)
	}
	var programs []program
	for name := range strings.SplitSeq(*names, ",") {
		if paths[name] == nil {
			return fmt.Errorf("-programs: there is no program %q", name)
		}
		if slices.ContainsFunc(programs, func(p program) bool { return p.name == name }) {
			return fmt.Errorf("-programs: %q is there twice", name)
		}
		programs = append(programs, program{name: name, path: *paths[name], needs: needs[name]})
	}

	fmt.Fprintf(stdout, "Measuring %s for %s, after a warm-up of %s, with a probe and a scrape each second\n", *names, *duration, *warmUp)
	measured, err := measureAll(ctx, programs, *warmUp, *duration)
	if err != nil {
		return err
	}
	writeReport(stdout, measured)
	return nil
}

// measureAll measures the programs at the same time, so that the noise of the
// machine hits all of them alike. Their scrapes take turns.
func measureAll(ctx context.Context, programs []program, warmUp, duration time.Duration) (map[string]measurement, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	measurements := make([]measurement, len(programs))
	var running sync.WaitGroup
	for i, p := range programs {
		running.Go(func() {
			turn := interval * time.Duration(i) / time.Duration(len(programs))
			if !sleep(ctx, turn) {
				return
			}
			m, err := measure(ctx, p, warmUp, duration)
			if err != nil {
				cancel(fmt.Errorf("%s: %w", p.name, err)) // the first one counts, and ends the others
			}
			measurements[i] = m
		})
	}
	running.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	byName := map[string]measurement{}
	for i, p := range programs {
		byName[p.name] = measurements[i]
	}
	return byName, nil
}

// sleep waits, and reports whether the context still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
