package report

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Text writes some lines for a person at a terminal.
func (r Report) Text(w io.Writer, coloured bool) {
	state := string(r.State)
	if coloured {
		state = map[int]string{ExitMatch: "\x1b[32m", ExitWrong: "\x1b[1;31m"}[r.ExitCode] + state + "\x1b[0m"
	}
	expected := cmp.Or(r.Expected, "unknown")
	if r.ExpectedSource != identity.SourceNone {
		expected += fmt.Sprintf(" (%s)", r.ExpectedSource)
	}
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-9s %s\n", key, value)
		}
	}
	line("verdict", state+": "+r.Meaning)
	line("expected", expected)
	line("observed", cmp.Or(r.Observed, "none"))
	line("answered", answered(r.MetadataServer))
	line("why", r.Why)
	line("problem", r.ExpectedError)
	for _, q := range r.Requests {
		if !q.OK {
			line("request", fmt.Sprintf("%s: %s", q.Endpoint, q.Failure))
		}
	}
	tell := func(key string, causes []Cause) {
		for _, c := range causes {
			if c.Confidence == diagnose.Possible {
				line("possible", fmt.Sprintf("%s (%s)", c.Title, c.Cause))
				line("", c.Why)
				for _, command := range c.Commands[:min(1, len(c.Commands))] {
					line("", "$ "+command)
				}
				line("", "see "+c.Runbook)
				continue
			}
			line(key, c.Heading())
			line("", c.Why)
			line("remedy", c.Remedy)
			for _, command := range c.Commands {
				line("", "$ "+command)
			}
			line("runbook", c.Runbook)
		}
	}
	tell("cause", r.Causes)
	tell("risk", r.Risks)
	if r.Runbook == "" {
		return
	}
	if len(r.Causes) == 0 {
		line("cause", "not known")
	}
	if len(r.Causes) == 0 || r.Causes[0].Confidence == diagnose.Possible {
		for _, g := range r.Unknown {
			line("unknown", g.Fact+" "+g.Remedy)
			if len(g.Commands) == 1 { // the others are permissions
				line("", "$ "+g.Commands[0])
			}
		}
	}
	line("runbook", r.Runbook)
}

func answered(s identity.Server) string {
	switch s {
	case identity.ServerGKE:
		return "GKE's metadata server"
	case identity.ServerVM:
		return "the VM's metadata server, to which every Pod is the node"
	case identity.ServerUnknown:
	}
	return "a server that could not be told"
}

// few are the first of many identities, as they are written by comma.
func few(identities string) string {
	const longest = 256
	if len(identities) <= longest {
		return identities
	}
	cut := strings.LastIndexByte(identities[:longest], ',')
	return identities[:max(cut, 0)] + ", and others"
}

// longestSummary is what the API server accepts as the message of an Event.
const longestSummary = 1024

// Summary says what is stated and why, for an Event and for the log.
func (r Report) Summary() string {
	says := []string{r.Meaning}
	switch r.State {
	case identity.Match:
	case identity.Stale:
		says = append(says, fmt.Sprintf("It was %s: %s.", r.verdict, r.Why))
	default:
		says = append(says, fmt.Sprintf("Expected %q, got %q from the metadata server %q: %s.", few(r.Expected), r.Observed, r.MetadataServer, r.Why))
	}
	for _, c := range r.Causes {
		if c.Confidence == diagnose.Possible {
			says = append(says, fmt.Sprintf("Possible: %s (%s).", c.Title, c.Cause))
			continue
		}
		says = append(says, fmt.Sprintf("Cause (%s): %s (%s). %s %s", c.Confidence.Word(), c.Title, c.Cause, c.Why, c.Remedy))
	}
	summary := strings.Join(says, " ")
	if len(summary) > longestSummary {
		summary = strings.ToValidUTF8(summary[:longestSummary-3], "") + "..."
	}
	return summary
}
