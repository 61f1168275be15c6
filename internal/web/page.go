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

// statusPage is for a person with a port-forward at 3 a.m.: the state first.
func (s *Server) statusPage(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	fmt.Fprint(w, page(s.status()))
}

func page(st status) html {
	title := string(st.State)
	if st.About.Node != "" {
		title += " on " + st.About.Node
	}
	warnings := make([]html, len(st.About.Warnings))
	for i, warning := range st.About.Warnings {
		warnings[i] = classed("p", "warning", text(warning))
	}
	return document(title, styleSheet,
		classed("h1", tone(st.State), text(string(st.State))),
		tag("p", text(st.Meaning)),
		tag("p", text("Since "+clock(st.Since)+". Last verdict: "+st.Why+".")),
		join(warnings...),
		identities(st), reasons(st), lastProbe(st), changes(st), excluded(st), about(st.About),
		tag("p", link("metrics", "Metrics"), text(" - "), link("status.json", "This page as JSON")),
	)
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
			tag("p", text(c.Why)) + tag("p", text(c.Remedy)+" "+link(c.Runbook, "Runbook")) + commands(c.Commands)
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
		rows = append(rows, row(string(r.Endpoint), or(r.Failure, "ok"), fmt.Sprintf("%.1f ms", r.Seconds*1000), r.Banner))
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

// tone is the class of the state's colour.
func tone(s identity.State) string {
	switch s {
	case identity.Match:
		return "good"
	case identity.NodeFallback, identity.Mismatch:
		return "bad"
	case identity.Unbound, identity.TokenDenied, identity.Unavailable, identity.UnknownExpectation, identity.Stale, identity.Starting:
	}
	return "unsure"
}

func clock(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
