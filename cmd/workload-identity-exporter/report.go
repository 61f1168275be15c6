package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// reportVersion is that of the JSON. It grows when a field is taken away or gets
// another meaning, and not when one is added.
const reportVersion = 1

// report is what check found out; docs/gating.md describes its JSON.
type report struct {
	Version        int             `json:"version"`
	State          identity.State  `json:"state"`
	ExitCode       int             `json:"exit_code"`
	Meaning        string          `json:"meaning"`
	Why            string          `json:"why"`
	Expected       string          `json:"expected"`
	ExpectedSource identity.Source `json:"expected_source"`
	ExpectedError  string          `json:"expected_error,omitempty"`
	Observed       string          `json:"observed"`
	MetadataServer identity.Server `json:"metadata_server"`
	// TokenExpiry is in RFC 3339, absent without a token.
	TokenExpiry *time.Time      `json:"token_expiry,omitempty"`
	Requests    []reportRequest `json:"requests"`
	// Causes explain a bad verdict, the likeliest first; Risks threaten a good one.
	Causes []reportCause `json:"causes"`
	Risks  []reportCause `json:"risks"`
	// Unknown are the facts that would have told more.
	Unknown []string `json:"unknown"`
}

type reportCause struct {
	Cause      diagnose.Cause      `json:"cause"`
	Confidence diagnose.Confidence `json:"confidence"`
	Why        string              `json:"why"`
	Remedy     string              `json:"remedy"`
	Commands   []string            `json:"commands,omitempty"`
	Runbook    string              `json:"runbook"`
}

func reportCauses(findings []diagnose.Finding) []reportCause {
	causes := []reportCause{}
	for _, f := range findings {
		causes = append(causes, reportCause{f.Cause, f.Confidence, f.Why, f.Remedy.Text, f.Remedy.Commands, f.Runbook})
	}
	return causes
}

type reportRequest struct {
	Endpoint identity.Endpoint `json:"endpoint"`
	OK       bool              `json:"ok"`
	Seconds  float64           `json:"seconds"`
	Reason   identity.Reason   `json:"reason,omitempty"`
	Failure  string            `json:"failure,omitempty"`
}

func newReport(s *agent.Snapshot) report {
	v := s.Verdict
	r := report{
		Version: reportVersion, State: v.State, ExitCode: exitCode(v.State), Meaning: v.State.Meaning(), Why: v.Why,
		Expected: s.Expectation.String(), ExpectedSource: cmp.Or(s.Expectation.Source, identity.SourceNone),
		Observed: string(v.Identity), MetadataServer: v.Server, Requests: []reportRequest{},
		Causes: reportCauses(s.Diagnosis.Suspects), Risks: reportCauses(s.Diagnosis.Risks), Unknown: []string{},
	}
	for _, gap := range s.Diagnosis.Missing {
		r.Unknown = append(r.Unknown, gap.Fact)
	}
	if s.ExpectationError != nil {
		r.ExpectedError = s.ExpectationError.Error()
	}
	if t := s.TokenExpiry.UTC(); !t.IsZero() {
		r.TokenExpiry = &t
	}
	for endpoint, q := range s.Observation.Requests() {
		if !q.Known() {
			continue
		}
		one := reportRequest{Endpoint: endpoint, OK: q.OK(), Seconds: q.Took.Seconds()}
		if q.Failure != nil {
			one.Reason, one.Failure = q.Failure.Reason, q.Failure.Error()
		}
		r.Requests = append(r.Requests, one)
	}
	return r
}

func exitCode(s identity.State) int {
	switch s {
	case identity.Match:
		return exitOK
	case identity.NodeFallback, identity.Mismatch, identity.Unbound:
		return exitWrong
	case identity.TokenDenied:
		return exitNoToken
	case identity.Unavailable, identity.UnknownExpectation, identity.Stale, identity.Starting:
	}
	return exitCannotTell
}

// print writes some lines for a person.
func (r report) print(w io.Writer, coloured bool) {
	state := string(r.State)
	if coloured {
		state = map[int]string{exitOK: "\x1b[32m", exitWrong: "\x1b[1;31m"}[r.ExitCode] + state + "\x1b[0m"
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
	line("expected", printable(expected))
	line("observed", printable(cmp.Or(r.Observed, "none")))
	line("answered", answered(r.MetadataServer))
	line("why", printable(r.Why))
	line("problem", printable(r.ExpectedError))
	for _, q := range r.Requests {
		if !q.OK {
			line("request", printable(fmt.Sprintf("%s: %s", q.Endpoint, q.Failure)))
		}
	}
	tell := func(key string, causes []reportCause) {
		for _, c := range causes {
			line(key, fmt.Sprintf("%s (%s): %s", c.Cause, c.Confidence, printable(c.Why)))
			line("remedy", printable(c.Remedy))
			for _, command := range c.Commands {
				line("", "$ "+printable(command))
			}
			line("runbook", c.Runbook)
		}
	}
	tell("cause", r.Causes)
	tell("risk", r.Risks)
	if len(r.Causes) == 0 && r.ExitCode != exitOK {
		line("cause", "not known")
		for _, fact := range r.Unknown {
			line("unknown", printable(fact))
		}
	}
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

// printable is the text without what could steer a terminal: a metadata server
// may be anybody.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
