package web

import (
	_ "embed"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

//go:embed status.css
var styleSheet string

// statusPage is for a person with a port-forward at 3 a.m.: the state first. It
// loads itself again, without a script, unless it is asked with ?refresh=off: a
// page that changes under somebody who reads slowly, or hears it read, must let
// itself be stopped (WCAG 2.2.2).
func (s *Server) statusPage(w http.ResponseWriter, r *http.Request) {
	refresh := r.URL.Query().Get("refresh")
	if refresh != "" && refresh != "off" {
		http.Error(w, "refresh: want off, or nothing", http.StatusBadRequest)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	fmt.Fprint(w, page(s.report(), refresh != "off"))
}

func page(r report.Report, refreshes bool) html {
	title := string(r.State)
	where := "Since "
	if r.About.Node != "" {
		title += " on " + r.About.Node
		where = "On " + r.About.Node + " since "
	}
	warnings := make([]html, len(r.About.Warnings))
	for i, warning := range r.About.Warnings {
		warnings[i] = classed("p", "warning", text(warning))
	}
	var head html
	if refreshes {
		head = `<meta http-equiv="refresh" content="5">` + "\n"
	}
	return document(title, styleSheet, head,
		classed("h1", string(toneOf(r.State)), toneOf(r.State).icon(), text(string(r.State))),
		tag("p", text(r.Meaning)),
		tag("p", text(where+clock(r.Since)+". Last verdict: "+r.Why+".")),
		links(r, refreshes), join(warnings...),
		identities(r), reasons(r), probes(r.Probes), lastProbe(r), changes(r), excluded(r), about(r.About),
	)
}

func links(r report.Report, refreshes bool) html {
	var h html
	if r.Runbook != "" {
		h = link(r.Runbook, "Runbook of "+string(r.State)) + " - "
	}
	h += link("metrics", "Metrics") + " - " + link("status.json", "This page as JSON") + " - "
	if refreshes {
		return tag("p", h, text("Refreshes every 5 seconds: "), link("?refresh=off", "pause refresh"))
	}
	return tag("p", h, text("Paused at "+stamp(time.Now().UTC())+": "), link("./", "refresh every 5 seconds"))
}

func identities(r report.Report) html {
	expected := "from: " + string(r.ExpectedSource)
	if r.ExpectedRead != nil {
		expected += ", read " + age(time.Since(*r.ExpectedRead)) // a time with a date would be wider than the identity
	}
	rows := [][]string{
		row("Expected", or(r.Expected, "unknown"), expected),
		row("Observed", or(r.Observed, "none"), "answered by: "+string(r.MetadataServer)+" metadata server"),
	}
	if r.TokenExpiry != nil {
		rows = append(rows, row("Token", "expires "+clock(*r.TokenExpiry), ""))
	}
	if r.ExpectedError != "" {
		rows = append(rows, row("Error", r.ExpectedError, ""))
	}
	return join(tag("h2", text("Identity")), table(nil, rows...))
}

// reasons are the causes or the risks, with their remedies.
func reasons(r report.Report) html {
	var h html
	heading := "Likely cause"
	if r.State == identity.Match {
		heading = "Risks"
	}
	for _, c := range append(slices.Clone(r.Causes), r.Risks...) {
		h += tag("h3", text(c.Heading())) +
			tag("p", text(c.Why)) + tag("p", text(c.Remedy)+" "+link(c.Runbook, "Runbook: "+c.Title)) + commands(c.Commands)
	}
	switch {
	case h == "" && r.State == identity.Match:
		h = tag("p", text("None is known."))
	case h == "":
		h = tag("p", text("None is known by the facts at hand."))
	}
	return tag("h2", text(heading)) + h
}

// excluded is what the facts say is not the cause, and which facts are missing.
func excluded(r report.Report) html {
	var h html
	for _, g := range r.Unknown {
		h += tag("p", text(g.Fact+" "+g.Remedy)) + commands(g.Commands)
	}
	if h != "" {
		h = tag("h2", text("What is not known")) + h
	}
	var rows [][]string
	for _, c := range r.Excluded {
		rows = append(rows, row(c.Title, c.Why))
	}
	if len(rows) > 0 {
		h += tag("h2", text("Excluded causes")) + table(nil, rows...)
	}
	return h
}

// commands are lines for a shell.
func commands(lines []string) html {
	if len(lines) == 0 {
		return ""
	}
	return tag("pre", text(strings.Join(lines, "\n")))
}

func lastProbe(r report.Report) html {
	heading := "Last probe"
	if r.LastProbe != nil {
		heading += ", " + clock(*r.LastProbe)
	}
	var rows [][]string
	for _, q := range r.Requests {
		rows = append(rows, row(string(q.Endpoint), or(q.Failure, "ok"), fmt.Sprintf("%.1f ms", q.Seconds*1000), q.ServerHeader))
	}
	return join(tag("h2", text(heading)), table([]string{"Endpoint", "Result", "Time", "Server header"}, rows...))
}

func changes(r report.Report) html {
	var rows [][]string
	for _, c := range r.Changes {
		rows = append(rows, row(clock(c.At), string(c.From), string(c.To), c.Why))
	}
	return join(tag("h2", text("Changes of state")), table([]string{"When", "From", "To", "Why"}, rows...))
}

func about(a report.About) html {
	rows := [][]string{
		row("Version", a.Version),
		row("Node", or(a.Node, "unknown")),
		row("Pod", or(a.Namespace, "unknown")+"/"+or(a.Pod, "unknown")),
		row("Kubernetes ServiceAccount", or(a.ServiceAccount, "unknown")),
		row("Metadata server probed", a.MetadataHost),
	}
	for _, s := range a.Settings {
		if !s.Default {
			rows = append(rows, row(s.Name, or(s.Value, "none")))
		}
	}
	return join(tag("h2", text("This agent")), table(nil, rows...), tag("p", text("Settings that are not listed have their defaults.")))
}

func stamp(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") }

// clock is a time with its age, which is what a person wants to know.
func clock(t time.Time) string { return stamp(t) + " (" + age(time.Since(t)) + ")" }

// age says how long ago something was, or is to come: 3 min ago, in 59 min.
func age(d time.Duration) string {
	form := "%d %s ago"
	if d < 0 {
		form, d = "in %d %s", -d
	}
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf(form, d/time.Second, "s")
	case d < 2*time.Hour:
		return fmt.Sprintf(form, d/time.Minute, "min")
	case d < 2*day:
		return fmt.Sprintf(form, d/time.Hour, "h")
	}
	return fmt.Sprintf(form, d/day, "days")
}

// row is a line of a table, its first cell being what it is about.
func row(heading string, cells ...string) []string { return append([]string{heading}, cells...) }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
