package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/app"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// check judges once, or until it matches, and returns the exit code.
func check(ctx context.Context, args []string, environment config.Environment, stdout, stderr io.Writer) int {
	o, err := parseCheck(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, checkUsage)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "workload-identity-exporter check: %v, see workload-identity-exporter check -help\n", err)
		return exitUsage
	}
	settings, err := config.Load()
	redactor, _ := settings.Redactor() // Load has checked its key
	stderr = redactor.Writer(stderr)
	if err != nil {
		fmt.Fprintf(stderr, "workload-identity-exporter check: the configuration is wrong, see workload-identity-exporter -help\n%v\n", err)
		return exitUsage
	}
	if o.expect != nil {
		settings.ExpectedEmails = o.expect
		if _, err := settings.Expectation(); err != nil {
			fmt.Fprintf(stderr, "workload-identity-exporter check: -expect %s: %v\n", strings.Join(o.expect, ","), err)
			return exitUsage
		}
	}
	c, err := app.NewCheck(app.Options{
		Config: settings, Environment: environment, Build: buildInfo(), Logger: slog.New(slog.DiscardHandler),
		WithoutKubernetes: o.expect != nil && !o.risks, // any Pod may ask; few may read settings
		Gate:              o.expect != nil, Risks: o.risks, Redactor: redactor,
	})
	if err != nil {
		fmt.Fprintf(stderr, "workload-identity-exporter check: %v\n", err)
		return report.ExitInconclusive
	}
	for _, w := range c.Warnings() {
		fmt.Fprintln(stderr, "warning:", w)
	}
	last := ""
	r := c.Run(ctx, o.wait, func(r report.Report) {
		if now := fmt.Sprintf("%s, %s", r.State, r.Why); now != last {
			fmt.Fprintf(stderr, "waiting for a match: %s\n", now)
			last = now
		}
	})
	if o.json {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		_ = e.Encode(r) // fails only if nobody reads it
	} else {
		r.Text(stdout, colours(stdout, environment))
	}
	return r.ExitCode
}

type checkOptions struct {
	expect []string // nil: what the configuration says
	risks  bool
	wait   time.Duration
	json   bool
}

func parseCheck(args []string) (checkOptions, error) {
	var o checkOptions
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Func("expect", "", func(s string) error {
		o.expect = append(o.expect, strings.Split(s, ",")...)
		return nil
	})
	flags.BoolVar(&o.risks, "risks", false, "")
	flags.DurationVar(&o.wait, "wait", 0, "")
	output := flags.String("output", "text", "")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.json = *output == "json"
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	case *output != "json" && *output != "text":
		return o, fmt.Errorf("-output %q: want text or json", *output)
	case o.wait < 0:
		return o, fmt.Errorf("-wait %s: want a duration from 0s up, such as 60s", o.wait)
	}
	return o, nil
}

// colours reports whether the output is a terminal of somebody who wants colours.
func colours(w io.Writer, e config.Environment) bool {
	f, ok := w.(*os.File)
	if !ok || e["NO_COLOR"] != "" || e["TERM"] == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

const checkUsage = `workload-identity-exporter check asks the metadata server once which Google
identity this Pod gets, and whether it is the one that it should get. As an init
container it keeps a Pod from starting with the identity of its node.

Usage:
  workload-identity-exporter check [-expect EMAIL] [-wait DURATION] [-risks] [-output text|json]

  -expect EMAIL    the identity that is right; several separated by commas, or the
                   flag several times. It needs no access to the API server.
                   Default: WI_EXPECTED_EMAILS, or else the annotation of the
                   Pod's own Kubernetes ServiceAccount
  -wait DURATION   try again until it matches, for so long at most (default 0s)
  -risks           show what threatens a match, too, such as a setting that the next
                   restart of Cilium brings into effect: the check before a change.
                   It reads the settings of the cluster, as far as it is allowed
  -output FORMAT   text or json (default text)

Exit codes:
  0  it matches, and a token is issued for it
  1  a wrong identity: node_fallback, mismatch or unbound
  2  a wrong flag or setting
  3  it cannot be told: unavailable, unknown_expectation or starting
  4  the identity is right, and IAM refuses a token for it: token_denied

The other settings are the agent's, see workload-identity-exporter -help.
`
