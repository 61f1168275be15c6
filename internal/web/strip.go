package web

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// maxFailures is how many lines tell in words of the probes that were no match.
const maxFailures = 20

// probes are the last ones: a mark for each, the oldest on the left, and those
// that were no match in words.
func probes(kept []report.Probe) html {
	heading := tag("h2", text("Last probes"))
	if len(kept) == 0 {
		return heading + tag("p", text("None yet."))
	}
	var marks html
	for _, p := range kept {
		if p.Dropped > 0 {
			marks += mark("gap", fmt.Sprintf("%d not kept", p.Dropped))
		}
		marks += mark(string(toneOf(p.State)), stamp(p.At)+" "+string(p.State))
	}
	says := summary(kept)
	// A screen reader says one sentence instead of a hundred marks. The others can
	// read it below, with what the marks look like.
	return heading +
		`<div class="strip" role="img" aria-label="` + text(says) + `">` + marks + "</div>\n" +
		`<p aria-hidden="true">` + text(says) + "</p>\n" +
		`<p aria-hidden="true" class="legend">` + mark("good", "") + text(" match ") + mark("unsure", "") + text(" cannot tell, or no token ") +
		mark("bad", "") + text(" a wrong identity ") + mark("gap", "") + text(" not kept; the newest is on the right") + "</p>\n" +
		failures(kept)
}

func mark(class, title string) html {
	h := `<i class="` + text(class) + `"`
	if title != "" {
		h += ` title="` + text(title) + `"`
	}
	return h + "></i>"
}

// summary tells how many probes were in which state.
func summary(kept []report.Probe) string {
	count, dropped := map[identity.State]int{}, 0
	last := ""
	for _, p := range kept {
		count[p.State]++
		dropped += p.Dropped
		if p.State != identity.Match {
			last = clock(p.At)
		}
	}
	var counts []string
	for _, s := range slices.Backward(identity.States()) { // match first
		if n := count[s]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, s))
		}
	}
	says := fmt.Sprintf("Last %d probes, each as it was judged alone: %s.", len(kept), strings.Join(counts, ", "))
	if len(kept) == 1 {
		says = "Only one probe yet: " + strings.Join(counts, ", ") + "."
	}
	if last != "" {
		says += " The last one that was no match was at " + last + "."
	}
	if dropped > 0 {
		says += fmt.Sprintf(" Of all since the start %d are not kept: old matches go first.", dropped)
	}
	return says
}

// failures are the last probes that were no match, the newest first; those in a
// row that say the same are one line.
func failures(kept []report.Probe) html {
	var rows [][]string
	for end := len(kept); end > 0 && len(rows) < maxFailures; {
		last, first := kept[end-1], end-1
		for first > 0 && kept[first].Dropped == 0 && kept[first-1].State == last.State && failed(kept[first-1]) == failed(last) {
			first--
		}
		if last.State != identity.Match {
			rows = append(rows, row(clock(last.At), strconv.Itoa(end-first), string(last.State), failed(last)))
		}
		end = first
	}
	if len(rows) == 0 {
		return ""
	}
	return table([]string{"No match, last at", "Probes in a row", "State", "Failed requests"}, rows...)
}

// failed lists the requests that failed.
func failed(p report.Probe) string {
	var all []string
	for _, e := range identity.Endpoints() {
		if reason := p.Failures[e]; reason != "" {
			all = append(all, string(e)+": "+string(reason))
		}
	}
	return or(strings.Join(all, ", "), "none")
}
