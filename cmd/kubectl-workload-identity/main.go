// Command kubectl-workload_identity is the plugin `kubectl workload-identity`: what
// the agents of a whole cluster say, and what they cannot see.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

// version is set by the linker.
var version = "dev"

const about = `Asks the agents of workload-identity-exporter which Google identity Pods get, and looks for workloads
that are set up wrongly. It works by your own rights and never prints a token. It reads only, but for
check, which adds an ephemeral container to the Pod.

The flags that kubectl has for all commands hold here as well (kubectl options).

Exit codes, as those of the exporter's own check, for the worst that was found:
  0  all is right                 1  a wrong identity, or a finding of audit
  2  a wrong flag or argument, or the cluster cannot be asked
  3  it cannot be told            4  the identity is right, and no token is issued`

// exitUsage is the exit code for a wrong flag, and for a cluster that cannot be asked.
const exitUsage = 2

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out, problems io.Writer) int {
	o := options{out: out, problems: problems}
	root := o.commands()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(problems)
	if command, err := root.ExecuteContextC(ctx); err != nil {
		fmt.Fprintf(problems, "%s: %v\n", command.CommandPath(), err)
		return exitUsage
	}
	return o.code
}

// options are what all commands have in common.
type options struct {
	out, problems io.Writer
	code          int // of the exit

	kubeconfig    string
	overrides     clientcmd.ConfigOverrides
	allNamespaces bool
	output        string
}

func (o *options) commands() *cobra.Command {
	root := &cobra.Command{
		Use: "kubectl-workload_identity", Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl workload-identity"},
		Short: "Which Google identity Pods on GKE really get", Long: about, Version: version,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return errors.Join(errors.New("which command? Want one of these"), c.Help())
		},
		// kubectl has the completion of its own, and asks its plugins.
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "the `file` that names the cluster (default KUBECONFIG, or ~/.kube/config)")
	clientcmd.BindOverrideFlags(&o.overrides, flags, clientcmd.RecommendedConfigOverrideFlags(""))
	flags.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "all namespaces, which is the default of all commands but check")
	flags.VisitAll(func(f *pflag.Flag) { // the others of kubectl are those that `kubectl options` lists
		f.Hidden = !slices.Contains([]string{"kubeconfig", "context", "namespace", "all-namespaces", "as"}, f.Name)
	})
	must(root.RegisterFlagCompletionFunc("namespace", o.completed("", func(ctx context.Context, c *plugin.Cluster) ([]string, error) {
		return c.Names(ctx, "/api/v1/namespaces")
	})))
	must(root.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		config, err := o.clientConfig().RawConfig()
		names := make([]string, 0, len(config.Contexts))
		for name := range config.Contexts {
			names = append(names, name)
		}
		slices.Sort(names)
		return names, directive(err)
	}))
	root.AddCommand(o.nodes(), o.audit(), o.whatIf(), o.check(), o.exposed(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Fprintln(o.out, version) },
	})
	return root
}

// command is one that prints in several formats, those of all and more.
func (o *options) command(c cobra.Command, more ...string) *cobra.Command {
	formats := append(plugin.Formats(), more...)
	if c.Args == nil {
		c.Args = cobra.NoArgs
	}
	runs := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if !slices.Contains(formats, o.output) {
			return fmt.Errorf("--output=%q: want one of %s", o.output, strings.Join(formats, ", "))
		}
		return runs(c, args)
	}
	c.Flags().StringVarP(&o.output, "output", "o", formats[0], "the `format`: "+strings.Join(formats, ", "))
	must(c.RegisterFlagCompletionFunc("output", fixed(formats...)))
	return &c
}

// fixed completes one of these words.
func fixed(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// completed completes what the cluster has, after a prefix, if it says so soon.
func (o *options) completed(prefix string, list func(context.Context, *plugin.Cluster) ([]string, error)) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(c.Context(), 3*time.Second)
		defer cancel()
		cluster, err := o.cluster()
		if err != nil {
			return nil, directive(err)
		}
		names, err := list(ctx, cluster)
		for i := range names {
			names[i] = prefix + names[i]
		}
		return names, directive(err)
	}
}

func directive(err error) cobra.ShellCompDirective {
	if err != nil {
		return cobra.ShellCompDirectiveError
	}
	return cobra.ShellCompDirectiveNoFileComp
}

// must is for what only a mistake in this program can make fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// namespace is the one that was asked for, empty for all.
func (o *options) namespace() string {
	if o.allNamespaces {
		return ""
	}
	return o.overrides.Context.Namespace
}

func (o *options) clientConfig() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &o.overrides)
}

func (o *options) cluster() (*plugin.Cluster, error) {
	config, err := o.clientConfig().ClientConfig()
	if err != nil {
		return nil, err
	}
	return plugin.NewCluster(config)
}

// dumpFlag adds the flag for what was read before.
func dumpFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "filename", "f", "", "a `file` with the output of kubectl get serviceaccounts,pods,nodes,networkpolicies -A -o json, - for standard input, instead of a cluster")
}

func (o *options) inventory(ctx context.Context, file string) (plugin.Inventory, error) {
	switch file {
	case "":
		cluster, err := o.cluster()
		if err != nil {
			return plugin.Inventory{}, err
		}
		return plugin.ReadCluster(ctx, cluster, o.namespace())
	case "-":
		return plugin.ReadDump(os.Stdin)
	}
	dump, err := os.Open(file)
	if err != nil {
		return plugin.Inventory{}, err
	}
	defer dump.Close()
	return plugin.ReadDump(dump)
}
