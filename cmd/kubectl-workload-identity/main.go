// Command kubectl-workload_identity is the plugin `kubectl workload-identity`: what
// the agents of a whole cluster say.
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
	"syscall"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

// version is set by the linker.
var version = "dev"

const usage = `Asks the agents of workload-identity-exporter which Google identity Pods get.
It reads only, by your own rights, and never prints a token.

Usage:
  kubectl workload-identity nodes [flags]     every node, the worst first
  kubectl workload-identity version

Examples:
  kubectl workload-identity nodes
  kubectl workload-identity nodes -l cloud.google.com/gke-nodepool=default-pool -o wide
  kubectl workload-identity nodes --watch

Exit codes of nodes, by the worst of them, as those of check:
  0  all match    1  a wrong identity    2  a wrong flag, or the cluster cannot be asked
  3  it cannot be told, or a node has no agent    4  the identity is right, and no token is issued
`

const exitUsage = 2

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, problems io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(problems, usage)
		return exitUsage
	}
	switch command := args[0]; command {
	case "nodes":
		return nodes(ctx, args[1:], out, problems)
	case "version", "-version", "--version":
		fmt.Fprintln(out, version)
		return 0
	case "help", "-h", "-help", "--help":
		fmt.Fprint(out, usage)
		return 0
	default:
		fmt.Fprintf(problems, "kubectl workload-identity %s: there is no such command: want nodes or version\n", command)
		return exitUsage
	}
}

// options are the flags that kubectl's users know.
type options struct {
	kubeconfig, context, namespace, selector, output string
	watch                                            bool
}

func nodes(ctx context.Context, args []string, out, problems io.Writer) int {
	var o options
	f := flag.NewFlagSet("nodes", flag.ContinueOnError)
	f.SetOutput(problems)
	f.Usage = func() {
		fmt.Fprint(f.Output(), "Lists every node with what its agent says, the worst first.\n\nUsage:\n  kubectl workload-identity nodes [flags]\n\nFlags:\n")
		f.PrintDefaults()
	}
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "the `file` that names the cluster (default KUBECONFIG, or ~/.kube/config)")
	f.StringVar(&o.context, "context", "", "the `name` of its context (default the current one)")
	for _, name := range []string{"n", "namespace"} {
		f.StringVar(&o.namespace, name, "", "the `namespace` of the agents (default any)")
	}
	for _, name := range []string{"l", "selector"} {
		f.StringVar(&o.selector, name, "", "only nodes with these `labels`")
	}
	for _, name := range []string{"o", "output"} {
		f.StringVar(&o.output, name, "table", "the `format`: "+strings.Join(plugin.Formats(), ", "))
	}
	for _, name := range []string{"w", "watch"} {
		f.BoolVar(&o.watch, name, false, "ask again every 10 seconds, until Ctrl-C")
	}
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	case f.NArg() > 0:
		fmt.Fprintf(problems, "kubectl workload-identity nodes: %q is no flag; -l selects nodes\n", f.Arg(0))
		return exitUsage
	case !slices.Contains(plugin.Formats(), o.output):
		fmt.Fprintf(problems, "kubectl workload-identity nodes: -o=%q: want one of %s\n", o.output, strings.Join(plugin.Formats(), ", "))
		return exitUsage
	}
	code, err := o.list(ctx, out, problems)
	if err != nil {
		fmt.Fprintf(problems, "kubectl workload-identity nodes: %v\n", err)
		return exitUsage
	}
	return code
}

func (o options) list(ctx context.Context, out, problems io.Writer) (int, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context}).ClientConfig()
	if err != nil {
		return 0, err
	}
	cluster, err := plugin.NewCluster(config)
	if err != nil {
		return 0, err
	}
	where := plugin.Where{Namespace: o.namespace, NodeSelector: o.selector}
	if isTerminal(problems) {
		where.Progress = func(answered, agents int) {
			fmt.Fprintf(problems, "\r%d of %d agents\x1b[K", answered, agents)
			if answered == agents {
				fmt.Fprint(problems, "\r\x1b[K")
			}
		}
	}
	for {
		rows, err := plugin.Nodes(ctx, cluster, where)
		if err != nil {
			return 0, err
		}
		if err := plugin.PrintNodes(out, rows, o.output, isTerminal(out) && os.Getenv("NO_COLOR") == ""); err != nil {
			return 0, err
		}
		if !o.watch {
			return plugin.ExitCode(rows), nil
		}
		select {
		case <-ctx.Done():
			return plugin.ExitCode(rows), nil
		case <-time.After(10 * time.Second):
			fmt.Fprintln(out)
		}
	}
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
