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
  kubectl workload-identity audit [flags]     what is set up wrongly, for ServiceAccounts, Pods and nodes
  kubectl workload-identity what-if [flags]   what a change of Cilium's settings will do
  kubectl workload-identity version

Examples:
  kubectl workload-identity nodes
  kubectl workload-identity nodes -l cloud.google.com/gke-nodepool=default-pool -o wide
  kubectl workload-identity nodes --watch
  kubectl workload-identity audit -n shop -o wide
  kubectl get serviceaccounts,pods,nodes,networkpolicies -A -o json | kubectl workload-identity audit -f -
  kubectl workload-identity what-if --set bpf.masquerade=true

Exit codes of nodes, by the worst of them, as those of check:
  0  all match    1  a wrong identity    2  a wrong flag, or the cluster cannot be asked
  3  it cannot be told, or a node has no agent    4  the identity is right, and no token is issued
Those of audit: 0 without and 1 with a finding of --fail-on or worse, 2 as above.
Those of what-if: 0 if Pods keep their identity, 1 if not, 2 and 3 as above.
`

const exitUsage = 2

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out, problems io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(problems, usage)
		return exitUsage
	}
	switch command := args[0]; command {
	case "nodes":
		return nodes(ctx, args[1:], out, problems)
	case "audit":
		return audit(ctx, args[1:], out, problems)
	case "what-if":
		return whatIf(ctx, args[1:], out, problems)
	case "version", "-version", "--version":
		fmt.Fprintln(out, version)
		return 0
	case "help", "-h", "-help", "--help":
		fmt.Fprint(out, usage)
		return 0
	default:
		fmt.Fprintf(problems, "kubectl workload-identity %s: there is no such command: want nodes, audit, what-if or version\n", command)
		return exitUsage
	}
}

// options are the flags that kubectl's users know.
type options struct {
	kubeconfig, context, namespace, output string

	selector string // of nodes
	watch    bool

	file string // of audit and what-if
}

// parse adds the flags that all commands have. It returns an exit code unless the
// command is to go on.
func (o *options) parse(command, does string, args []string, problems io.Writer, more func(*flag.FlagSet)) (int, bool) {
	f := flag.NewFlagSet(command, flag.ContinueOnError)
	f.SetOutput(problems)
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "%s\n\nUsage:\n  kubectl workload-identity %s [flags]\n\nFlags:\n", does, command)
		f.PrintDefaults()
	}
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "the `file` that names the cluster (default KUBECONFIG, or ~/.kube/config)")
	f.StringVar(&o.context, "context", "", "the `name` of its context (default the current one)")
	for _, name := range []string{"n", "namespace"} {
		f.StringVar(&o.namespace, name, "", "only this `namespace` (default all)")
	}
	formats := plugin.Formats()
	if command == "audit" {
		formats = append(formats, "sarif")
	}
	for _, name := range []string{"o", "output"} {
		f.StringVar(&o.output, name, "table", "the `format`: "+strings.Join(formats, ", "))
	}
	more(f)
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0, false
	case err != nil:
		return exitUsage, false
	case f.NArg() > 0:
		fmt.Fprintf(problems, "kubectl workload-identity %s: %q is no flag\n", command, f.Arg(0))
		return exitUsage, false
	case !slices.Contains(formats, o.output):
		fmt.Fprintf(problems, "kubectl workload-identity %s: -o=%q: want one of %s\n", command, o.output, strings.Join(formats, ", "))
		return exitUsage, false
	}
	return 0, true
}

// ended is the exit code, after the error is told.
func ended(command string, code int, err error, problems io.Writer) int {
	if err != nil {
		fmt.Fprintf(problems, "kubectl workload-identity %s: %v\n", command, err)
		return exitUsage
	}
	return code
}

func nodes(ctx context.Context, args []string, out, problems io.Writer) int {
	var o options
	if code, ok := o.parse("nodes", "Lists every node with what its agent says, the worst first.", args, problems, func(f *flag.FlagSet) {
		for _, name := range []string{"l", "selector"} {
			f.StringVar(&o.selector, name, "", "only nodes with these `labels`")
		}
		for _, name := range []string{"w", "watch"} {
			f.BoolVar(&o.watch, name, false, "ask again every 10 seconds, until Ctrl-C")
		}
	}); !ok {
		return code
	}
	code, err := o.list(ctx, out, problems)
	return ended("nodes", code, err, problems)
}

func (o options) inventory(ctx context.Context) (plugin.Inventory, error) {
	switch o.file {
	case "":
		cluster, err := o.cluster()
		if err != nil {
			return plugin.Inventory{}, err
		}
		return plugin.ReadCluster(ctx, cluster, o.namespace)
	case "-":
		return plugin.ReadDump(os.Stdin)
	}
	file, err := os.Open(o.file)
	if err != nil {
		return plugin.Inventory{}, err
	}
	defer file.Close()
	return plugin.ReadDump(file)
}

func (o options) cluster() (*plugin.Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context}).ClientConfig()
	if err != nil {
		return nil, err
	}
	return plugin.NewCluster(config)
}

func (o options) list(ctx context.Context, out, problems io.Writer) (int, error) {
	cluster, err := o.cluster()
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
