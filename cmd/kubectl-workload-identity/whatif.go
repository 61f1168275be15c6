package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

func (o *options) whatIf() *cobra.Command {
	var set []string
	file, config := "", ""
	c := o.command(cobra.Command{
		Use: "what-if", Short: "What a change of Cilium's settings will do",
		Long: `Tells which nodes and Pods get the node's identity after the next restart of Cilium's agents.

Exit codes: 0 if all keep their own identity, 1 if some get the node's or Cilium's agents will not start,
2 for a wrong flag, or a cluster that cannot be asked, 3 if it cannot be told.`,
		Example: `  kubectl workload-identity what-if --set bpf.masquerade=true
  kubectl workload-identity what-if --set enable-bpf-masquerade=true --set enable-host-legacy-routing=true
  kubectl workload-identity what-if --cilium-config values.yaml -o wide
  kubectl workload-identity what-if -f dump.json --set bpf.masquerade=true`,
		RunE: func(c *cobra.Command, _ []string) error {
			change, err := changed(set, config)
			if err != nil {
				return err
			}
			inventory, err := o.inventory(c.Context(), file)
			if err != nil {
				return err
			}
			forecast := plugin.WhatIf(inventory, change)
			o.code = forecast.ExitCode()
			return plugin.PrintForecast(o.out, forecast, o.output)
		},
	})
	dumpFlag(c, &file)
	c.Flags().StringArrayVar(&set, "set", nil, "a `KEY=VALUE`: a Helm value of Cilium's chart, or a key of cilium-config; may be repeated")
	c.Flags().StringVar(&config, "cilium-config", "", "a `file` with the ConfigMap cilium-config as it will be, or Helm values that will be set")
	return c
}

func changed(set []string, config string) (change plugin.Change, err error) {
	if len(set) == 0 && config == "" {
		return change, errors.New("it wants a change: --set KEY=VALUE or --cilium-config FILE")
	}
	if config != "" {
		text, err := os.ReadFile(config)
		if err == nil {
			err = change.ReadFile(text)
		}
		if err != nil {
			return change, fmt.Errorf("--cilium-config: %s: %w", config, err)
		}
	}
	if len(set) > 0 {
		if err := change.SetValues(set); err != nil {
			return change, fmt.Errorf("--set: %w", err)
		}
	}
	return change, nil
}
