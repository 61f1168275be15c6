package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

const whatIfDoes = `Tells which nodes and Pods get the node's identity after the next restart of Cilium's agents.

Examples:
  kubectl workload-identity what-if --set bpf.masquerade=true
  kubectl workload-identity what-if --set enable-bpf-masquerade=true --set enable-host-legacy-routing=true
  kubectl workload-identity what-if --cilium-config values.yaml -o wide
  kubectl workload-identity what-if -f dump.json --set bpf.masquerade=true

Exit codes: 0 if all keep their own identity, 1 if some get the node's or Cilium's agents will not start,
2 for a wrong flag, or a cluster that cannot be asked, 3 if it cannot be told.`

func whatIf(ctx context.Context, args []string, out, problems io.Writer) int {
	var o options
	var change plugin.Change
	var set []string
	config := ""
	if code, ok := o.parse("what-if", whatIfDoes, args, problems, func(f *flag.FlagSet) {
		f.StringVar(&o.file, "f", "", dumpUsage)
		f.Func("set", "a `KEY=VALUE`: a Helm value of Cilium's chart, or a key of cilium-config; may be repeated", func(v string) error {
			set = append(set, v)
			return nil
		})
		f.StringVar(&config, "cilium-config", "", "a `file` with the ConfigMap cilium-config as it will be, or Helm values that will be set")
	}); !ok {
		return code
	}
	if len(set) == 0 && config == "" {
		return ended("what-if", 0, errors.New("it wants a change: --set KEY=VALUE or --cilium-config FILE"), problems)
	}
	if config != "" {
		text, err := os.ReadFile(config)
		if err == nil {
			err = change.ReadFile(text)
		}
		if err != nil {
			return ended("what-if", 0, fmt.Errorf("--cilium-config: %s: %w", config, err), problems)
		}
	}
	if err := change.SetValues(set); len(set) > 0 && err != nil {
		return ended("what-if", 0, fmt.Errorf("--set: %w", err), problems)
	}
	inventory, err := o.inventory(ctx)
	if err != nil {
		return ended("what-if", 0, err, problems)
	}
	forecast := plugin.WhatIf(inventory, change)
	return ended("what-if", forecast.ExitCode(), plugin.PrintForecast(out, forecast, o.output), problems)
}
