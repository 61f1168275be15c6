package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const redactUsage = `workload-identity-exporter redact tells by which hash metrics, status, log and
Events name an identity while WI_REDACT_IDENTITIES=true: a line for each, with the
hash and the identity. The key is the agent's, so run it where an agent runs.

Usage:
  workload-identity-exporter redact IDENTITY...
  gcloud iam service-accounts list --format='value(email)' | workload-identity-exporter redact
`

// redactNames prints the hash of each name among the arguments, or else of each line of the input.
func redactNames(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "workload-identity-exporter redact: %v, see workload-identity-exporter redact -help\n", err)
		return exitUsage
	}
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		if args[0] == "-help" || args[0] == "--help" || args[0] == "-h" {
			fmt.Fprint(stdout, redactUsage)
			return exitOK
		}
		return fail(fmt.Errorf("unknown flag %q", args[0]))
	}
	// Settings that have nothing to do with the key may be wrong.
	settings, _ := config.Load()
	settings.RedactIdentities = true
	redactor, err := settings.Redactor()
	if err != nil {
		return fail(err)
	}
	names := args
	if len(args) == 0 {
		lines := bufio.NewScanner(stdin)
		for lines.Scan() {
			if name := strings.TrimSpace(lines.Text()); name != "" {
				names = append(names, name)
			}
		}
		if err := lines.Err(); err != nil {
			return fail(fmt.Errorf("read names: %w", err))
		}
	}
	for _, name := range names {
		id, err := identity.Parse(name)
		if err != nil {
			return fail(fmt.Errorf("%q is %w", identity.Shown(name), err))
		}
		fmt.Fprintln(stdout, redactor.Text(string(id)), id)
	}
	return exitOK
}
