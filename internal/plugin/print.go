package plugin

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// Formats are what -o accepts.
func Formats() []string { return []string{"table", "wide", "json", "yaml"} }

// PrintNodes writes the rows in one of the Formats. A table has colours for a terminal.
func PrintNodes(w io.Writer, rows []NodeRow, format string, coloured bool) error {
	switch format {
	case "json", "yaml":
		return object(w, struct {
			Nodes []NodeRow `json:"nodes"`
		}{rows}, format)
	case "table", "wide":
	default:
		return fmt.Errorf("-o=%q: want %s", format, strings.Join(Formats(), ", "))
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	heading := "NODE\tSTATE\tSINCE\tEXPECTED\tOBSERVED\tCAUSE"
	if coloured { // without effect, and as long as the codes below it
		heading = strings.Replace(heading, "STATE", "\x1b[39mSTATE\x1b[0m", 1)
	}
	if format == "wide" {
		heading += "\tANSWERED BY\tAGENT\tVERSION"
	}
	fmt.Fprintln(t, heading)
	for _, r := range rows {
		since := "-"
		if r.Since != nil {
			since = duration.HumanDuration(time.Since(*r.Since)) // as kubectl says it
		}
		cells := []string{r.Node, colour(r.State, coloured), since, or(r.Expected), or(r.Observed), or(r.Cause)}
		if format == "wide" {
			cells = append(cells, or(string(r.Server)), or(r.Agent), or(r.Version))
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

func object(w io.Writer, v any, format string) error {
	out, err := json.MarshalIndent(v, "", "  ")
	if err == nil && format == "yaml" {
		out, err = yaml.JSONToYAML(out)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, strings.TrimSuffix(string(out), "\n"))
	return err
}

// colour is the state in its colour. All codes have the same length, which the table
// counts as well.
func colour(s identity.State, coloured bool) string {
	if !coloured {
		return string(s)
	}
	code := "33" // cannot tell
	switch {
	case s == Silent:
	case report.ExitCode(s) == report.ExitMatch:
		code = "32"
	case report.ExitCode(s) == report.ExitWrong:
		code = "31"
	}
	return "\x1b[" + code + "m" + string(s) + "\x1b[0m"
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// PrintFindings writes the findings in one of the Formats.
func PrintFindings(w io.Writer, found []Finding, unread []string, format string) error {
	if format == "json" || format == "yaml" {
		return object(w, struct {
			Findings []Finding `json:"findings"`
			Unread   []string  `json:"unread"`
		}{found, append([]string{}, unread...)}, format)
	}
	if format == "sarif" {
		return PrintSARIF(w, found)
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if len(found) > 0 {
		fmt.Fprintln(t, "CODE\tSEVERITY\tOBJECT\tWHAT")
	}
	for _, f := range found {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Code, f.Severity, f.Object, f.What)
		if format == "wide" {
			fmt.Fprintf(t, "\t\t\tbecause: %s\n\t\t\tremedy: %s\n\t\t\tmore: %s\n", f.Evidence, f.Do, f.Link)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	counts := map[Severity]int{}
	for _, f := range found {
		counts[f.Severity]++
	}
	says := "Nothing is wrong in what was looked at."
	if len(found) > 0 {
		says = fmt.Sprintf("%d errors, %d warnings, %d for information; -o wide has the evidence and the remedies.", counts[Error], counts[Warning], counts[Info])
	}
	if len(unread) > 0 {
		says += " Nothing was read, and nothing is said, of " + strings.Join(unread, ", ") + "."
	}
	_, err := fmt.Fprintln(w, says)
	return err
}
