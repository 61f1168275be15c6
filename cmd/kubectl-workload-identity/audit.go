package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

type auditFlags struct {
	file, failOn, pool string
	iam                bool
	nodeAccounts       []string
}

func (o *options) audit() *cobra.Command {
	var a auditFlags
	c := o.command(cobra.Command{
		Use: "audit", Short: "What is set up wrongly: ServiceAccounts, Pods, nodes, Cilium, and IAM",
		Long: `Looks for what is set up wrongly: ServiceAccounts, Pods with their network policies, nodes, and Cilium's
settings. With --iam it asks Google as well, by your Application Default Credentials.

Exit codes: 0 without and 1 with a finding of --fail-on or worse, 2 for a wrong flag, or what cannot be asked.`,
		Example: `  kubectl workload-identity audit -o wide
  kubectl workload-identity audit -n shop --fail-on warning
  kubectl workload-identity audit --iam --node-service-account gke-nodes@my-project.iam.gserviceaccount.com
  kubectl workload-identity audit -o sarif > findings.sarif
  kubectl get serviceaccounts,pods,nodes,networkpolicies -A -o json | kubectl workload-identity audit -f -`,
		RunE: func(c *cobra.Command, _ []string) error { return o.audits(c.Context(), a) },
	}, "sarif")
	dumpFlag(c, &a.file)
	f := c.Flags()
	f.StringVar(&a.failOn, "fail-on", string(plugin.Error), "the least `severity` that ends in exit code 1: error, warning, info, or never")
	f.BoolVar(&a.iam, "iam", false, "ask Google about the accounts, by your Application Default Credentials")
	f.StringVar(&a.pool, "workload-pool", "", "with --iam, the cluster's workload `pool` (default PROJECT.svc.id.goog of its nodes)")
	f.StringSliceVar(&a.nodeAccounts, "node-service-account", nil, "with --iam, the `email` of the account of a node pool, to see what a fallback to it gives; may be repeated")
	must(c.RegisterFlagCompletionFunc("fail-on", fixed(string(plugin.Error), string(plugin.Warning), string(plugin.Info), "never")))
	return c
}

func (o *options) audits(ctx context.Context, a auditFlags) error {
	severe := slices.Index(plugin.Severities(), plugin.Severity(a.failOn))
	if severe < 0 && a.failOn != "never" {
		return fmt.Errorf("--fail-on=%q: want error, warning, info or never", a.failOn)
	}
	var google *plugin.IAM
	if a.iam {
		var err error
		if google, err = plugin.NewIAM(ctx); err != nil {
			return fmt.Errorf("--iam: %w", err)
		}
		google.Pool, google.NodeAccounts = a.pool, a.nodeAccounts
	}
	inventory, err := o.inventory(ctx, a.file)
	if err != nil {
		return err
	}
	found, unread := plugin.Audit(inventory), inventory.Unread
	if google != nil {
		more, skipped, err := google.Audit(ctx, inventory)
		if err != nil {
			return err
		}
		found, unread = append(found, more...), append(unread, skipped...)
		plugin.SortFindings(found)
	}
	if slices.ContainsFunc(found, func(f plugin.Finding) bool { return slices.Index(plugin.Severities(), f.Severity) <= severe }) {
		o.code = 1
	}
	return plugin.PrintFindings(o.out, found, unread, o.output, o.coloured())
}
