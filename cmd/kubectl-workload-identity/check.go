package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

// imageRepository is where the chart has the agent's image from.
const imageRepository = "ghcr.io/workload-identity-exporter/workload-identity-exporter"

// released are versions with an image.
var released = regexp.MustCompile(`^\d+\.\d+\.\d+(-[a-z]+\.\d+)?$`)

func (o *options) check() *cobra.Command {
	p := plugin.PodCheck{Say: func(what string) { fmt.Fprintln(o.problems, what) }}
	if released.MatchString(version) {
		p.Image = imageRepository + ":" + version
	}
	pods := 1
	c := o.command(cobra.Command{
		Use: "check POD|KIND/NAME", Short: "What a Pod of yours gets, asked in its own network",
		Long: `Asks the metadata server in the network of a Pod which identity it gets, by an ephemeral container under the
Pod's own ServiceAccount. Nothing in the Pod is changed or restarted. KIND is pod, deploy, statefulset,
daemonset, replicaset or job.`,
		Example: `  kubectl workload-identity check -n shop deploy/app
  kubectl workload-identity check app-7c9d5-x2x4q --timeout 2m -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("want one POD or KIND/NAME, such as deploy/app, got %q", args)
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return o.checks(c.Context(), args[0], p, pods) },
	})
	c.ValidArgsFunction = o.completed("", func(ctx context.Context, cluster *plugin.Cluster) ([]string, error) {
		namespace, _, err := o.clientConfig().Namespace()
		if err != nil {
			return nil, err
		}
		return cluster.Names(ctx, "/api/v1/namespaces/"+namespace+"/pods")
	})
	f := c.Flags()
	f.StringVar(&p.Image, "image", p.Image, "the `image` of the exporter")
	f.StringArrayVar(&p.Expect, "expect", nil, "the `identity` that is right (default that of the Pod's ServiceAccount)")
	f.DurationVar(&p.Timeout, "timeout", time.Minute, "how long the container may take, with the pull of its image")
	f.IntVar(&pods, "pods", pods, "how many ready Pods of a workload are checked, of different nodes first")
	return c
}

func (o *options) checks(ctx context.Context, what string, p plugin.PodCheck, most int) error {
	switch {
	case o.allNamespaces:
		return errors.New("--all-namespaces: a Pod is in one namespace: name it by --namespace")
	case p.Image == "":
		return fmt.Errorf("this is version %s, for which no image was released: name the exporter's by --image", version)
	case p.Timeout <= 0:
		return fmt.Errorf("--timeout=%s: want a duration above 0s, such as 1m", p.Timeout)
	case most < 1:
		return fmt.Errorf("--pods=%d: want 1 or more", most)
	}
	cluster, err := o.cluster()
	if err != nil {
		return err
	}
	namespace, _, err := o.clientConfig().Namespace()
	if err != nil {
		return err
	}
	names, err := cluster.Pods(ctx, namespace, what, most)
	if err != nil {
		return err
	}
	var all []plugin.Checked
	for _, name := range names {
		var c plugin.Checked
		if c, err = cluster.Check(ctx, namespace, name, p); err != nil {
			break
		}
		all = append(all, c)
	}
	if len(all) > 0 { // what was found until then
		err = errors.Join(err, plugin.PrintChecks(o.out, all, o.output))
	}
	o.code = plugin.WorstCheck(all)
	return err
}
