package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

const faultUsage = `Prints the fault of a running simulator, or switches it.

Usage:
  gke-metadata-simulator fault [-control-address HOST:PORT]
  gke-metadata-simulator fault NAME [-every 5s] [-of snat] [-delay 4s] [-control-address HOST:PORT]

Flags:
`

// switchTimeout bounds a command: switching back from refused may wait a second
// for the port.
const switchTimeout = 15 * time.Second

// switchFault asks a running simulator for its fault, or for another one. The
// name comes before the flags: package flag stops at the first argument.
func switchFault(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("gke-metadata-simulator fault", flag.ContinueOnError)
	control := flags.String("control-address", controlAddress, "where the simulator's switches are, `HOST:PORT`")
	tuning := faultFlags(flags)
	var name string
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	if done, err := parse(flags, args, faultUsage, stdout); done || err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(*control); err != nil {
		return usageError{fmt.Errorf("-control-address %q: want HOST:PORT", *control)}
	}
	method, path := http.MethodGet, "/fault"
	if name != "" {
		// Checked here, too, so that a typo is a usage error without a server.
		if _, err := simulator.ParseFault(name, tuning()); err != nil {
			return usageError{err}
		}
		method, path = http.MethodPut, "/fault/"+url.PathEscape(name)
	} else if len(tuning()) > 0 {
		return usageError{errors.New("parameters need the NAME of a fault")}
	}

	ctx, cancel := context.WithTimeout(ctx, switchTimeout)
	defer cancel()
	address := url.URL{Scheme: "http", Host: *control, RawQuery: tuning().Encode()}
	fault, err := ask(ctx, method, address.JoinPath(path).String())
	if err != nil {
		return fmt.Errorf("ask the switches on -control-address %s: %w", *control, err)
	}
	fmt.Fprintln(stdout, fault)
	return nil
}

// ask makes the one request of the command, past any proxy of the environment.
func ask(ctx context.Context, method, address string) (simulator.Fault, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, http.NoBody)
	if err != nil {
		return simulator.Fault{}, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err // without the address, which the caller names
		}
		return simulator.Fault{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err != nil {
		return simulator.Fault{}, err
	}
	if response.StatusCode != http.StatusOK {
		return simulator.Fault{}, fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(body)))
	}
	var fault simulator.Fault
	if err := json.Unmarshal(body, &fault); err != nil {
		return simulator.Fault{}, fmt.Errorf("read the answer: %w", err)
	}
	return fault, nil
}

const faultsUsage = `Lists the faults.

Usage:
  gke-metadata-simulator faults
`

// listFaults prints the faults that this program has; it asks no server.
func listFaults(_ context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("gke-metadata-simulator faults", flag.ContinueOnError)
	if done, err := parse(flags, args, faultsUsage, stdout); done || err != nil {
		return err
	}
	return simulator.WriteTable(stdout, simulator.Faults())
}
