package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

const serveUsage = `Plays the metadata servers that a Pod on a GKE node may reach.

Usage:
  gke-metadata-simulator [flags]             serve, until SIGINT or SIGTERM
  gke-metadata-simulator fault               print the fault of a running simulator
  gke-metadata-simulator fault NAME [flags]  switch it (-help lists the flags)
  gke-metadata-simulator faults              list the faults

Try it:
  curl -H 'Metadata-Flavor: Google' http://127.0.0.1:10980/computeMetadata/v1/instance/service-accounts/default/email
  curl -X PUT http://127.0.0.1:10981/fault/bypass

The source address of a request chooses the Pod: 127.0.0.1 is demo/app,
127.0.0.2 demo/other, 127.0.0.3 demo/unlinked (no annotation), 127.0.0.4
demo/principal (curl --interface 127.0.0.2 ...). Flag -pod replaces the table.

Flags:
`

// serve runs a simulator until ctx ends.
func serve(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("gke-metadata-simulator", flag.ContinueOnError)
	metadata := flags.String("metadata-address", metadataAddress, "where metadata is asked for, `HOST:PORT`; port 0 picks a free one")
	control := flags.String("control-address", controlAddress, "where faults are switched, `HOST:PORT`; empty for nowhere")
	serving := flags.String("serve", string(simulator.ServeBoth), "which servers: both, gke or vm; one alone has only the faults that need no other")
	fault := flags.String("fault", simulator.Healthy, "the `NAME` of the fault at the start")
	tuning := faultFlags(flags)
	project := flags.String("project", "demo-project", "the project `ID`")
	nodeEmail := flags.String("node-email", "", "the `EMAIL` of the node's service account (default the one of Compute Engine)")
	token := flags.String("token", "", "a `TEXT` that every access token holds, to search for (default random)")
	kubernetes := flags.String("kubernetes-directory", "", "also play the Kubernetes API server to the Pod demo/app, and write its credentials, and in the file environment how to find it, into this `FOLDER`")
	var table podTable
	flags.Var(&table, "pod", "a Pod, `ADDRESS=NAMESPACE/KSA[=GSA]`; ADDRESS * is any other, GSA principal the principal:// form; may be repeated")
	showVersion := flags.Bool("version", false, "print the version and exit")
	if done, err := parse(flags, args, serveUsage, stdout); done || err != nil {
		return err
	}
	if *showVersion {
		fmt.Fprintln(stdout, "gke-metadata-simulator", version())
		return nil
	}

	node := simulator.DefaultNode(*project)
	if *nodeEmail != "" {
		node.ServiceAccount = *nodeEmail
	}
	start, err := simulator.ParseFault(*fault, tuning())
	if err != nil {
		return usageError{fmt.Errorf("-fault: %w", err)}
	}
	for name, address := range map[string]string{"-metadata-address": *metadata, "-control-address": *control} {
		if _, _, err := net.SplitHostPort(address); err != nil && address != "" {
			return usageError{fmt.Errorf("%s %q: want HOST:PORT", name, address)}
		}
	}

	s, err := simulator.New(simulator.Options{
		MetadataAddress: *metadata,
		ControlAddress:  *control,
		Serve:           simulator.Serve(*serving),
		Node:            node,
		Pods:            table.pods,
		Fallback:        table.fallback,
		Tokens:          simulator.Tokens{Secret: *token},
		Fault:           start,
		Log:             slog.New(slog.NewTextHandler(stdout, nil)),
	})
	if err != nil {
		return explain(err)
	}
	fmt.Fprintf(stdout, "metadata server: http://%s\n", s.MetadataAddr())
	if address := s.ControlAddr(); address != nil {
		fmt.Fprintf(stdout, "switches: http://%s (list: GET /faults)\n", address)
	}
	if *kubernetes != "" {
		api, err := startKubernetes(*kubernetes, node.ProjectID, s.Fault, stdout)
		if err != nil {
			return fmt.Errorf("-kubernetes-directory %s: %w", *kubernetes, err)
		}
		defer api.Close()
	}
	fmt.Fprintf(stdout, "fault: %s\n", s.Fault())
	return s.Run(ctx)
}

// explain tells what to do about an error of New: a busy port is named with its
// flag, everything else is a mistake in the flags.
func explain(err error) error {
	var busy *simulator.ListenError
	if !errors.As(err, &busy) {
		return usageError{err}
	}
	return fmt.Errorf("-%s-address %s: %w; stop what listens there, or choose another address (port 0 picks a free one)",
		busy.Listener, busy.Address, cause(busy.Err))
}

// cause leaves out what the line says already: the operation and the address.
func cause(err error) error {
	if operation, ok := errors.AsType[*net.OpError](err); ok {
		return operation.Err
	}
	return err
}

// faultFlags adds the parameters of faults, and returns those that were given.
// They are checked in one place, with the fault.
func faultFlags(flags *flag.FlagSet) func() url.Values {
	flags.String("every", "", "how long flap stays, a `DURATION` (default 5s)")
	flags.String("of", "", "the `NAME` of the fault that flap turns on and off (default bypass)")
	flags.String("delay", "", "how long slow and sts-blocked wait, a `DURATION` (default 5s, 2s)")
	return func() url.Values {
		given := url.Values{}
		flags.Visit(func(f *flag.Flag) {
			switch f.Name {
			case "every", "of", "delay":
				given.Set(f.Name, f.Value.String())
			}
		})
		return given
	}
}
