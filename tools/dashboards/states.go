package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// state is one that a node can be in.
type state struct {
	name, colour string
	// rank is higher the worse the state is: graphs need numbers, and tables sort.
	rank    int
	runbook string
}

// The colours differ in hue for most people, and in brightness for all: brighter and
// darker ones alternate, whatever is wrong is darker than what is right, all of them
// can be told from a white and from a black page, and Grafana's text on them can be
// read. A test measures it.
var states = []state{
	{"node_fallback", "#D8293A", 9, "WorkloadIdentityNodeFallback"},
	{"mismatch", "#723900", 8, "WorkloadIdentityMismatch"},
	{"unbound", "#8F6A00", 7, "WorkloadIdentityUnbound"},
	{"token_denied", "#3F4F00", 6, "WorkloadIdentityTokenDenied"},
	{"unavailable", "#9C4BC4", 5, "WorkloadIdentityMetadataUnavailable"},
	{"unknown_expectation", "#782466", 4, "WorkloadIdentityExpectationUnknown"},
	{"stale", "#007D8F", 3, "WorkloadIdentityProbeStale"},
	{"starting", "#434750", 2, ""},
	{"match", "#7CCBF5", 1, ""},
}

// notRight are all states but match, which is the last.
var notRight = states[:len(states)-1]

// The colours of what is not a state. What is right has none: only what is wrong is
// to be seen.
const (
	good    = "transparent"
	warning = "#F0B232"
	bad     = "#D8293A"
	noAgent = "#6C7078"
)

// ranks is a query that gives each series of the states its rank. The last part
// of the selector is left open: ranks("metric{state=%q}").
func ranks(selector string, of []state) string {
	var lines []string
	for _, s := range of {
		lines = append(lines, fmt.Sprintf("  %d * "+selector, s.rank, s.name))
	}
	return strings.Join(lines, "\nor\n")
}

// byRank shows ranks as states, and 0 as an agent that is gone.
func byRank() []Mapping {
	m := Mapping{Type: "value", Options: map[string]Result{"0": {Text: "no agent", Color: noAgent, Index: len(states)}}}
	for i, s := range states {
		m.Options[strconv.Itoa(s.rank)] = Result{Text: s.name, Color: s.colour, Index: i}
	}
	return []Mapping{m}
}

// byState gives the series or columns of states their colour.
func byState() []Override {
	var overrides []Override
	for _, s := range states {
		overrides = append(overrides, named(s.name, Property{"color", Color{"fixed", s.colour}}))
	}
	return overrides
}

// withRunbooks gives the series of states the runbook of each, for links. What has none
// leads to the list of all.
func withRunbooks(expr string) string {
	expr = fmt.Sprintf("label_replace(\n%s,\n\"runbook\", \"../README\", \"\", \"\")", expr)
	for _, s := range states {
		if s.runbook != "" {
			expr = fmt.Sprintf("label_replace(\n%s,\n\"runbook\", %q, \"state\", %q)", expr, s.runbook, s.name)
		}
	}
	return expr
}

// byCause shows causes by what people are told of them, in the words of the status
// page. none is shown where nothing is suspected.
func byCause(words func(diagnose.Guide) string, none string) []Mapping {
	m := Mapping{Type: "value", Options: map[string]Result{"none": {Text: none}}}
	for i, g := range diagnose.Guides() {
		m.Options[string(g.Cause)] = Result{Text: words(g), Index: i + 1}
	}
	return []Mapping{m}
}

func title(g diagnose.Guide) string { return g.Title }

func remedy(g diagnose.Guide) string { return g.Remedy }
