package web_test

import (
	"encoding/json"
	"errors"
	stdhtml "html"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/web"
)

// noon is when the first probe of these tests was.
var noon = time.Date(2026, 11, 5, 12, 0, 0, 0, time.UTC)

// showing serves a snapshot, which is old, and so in the state stale.
func showing(t *testing.T, s agent.Snapshot) *site {
	t.Helper()
	return serve(t, nil, func(o *web.Options) { o.Snapshot = func() *agent.Snapshot { return &s } })
}

// probed are probes of these states, ten seconds apart.
func probed(states ...identity.State) []agent.Probe {
	var probes []agent.Probe
	for i, s := range states {
		probes = append(probes, agent.Probe{At: noon.Add(time.Duration(i) * 10 * time.Second), State: s})
	}
	return probes
}

// strip are the marks, by class, and the label of the strip on the page.
func strip(t *testing.T, page string) (label string, classes, titles []string) {
	t.Helper()
	found := regexp.MustCompile(`<div class="strip" role="img" aria-label="([^"]+)">(.*)</div>`).FindStringSubmatch(page)
	if found == nil {
		t.Fatalf("no strip is on the page:\n%s", page)
	}
	for _, m := range regexp.MustCompile(`<i class="([a-z]+)" title="([^"]+)"></i>`).FindAllStringSubmatch(found[2], -1) {
		classes, titles = append(classes, m[1]), append(titles, m[2])
	}
	return stdhtml.UnescapeString(found[1]), classes, titles
}

// failures are the lines about probes that were no match.
func failures(page string) []string {
	_, page, _ = strings.Cut(page, "No match, last at")
	page, _, _ = strings.Cut(page, "</table>")
	var lines []string
	for _, m := range regexp.MustCompile(`<th scope="row" [^>]*>(.*)</th><td [^>]*>(.*)</td><td [^>]*>(.*)</td><td [^>]*>(.*)</td></tr>`).FindAllStringSubmatch(page, -1) {
		lines = append(lines, ageless(strings.Join(m[1:], " ")))
	}
	return lines
}

// ageless is the text without how long ago things were.
func ageless(text string) string {
	return regexp.MustCompile(` \(\d+ \w+ ago\)`).ReplaceAllString(text, "")
}

func TestTimesHaveAnAge(t *testing.T) {
	now := time.Now()
	ages := map[string]time.Duration{"1 min ago": 90 * time.Second, "110 min ago": 110*time.Minute + 30*time.Second, "3 h ago": 3*time.Hour + time.Minute, "3 days ago": 73 * time.Hour}
	snapshot := agent.Snapshot{TokenExpiry: now.Add(59*time.Minute + 30*time.Second)}
	for _, d := range ages {
		snapshot.Changes = append(snapshot.Changes, agent.Change{At: now.Add(-d)})
	}
	_, page := showing(t, snapshot).get(t, "/", "")
	for says, d := range ages {
		if want := now.Add(-d).UTC().Format("15:04:05 MST") + " (" + says + ")"; !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if want := "(in 59 min)"; !strings.Contains(page, want) {
		t.Errorf("the page lacks the time %q that is left to the token", want)
	}
}

func TestTheStripHasAMarkForEachProbeAndEachHole(t *testing.T) {
	kept := probed(identity.Match, identity.NodeFallback, identity.Unavailable, identity.Unbound, identity.Match)
	kept[0].Dropped, kept[3].Dropped = 7, 360
	kept[2].Failures = map[identity.Endpoint]identity.Reason{identity.EndpointEmail: identity.Timeout, identity.EndpointServer: identity.ServerError}
	s := showing(t, agent.Snapshot{Probes: kept})
	_, page := s.get(t, "/", "")
	label, classes, titles := strip(t, page)
	if want := []string{"gap", "good", "bad", "unsure", "gap", "bad", "good"}; !slices.Equal(classes, want) {
		t.Errorf("marks %v, want %v: the oldest first", classes, want)
	}
	if want := []string{
		"7 not kept", "2026-11-05 12:00:00 UTC match", "2026-11-05 12:00:10 UTC node_fallback", "2026-11-05 12:00:20 UTC unavailable",
		"360 not kept", "2026-11-05 12:00:30 UTC unbound", "2026-11-05 12:00:40 UTC match",
	}; !slices.Equal(titles, want) {
		t.Errorf("titles %q, want %q", titles, want)
	}
	if want := "Last 5 probes, each as it was judged alone: 2 match, 1 unavailable, 1 unbound, 1 node_fallback." +
		" The last one that was no match was at 2026-11-05 12:00:30 UTC. Of all since the start 367 are not kept: old matches go first."; ageless(label) != want {
		t.Errorf("a screen reader says %q, want %q", label, want)
	}
	if got, want := failures(page), []string{
		"2026-11-05 12:00:30 UTC 1 unbound none", "2026-11-05 12:00:20 UTC 1 unavailable email: timeout, server: server_error", "2026-11-05 12:00:10 UTC 1 node_fallback none",
	}; !slices.Equal(got, want) {
		t.Errorf("failed %q, want %q: the newest first", got, want)
	}

	var status struct {
		Probes []struct {
			At       time.Time
			State    identity.State
			Failures map[string]string
			Dropped  int `json:"dropped_before"`
		}
	}
	_, body := s.get(t, "/status.json", "")
	if err := json.Unmarshal([]byte(body), &status); err != nil {
		t.Fatal(err)
	}
	if len(status.Probes) != len(kept) {
		t.Fatalf("%d probes are in status.json, want %d", len(status.Probes), len(kept))
	}
	for i, p := range status.Probes {
		if !p.At.Equal(kept[i].At) || p.State != kept[i].State || p.Dropped != kept[i].Dropped {
			t.Errorf("status.json has the probe %+v, want %+v", p, kept[i])
		}
	}
	if got, want := status.Probes[2].Failures, map[string]string{"email": "timeout", "server": "server_error"}; !reflect.DeepEqual(got, want) {
		t.Errorf("status.json has the failures %v, want %v", got, want)
	}
}

// An outage is one line, and a hundred blips are not a hundred.
func TestFailuresInARowAreOneLineAndThereAreNotTooMany(t *testing.T) {
	outage := probed(slices.Repeat([]identity.State{identity.Unavailable}, 100)...)
	outage[70].Dropped = 1                                                                                // a match was between them
	outage[80].Failures = map[identity.Endpoint]identity.Reason{identity.EndpointEmail: identity.Timeout} // and another failure
	s := showing(t, agent.Snapshot{Probes: outage})
	_, page := s.get(t, "/", "")
	if got, want := failures(page), []string{
		"2026-11-05 12:16:30 UTC 19 unavailable none", "2026-11-05 12:13:20 UTC 1 unavailable email: timeout",
		"2026-11-05 12:13:10 UTC 10 unavailable none", "2026-11-05 12:11:30 UTC 70 unavailable none",
	}; !slices.Equal(got, want) {
		t.Errorf("failed %q, want %q", got, want)
	}
	if _, classes, _ := strip(t, page); len(classes) != 101 {
		t.Errorf("%d marks, want 100 and the hole", len(classes))
	}
	_, page = showing(t, agent.Snapshot{Probes: probed(slices.Repeat([]identity.State{identity.Unavailable, identity.Match}, 50)...)}).get(t, "/", "")
	if got := failures(page); len(got) != 20 || got[0] != "2026-11-05 12:16:20 UTC 1 unavailable none" {
		t.Errorf("%d failures are listed, from %q on, want the last 20", len(got), got)
	}
}

func TestWithoutAProbeThereIsNoStrip(t *testing.T) {
	s := serve(t, nil, nil)
	_, page := s.get(t, "/", "")
	if !strings.Contains(page, "<h2>Last probes</h2>\n<p>None yet.</p>") || strings.Contains(page, `class="strip"`) {
		t.Errorf("no probe was made, and the page is\n%s", page)
	}
	if _, body := s.get(t, "/status.json", ""); !strings.Contains(body, `"probes": [],`) {
		t.Errorf("status.json has no empty list of probes:\n%s", body)
	}
	match := probed(identity.Match)
	_, page = showing(t, agent.Snapshot{Probes: match}).get(t, "/", "")
	if strings.Contains(page, "No match, last at") {
		t.Errorf("nothing has failed, and the page has a list of what did:\n%s", page)
	}
	if label, _, _ := strip(t, page); label != "Only one probe yet: 1 match." {
		t.Errorf("a screen reader says %q", label)
	}
}

// Everything that a metadata server, an API server or a setting says can be
// hostile, and what is not today may be so tomorrow.
func TestForeignStringsAreEscaped(t *testing.T) {
	const hostile = `"'><script>alert(1)</script><img src=x onerror=alert(1)>`
	request := identity.Request{Origin: identity.Asked, ServerHeader: hostile, Failure: &identity.Failure{Reason: hostile, Detail: hostile}}
	finding := []diagnose.Finding{{Cause: hostile, Confidence: hostile, Why: hostile, Runbook: hostile, Remedy: diagnose.Remedy{Text: hostile, Commands: []string{hostile}}}}
	verdict := identity.Verdict{State: hostile, Identity: hostile, Server: hostile, Why: hostile}
	s := serve(t, nil, func(o *web.Options) {
		o.Snapshot = func() *agent.Snapshot {
			return &agent.Snapshot{
				Verdict: verdict, Expectation: identity.Expectation{Accepted: []identity.Pattern{hostile}, Source: hostile}, ExpectationError: errors.New(hostile),
				Observation: identity.Observation{Email: identity.Email{Request: request}, Token: identity.Token{Request: request}, Server: identity.Responder{Request: request}},
				Diagnosis: diagnose.Diagnosis{
					Suspects: finding, Risks: finding, RuledOut: finding,
					Missing: []diagnose.Gap{{Fact: hostile, Remedy: diagnose.Remedy{Text: hostile, Commands: []string{hostile}}}},
				},
				Changes: []agent.Change{{From: hostile, To: verdict}},
				Probes:  []agent.Probe{{State: hostile, Failures: map[identity.Endpoint]identity.Reason{identity.EndpointEmail: hostile, identity.EndpointToken: hostile, identity.EndpointServer: hostile}}},
			}
		}
		about := report.About{
			Version: hostile, Node: hostile, Pod: hostile, Namespace: hostile, ServiceAccount: hostile, MetadataHost: hostile,
			Warnings: []string{hostile}, Settings: []report.Setting{{Name: hostile, Value: hostile}},
		}
		o.About = func() report.About { return about }
	})
	_, page := s.get(t, "/", "")
	for _, raw := range []string{"<script", "<img", `"'>`, `'>`} {
		if strings.Contains(page, raw) {
			t.Errorf("%s is on the page:\n%s", raw, page)
		}
	}
	// In the title, once for each of the others, and in the strip.
	if n := strings.Count(page, stdhtml.EscapeString(hostile)); n < 30 {
		t.Errorf("%d of the hostile strings are on the page, want all:\n%s", n, page)
	}
	res, body := s.get(t, "/status.json", "")
	if res.Header.Get("Content-Type") != "application/json" || strings.Contains(body, "<script") {
		t.Errorf("status.json as %s:\n%s", res.Header.Get("Content-Type"), body)
	}
}

func TestThePageRefreshesItselfUntilItIsToldNotTo(t *testing.T) {
	s := serve(t, nil, nil)
	const again = `<meta http-equiv="refresh" content="5">`
	if _, page := s.get(t, "/", ""); !strings.Contains(page, again) || !strings.Contains(page, `<a href="?refresh=off">`) {
		t.Errorf("the page lacks the refresh, or the way to stop it:\n%s", page)
	}
	if _, page := s.get(t, "/?refresh=off", ""); strings.Contains(page, "http-equiv") || !strings.Contains(page, `<a href="./">`) {
		t.Errorf("the page refreshes itself, or lacks the way to let it:\n%s", page)
	}
	for _, query := range []string{"/?refresh=on", "/?refresh=5", "/?refresh=%3Cscript%3E"} {
		res, body := s.get(t, query, "")
		if res.StatusCode != http.StatusBadRequest || body != "refresh: want off, or nothing\n" || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("GET %s: %d %q, want 400 and what is accepted", query, res.StatusCode, body)
		}
	}
}

func TestEachStateHasAShapeAndARunbook(t *testing.T) {
	shapes := map[string]string{}
	for _, o := range []struct {
		tone        string
		observation identity.Observation
		state       identity.State
	}{
		{"good", from(identity.ServerGKE, app, ""), identity.Match},
		{"bad", from(identity.ServerVM, node, ""), identity.NodeFallback},
		{"bad", from(identity.ServerGKE, "other@project.iam.gserviceaccount.com", ""), identity.Mismatch},
		{"bad", from(identity.ServerGKE, "project.svc.id.goog", ""), identity.Unbound},
		{"unsure", identity.Observation{}, identity.Unavailable},
	} {
		s := serve(t, &o.observation, nil)
		heading := regexp.MustCompile(`<h1 class="([a-z]+)"><svg aria-hidden="true" viewBox="0 0 16 16"><path [^>]* d="([^"]+)"/></svg>([a-z_]+)</h1>`)
		var m []string
		for deadline := time.Now().Add(10 * time.Second); (m == nil || m[3] != string(o.state)) && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) { // confirm probes
			_, page := s.get(t, "/", "")
			m = heading.FindStringSubmatch(page)
		}
		if m == nil || m[1] != o.tone || m[3] != string(o.state) {
			t.Fatalf("heading %q, want %s as %s", m, o.state, o.tone)
		}
		if had, ok := shapes[o.tone]; ok && had != m[2] {
			t.Errorf("%s has two shapes", o.tone)
		}
		shapes[o.tone] = m[2]
		var status struct{ Runbook string }
		_, body := s.get(t, "/status.json", "")
		if err := json.Unmarshal([]byte(body), &status); err != nil {
			t.Fatal(err)
		}
		if o.state == identity.Match {
			if status.Runbook != "" {
				t.Errorf("a match has the runbook %s", status.Runbook)
			}
			continue
		}
		name, ok := strings.CutPrefix(status.Runbook, diagnose.Runbooks)
		if _, err := os.Stat(filepath.Join("../../alerts/runbooks", name)); err != nil || !ok {
			t.Errorf("the runbook of %s is %q: %v", o.state, status.Runbook, err)
		}
	}
	if len(shapes) != 3 || shapes["good"] == shapes["bad"] || shapes["bad"] == shapes["unsure"] || shapes["unsure"] == shapes["good"] {
		t.Errorf("shapes %v, want one for each tone: colours alone tell nothing to some", shapes)
	}
}
