// Command node makes the Kubernetes node that it runs on into one of GKE, for
// as long as it runs: GKE's metadata server on 169.254.169.252:988, which tells
// Pods apart by what the API server says about them, GKE's rule that redirects
// Pods to it, and the VM's metadata server at 169.254.169.254. Its switches
// break what a test wants broken.
//
// It runs as a Pod in the node's network namespace, with NET_ADMIN. It is for
// clusters made for tests: on a node of GKE it would take the place of the real
// servers.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// Addresses, as on GKE.
const (
	linkLocal = "169.254.169.254"
	gkeServer = "169.254.169.252"
	gkePort   = 988
	project   = "demo-project"
)

func main() {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	if err := run(ctx, os.Getenv("NODE_NAME"), os.Getenv("SWITCHES_ADDRESS")); err != nil {
		slog.Error("The node is no longer one of GKE", "error", err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, node, address string) (err error) {
	if node == "" || address == "" {
		return errors.New("NODE_NAME and SWITCHES_ADDRESS (HOST:PORT) must be set")
	}
	release, err := takeAddresses(linkLocal, gkeServer)
	if err != nil {
		return err
	}
	defer release()
	pods, err := watchPods(ctx, node)
	if err != nil {
		return err
	}
	rules, err := newRules()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rules.close()) }()

	machine := simulator.DefaultNode(project)
	gke, err := simulator.New(simulator.Options{Node: machine, Serve: simulator.ServeGKE, MetadataAddress: fmt.Sprintf("%s:%d", gkeServer, gkePort), Lookup: pods.lookup})
	if err != nil {
		return err
	}
	vm, err := simulator.New(simulator.Options{Node: machine, Serve: simulator.ServeVM, MetadataAddress: linkLocal + ":80"})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for the switches: %w", err)
	}
	server := &http.Server{Handler: switches(ctx, rules), ReadHeaderTimeout: 5 * time.Second}

	slog.Info("The node is one of GKE", "node", node, "switches", address)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return gke.Run(ctx) })
	group.Go(func() error { return vm.Run(ctx) })
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error { <-ctx.Done(); return server.Close() })
	return group.Wait()
}
