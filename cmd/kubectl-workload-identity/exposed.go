package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

func (o *options) exposed() *cobra.Command {
	var p plugin.Prometheus
	since := 24 * time.Hour
	c := o.command(cobra.Command{
		Use: "exposed", Short: "Which Pods had a wrong identity, and which of them still run",
		Long: "Lists the Pods that ran on a node while it handed out a wrong identity, and which still run.",
		Example: `  kubectl workload-identity exposed --since 3h
  kubectl workload-identity exposed --since 72h --prometheus http://localhost:9090
  kubectl workload-identity exposed -o name | xargs -r -L 1 kubectl delete --wait=false`,
		RunE: func(c *cobra.Command, _ []string) error { return o.exposes(c.Context(), since, p) },
	}, "name")
	f := c.Flags()
	f.DurationVar(&since, "since", since, "how far back")
	f.StringVar(&p.URL, "prometheus", "", "the `URL` of a Prometheus with the rules of this project, which knows more than the agents, and of Pods that are gone")
	f.StringVar(&p.Match, "match", "", "label `matchers` of this cluster there, where it has several, such as cluster=\"prod\"")
	return c
}

func (o *options) exposes(ctx context.Context, since time.Duration, p plugin.Prometheus) error {
	switch {
	case since <= 0:
		return fmt.Errorf("--since=%s: want a duration above 0s, such as 24h", since)
	case p.URL == "" && p.Match != "":
		return errors.New("--match is for --prometheus")
	}
	cluster, err := o.cluster()
	if err != nil {
		return err
	}
	i := plugin.Incident{Since: time.Now().Add(-since).UTC().Truncate(time.Second), Namespace: o.namespace()}
	if p.URL != "" {
		i.Prometheus = &p
	}
	e, err := plugin.Exposed(ctx, cluster, i)
	if err != nil {
		return err
	}
	if o.output == "name" { // what is not for xargs
		for _, u := range e.Unknown {
			fmt.Fprintln(o.problems, "not known:", u)
		}
	}
	o.code = e.ExitCode()
	return plugin.PrintExposure(o.out, e, o.output)
}
