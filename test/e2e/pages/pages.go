// Package pages reads what the exporter serves.
package pages

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Metric is the value of a series, such as state{state="match"}, on the page
// /metrics: ok is false if it is not there.
func Metric(page, series string) (value float64, ok bool) {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta("workload_identity_"+series) + ` (\S+)$`).FindStringSubmatch(page)
	if m == nil {
		return 0, false
	}
	value, err := strconv.ParseFloat(m[1], 64)
	return value, err == nil
}

// Status is what /status.json says.
type Status struct {
	State    string
	Expected string
	Source   string `json:"expected_source"`
	Observed string
	Server   string `json:"metadata_server"`
	// Causes are the suspected ones, the likeliest first.
	Causes []Cause
	// Unknown are the facts that are missing.
	Unknown []struct{ Fact string }
	// Changes begin with the last one.
	Changes []Change
}

// Cause is what may explain a state.
type Cause struct{ Cause, Confidence, Why string }

// Change is one of the exporter's state.
type Change struct {
	At time.Time
	To string
}

// ParseStatus reads the page /status.json.
func ParseStatus(page string) (Status, error) {
	var s Status
	if err := json.Unmarshal([]byte(page), &s); err != nil {
		return Status{}, fmt.Errorf("read /status.json %q: %w", page, err)
	}
	return s, nil
}

// Stated are the states since the start, in the order of time.
func (s Status) Stated() []string {
	var states []string
	for _, c := range slices.Backward(s.Changes) {
		states = append(states, c.To)
	}
	return states
}
