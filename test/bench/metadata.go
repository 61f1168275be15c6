package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// askMetadata runs the exporter with its default intervals, and reports what it asks of the
// metadata server: while all is well, and while the server answers 429.
func askMetadata(ctx context.Context, exporter string, lasts time.Duration, stdout io.Writer) (err error) {
	path, err := filepath.Abs(exporter)
	if err != nil {
		return err
	}
	w, err := startWorld(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	child, err := start(ctx, path, w.environment())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, child.stop()) }()
	if !sleep(ctx, 15*time.Second) { // the first probes are closer together
		return ctx.Err()
	}
	fmt.Fprintf(stdout, "What one agent asks of the metadata server in a minute, over %s each\n\n| the server | connections | emails | tokens | machine types | identity tokens | at once, at most | in TIME_WAIT, at most |\n|---|---|---|---|---|---|---|---|\n", lasts)
	for _, fault := range []simulator.Fault{{Name: "healthy"}, {Name: "throttled"}} {
		if err := w.metadata.SetFault(fault); err != nil {
			return err
		}
		if !sleep(ctx, 30*time.Second) {
			return ctx.Err()
		}
		before, connections := w.counts(), w.metadata.Connections()
		most, err := watchSockets(ctx, w.metadata.MetadataAddr(), lasts)
		if err != nil {
			return err
		}
		minutes := lasts.Minutes()
		fmt.Fprintf(stdout, "| %s | %.1f |", fault.Name, float64(w.metadata.Connections()-connections)/minutes)
		for i, n := range w.counts() {
			fmt.Fprintf(stdout, " %.1f |", float64(n-before[i])/minutes)
		}
		fmt.Fprintf(stdout, " %d | %d |\n", most[established], most[timeWait])
	}
	return nil
}

func (w *world) counts() (counts [4]int64) {
	for i, path := range []string{"/email", "/token", "/machine-type", "/identity"} {
		counts[i] = w.metadata.Requests(path)
	}
	return counts
}

// States of a socket in /proc/net/tcp.
const established, timeWait = "01", "06"

// watchSockets returns how many connections to the address were in each state at most,
// seen from the client.
func watchSockets(ctx context.Context, address net.Addr, lasts time.Duration) (map[string]int, error) {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("%s is no TCP address", address)
	}
	port := fmt.Sprintf(":%04X", tcp.Port)
	most := map[string]int{}
	for until := time.Now().Add(lasts); time.Now().Before(until); {
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			return nil, err
		}
		now := map[string]int{}
		for line := range strings.Lines(string(table)) {
			// sl local_address rem_address st
			if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[2], port) {
				now[f[3]]++
			}
		}
		for state, n := range now {
			most[state] = max(most[state], n)
		}
		if !sleep(ctx, 2*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
	return most, nil
}
