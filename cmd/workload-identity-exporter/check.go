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

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// check judges once, or until it matches, and returns the exit code.
func check(ctx context.Context, args []string, stdout, stderr io.Writer) int {
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
	p, err := assemble(settings, exporter.NewCounters(), slog.New(slog.DiscardHandler))
	if err != nil {
		fmt.Fprintf(stderr, "workload-identity-exporter check: %v\n", err)
		return report.ExitInconclusive
	}
	if o.expect != nil {
		p.options.ClusterSettings = nil // any Pod may ask; few may read settings
	}
	for _, w := range p.warnings {
		fmt.Fprintln(stderr, "warning:", w)
	}
	r := report.New(wait(ctx, o.wait, p.options, stderr), aboutOf(settings, p))
	if o.json {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		_ = e.Encode(r) // fails only if nobody reads it
	} else {
		r.Text(stdout, colours(stdout))
	}
	return r.ExitCode
}

// wait checks until it matches or the time is over, and tells of each change.
func wait(ctx context.Context, longest time.Duration, o agent.Options, progress io.Writer) *agent.Snapshot {
	const most = 5 * time.Second // between two checks
	end := time.Now().Add(longest)
	last := ""
	for pause := time.Second; ; pause = min(2*pause, most) {
		s := agent.Check(ctx, o)
		if s.Verdict.State == identity.Match || ctx.Err() != nil || !time.Now().Add(pause).Before(end) {
			return s
		}
		if now := fmt.Sprintf("%s, %s", s.Verdict.State, s.Verdict.Why); now != last {
			fmt.Fprintf(progress, "waiting for a match: %s\n", now)
			last = now
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

type checkOptions struct {
	expect []string // nil: what the configuration says
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
func colours(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

const checkUsage = `workload-identity-exporter check asks the metadata server once which Google
identity this Pod gets, and whether it is the one that it should get. As an init
container it keeps a Pod from starting with the identity of its node.

Usage:
  workload-identity-exporter check [-expect EMAIL] [-wait DURATION] [-output text|json]

  -expect EMAIL    the identity that is right; several separated by commas, or the
                   flag several times. It needs no access to the API server.
                   Default: WI_EXPECTED_EMAILS, or else the annotation of the
                   Pod's own Kubernetes ServiceAccount
  -wait DURATION   try again until it matches, for so long at most (default 0s)
  -output FORMAT   text or json (default text)

Exit codes:
  0  it matches, and a token is issued for it
  1  a wrong identity: node_fallback, mismatch or unbound
  2  a wrong flag or setting
  3  it cannot be told: unavailable, unknown_expectation or starting
  4  the identity is right, and IAM refuses a token for it: token_denied

The other settings are the agent's, see workload-identity-exporter -help.
`
