package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

func (o *options) nodes() *cobra.Command {
	selector, watch := "", false
	c := o.command(cobra.Command{
		Use: "nodes", Short: "Every node with what its agent says, the worst first",
		Example: `  kubectl workload-identity nodes
  kubectl workload-identity nodes -l cloud.google.com/gke-nodepool=default-pool -o wide
  kubectl workload-identity nodes --watch`,
		RunE: func(c *cobra.Command, _ []string) error { return o.list(c.Context(), selector, watch) },
	})
	c.Flags().StringVarP(&selector, "selector", "l", "", "only nodes with these `labels`")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "ask again every 10 seconds, until Ctrl-C")
	return c
}

func (o *options) list(ctx context.Context, selector string, watch bool) error {
	cluster, err := o.cluster()
	if err != nil {
		return err
	}
	where := plugin.Where{Namespace: o.namespace(), NodeSelector: selector}
	if isTerminal(o.problems) {
		where.Progress = func(answered, agents int) {
			fmt.Fprintf(o.problems, "\r%d of %d agents\x1b[K", answered, agents)
			if answered == agents {
				fmt.Fprint(o.problems, "\r\x1b[K")
			}
		}
	}
	for {
		rows, err := plugin.Nodes(ctx, cluster, where)
		if err != nil {
			return err
		}
		if err := plugin.PrintNodes(o.out, rows, o.output, o.coloured()); err != nil {
			return err
		}
		o.code = plugin.ExitCode(rows)
		if !watch {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Second):
			fmt.Fprintln(o.out)
		}
	}
}

// coloured tells whether a table may have colours. See no-color.org.
func (o *options) coloured() bool { return isTerminal(o.out) && os.Getenv("NO_COLOR") == "" }

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
