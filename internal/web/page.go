package web

import (
	_ "embed"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
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
	fmt.Fprint(w, page(s.status(), refresh != "off"))
}

func page(st status, refreshes bool) html {
	title := string(st.State)
	where := "Since "
	if st.About.Node != "" {
		title += " on " + st.About.Node
		where = "On " + st.About.Node + " since "
	}
	warnings := make([]html, len(st.About.Warnings))
	for i, warning := range st.About.Warnings {
		warnings[i] = classed("p", "warning", text(warning))
	}
	var head html
	if refreshes {
		head = `<meta http-equiv="refresh" content="5">` + "\n"
	}
	return document(title, styleSheet, head,
		classed("h1", string(toneOf(st.State)), toneOf(st.State).icon(), text(string(st.State))),
		tag("p", text(st.Meaning)),
		tag("p", text(where+clock(st.Since)+". Last verdict: "+st.Why+".")),
		links(st, refreshes), join(warnings...),
		identities(st), reasons(st), probes(st.Probes), lastProbe(st), changes(st), excluded(st), about(st.About),
	)
}

func links(st status, refreshes bool) html {
	var h html
	if st.Runbook != "" {
		h = link(st.Runbook, "Runbook of "+string(st.State)) + " - "
	}
	h += link("metrics", "Metrics") + " - " + link("status.json", "This page as JSON") + " - "
	if refreshes {
		return tag("p", h, text("It loads itself again every 5 seconds: "), link("?refresh=off", "stop that"))
	}
	return tag("p", h, text("It shows "+clock(time.Now().UTC())+": "), link("./", "load it again every 5 seconds"))
}

func identities(st status) html {
	expected := "from: " + string(st.Source)
	if st.ExpectationRead != nil {
		expected += ", read " + clock(*st.ExpectationRead)
	}
	rows := []html{
		row("Expected", or(st.Expected, "unknown"), expected),
		row("Observed", or(st.Observed, "none"), "answered by: "+string(st.Server)+" metadata server"),
	}
	if st.TokenExpiry != nil {
		rows = append(rows, row("Token", "expires "+clock(*st.TokenExpiry), ""))
	}
	if st.ExpectationErr != "" {
		rows = append(rows, row("Error", st.ExpectationErr, ""))
	}
	return join(tag("h2", text("Identity")), table(nil, rows...))
}

// reasons are the causes or the risks, with their remedies.
func reasons(st status) html {
	var h html
	heading := "Likely cause"
	if st.State == identity.Match {
		heading = "Risks"
	}
	for _, c := range append(slices.Clone(st.Causes), st.Risks...) {
		h += tag("h3", text(string(c.Cause)+" ("+strings.ReplaceAll(string(c.Confidence), "_", " ")+")")) +
			tag("p", text(c.Why)) + tag("p", text(c.Remedy)+" "+link(c.Runbook, "Runbook of "+string(c.Cause))) + commands(c.Commands)
	}
	switch {
	case h == "" && st.State == identity.Match:
		h = tag("p", text("None is known."))
	case h == "":
		h = tag("p", text("None is known by the facts at hand."))
	}
	return tag("h2", text(heading)) + h
}

// excluded is what the facts say is not the cause, and which facts are missing.
func excluded(st status) html {
	var h html
	for _, g := range st.Unknown {
		h += tag("p", text(g.Fact+" "+g.Remedy)) + commands(g.Commands)
	}
	if h != "" {
		h = tag("h2", text("What is not known")) + h
	}
	var rows []html
	for _, c := range st.Excluded {
		rows = append(rows, row(string(c.Cause), c.Why))
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

func lastProbe(st status) html {
	heading := "Last probe"
	if st.LastProbe != nil {
		heading += ", " + clock(*st.LastProbe)
	}
	var rows []html
	for _, r := range st.Requests {
		rows = append(rows, row(string(r.Endpoint), or(r.Failure, "ok"), fmt.Sprintf("%.1f ms", r.Seconds*1000), r.ServerHeader))
	}
	return join(tag("h2", text(heading)), table([]string{"Endpoint", "Result", "Time", "Server header"}, rows...))
}

func changes(st status) html {
	var rows []html
	for _, c := range st.Changes {
		rows = append(rows, row(clock(c.At), string(c.From), string(c.To), c.Why))
	}
	return join(tag("h2", text("Changes of state")), table([]string{"When", "From", "To", "Why"}, rows...))
}

func about(a About) html {
	rows := []html{
		row("Version", a.Version),
		row("Node", or(a.Node, "unknown")),
		row("Pod", or(a.Namespace, "unknown")+"/"+or(a.Pod, "unknown")),
		row("Kubernetes ServiceAccount", or(a.ServiceAccount, "unknown")),
		row("Metadata server probed", a.MetadataHost),
	}
	for _, s := range a.Settings {
		rows = append(rows, row(s.Name, s.Value))
	}
	return join(tag("h2", text("This agent")), table(nil, rows...))
}

func clock(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
