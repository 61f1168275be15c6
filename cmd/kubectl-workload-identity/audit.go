package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

const auditDoes = `Looks for what is set up wrongly: ServiceAccounts, Pods with their network policies, nodes, and Cilium's
settings. With --iam it asks Google as well, by your Application Default Credentials.

Examples:
  kubectl workload-identity audit -o wide
  kubectl workload-identity audit -n shop --fail-on warning
  kubectl workload-identity audit --iam --node-service-account gke-nodes@my-project.iam.gserviceaccount.com
  kubectl workload-identity audit -o sarif > findings.sarif
  kubectl get serviceaccounts,pods,nodes,networkpolicies -A -o json | kubectl workload-identity audit -f -

Exit codes: 0 without and 1 with a finding of --fail-on or worse, 2 for a wrong flag, or what cannot be asked.`

const dumpUsage = "a `file` with the output of kubectl get serviceaccounts,pods,nodes,networkpolicies -A -o json, - for standard input, instead of a cluster"

func audit(ctx context.Context, args []string, out, problems io.Writer) int {
	var o options
	var a auditOptions
	if code, ok := o.parse("audit", auditDoes, args, problems, func(f *flag.FlagSet) {
		f.StringVar(&o.file, "f", "", dumpUsage)
		f.StringVar(&a.failOn, "fail-on", string(plugin.Error), "the least `severity` that ends in exit code 1: error, warning, info, or never")
		f.BoolVar(&a.iam, "iam", false, "ask Google about the accounts, by your Application Default Credentials")
		f.StringVar(&a.pool, "workload-pool", "", "with --iam, the cluster's workload `pool` (default PROJECT.svc.id.goog of its nodes)")
		f.Func("node-service-account", "with --iam, the `email` of the account of a node pool, to see what a fallback to it gives; may be repeated", func(v string) error {
			a.nodeAccounts = append(a.nodeAccounts, v)
			return nil
		})
	}); !ok {
		return code
	}
	code, err := o.audit(ctx, a, out)
	return ended("audit", code, err, problems)
}

type auditOptions struct {
	failOn, pool string
	iam          bool
	nodeAccounts []string
}

func (o options) audit(ctx context.Context, a auditOptions, out io.Writer) (int, error) {
	severe := slices.Index(plugin.Severities(), plugin.Severity(a.failOn))
	if severe < 0 && a.failOn != "never" {
		return 0, fmt.Errorf("--fail-on=%q: want error, warning, info or never", a.failOn)
	}
	var google *plugin.IAM
	if a.iam {
		var err error
		if google, err = plugin.NewIAM(ctx); err != nil {
			return 0, fmt.Errorf("--iam: %w", err)
		}
		google.Pool, google.NodeAccounts = a.pool, a.nodeAccounts
	}
	inventory, err := o.inventory(ctx)
	if err != nil {
		return 0, err
	}
	found, unread := plugin.Audit(inventory), inventory.Unread
	if google != nil {
		more, skipped, err := google.Audit(ctx, inventory)
		if err != nil {
			return 0, err
		}
		found, unread = append(found, more...), append(unread, skipped...)
		plugin.SortFindings(found)
	}
	if err := plugin.PrintFindings(out, found, unread, o.output); err != nil {
		return 0, err
	}
	if slices.ContainsFunc(found, func(f plugin.Finding) bool { return slices.Index(plugin.Severities(), f.Severity) <= severe }) {
		return 1, nil
	}
	return 0, nil
}
