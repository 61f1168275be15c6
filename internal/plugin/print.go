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
	heading := "NODE\t" + painted("STATE", plain, coloured) + "\tSINCE\tEXPECTED\tOBSERVED\tCAUSE"
	if format == "wide" {
		heading += "\tANSWERED BY\tAGENT\tVERSION"
	}
	fmt.Fprintln(t, heading)
	for _, r := range rows {
		since := "-"
		if r.Since != nil {
			since = duration.HumanDuration(time.Since(*r.Since)) // as kubectl says it
		}
		cells := []string{r.Node, painted(string(r.State), colour(r.State), coloured), since, or(r.Expected), or(r.Observed), or(r.Cause)}
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

// The colours of a terminal.
const wrong, right, doubtful, plain = "31", "32", "33", "39"

// colour is the one of a state.
func colour(s identity.State) string {
	switch {
	case s == Silent:
	case report.ExitCode(s) == report.ExitMatch:
		return right
	case report.ExitCode(s) == report.ExitWrong:
		return wrong
	}
	return doubtful
}

// painted is the text in a colour. All codes have the same length, which a table counts
// as well, so that each cell of a column needs one.
func painted(text, code string, coloured bool) string {
	if !coloured {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func many(count int, noun string) string {
	if count == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", count, noun)
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// PrintFindings writes the findings in one of the Formats. A table has colours for a terminal.
func PrintFindings(w io.Writer, found []Finding, unread []string, format string, coloured bool) error {
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
		fmt.Fprintf(t, "CODE\t%s\tOBJECT\tWHAT\n", painted("SEVERITY", plain, coloured))
	}
	for _, f := range found {
		code := map[Severity]string{Error: wrong, Warning: doubtful, Info: plain}[f.Severity]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Code, painted(string(f.Severity), code, coloured), f.Object, f.What)
		if format == "wide" {
			fmt.Fprintf(t, "\t%[1]s\t\tbecause: %[2]s\n\t%[1]s\t\tremedy: %[3]s\n\t%[1]s\t\tmore: %[4]s\n", painted("", plain, coloured), f.Evidence, f.Do, f.Link)
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
		says = fmt.Sprintf("%s, %s, %d for information; -o wide has the evidence and the remedies.", many(counts[Error], "error"), many(counts[Warning], "warning"), counts[Info])
	}
	if len(unread) > 0 {
		says += " Nothing was read, and nothing is said, of " + strings.Join(unread, ", ") + "."
	}
	_, err := fmt.Fprintln(w, says)
	return err
}
