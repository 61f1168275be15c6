package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// headings of every runbook, in this order.
var headings = []string{"Meaning", "Impact", "Confirm", "Causes and fixes", "Silence", "Over"}

func TestEveryAlertHasARunbookAndTheOtherWayRound(t *testing.T) {
	var alerts []string
	for _, g := range rules(t) {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			alerts = append(alerts, r.Alert)
			if !strings.HasSuffix(r.Annotations["runbook_url"], "/alerts/runbooks/"+r.Alert+".md") {
				t.Errorf("%s: runbook_url %q", r.Alert, r.Annotations["runbook_url"])
			}
			for _, name := range []string{"summary", "description", "dashboard_url"} {
				if r.Annotations[name] == "" {
					t.Errorf("%s has no annotation %s", r.Alert, name)
				}
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
		}
	}
	var runbooks []string
	for _, path := range files(t) {
		runbooks = append(runbooks, strings.TrimSuffix(filepath.Base(path), ".md"))
	}
	slices.Sort(alerts)
	if !slices.Equal(alerts, runbooks) {
		t.Errorf("runbooks for %v, want %v", runbooks, alerts)
	}
}

func files(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(repository + "/alerts/runbooks/*.md")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no runbooks: %v", err)
	}
	return paths
}

func TestRunbooksHaveAllTheirParts(t *testing.T) {
	metrics := string(read(t, "docs/metrics.md")) + strings.Join(planned, " ")
	each := regexp.MustCompile(`(?m)^## (.+)\n\n\S`)
	for _, path := range files(t) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text, name := string(content), filepath.Base(path)
		if want := "# " + strings.TrimSuffix(name, ".md") + "\n"; !strings.HasPrefix(text, want) {
			t.Errorf("%s does not begin with %q", name, want)
		}
		var got []string
		for _, m := range each.FindAllStringSubmatch(text, -1) {
			got = append(got, m[1])
		}
		if !slices.Equal(got, headings) {
			t.Errorf("%s has the parts %q, want %q, none of them empty", name, got, headings)
		}
		for _, m := range regexp.MustCompile(`\]\(([\w.]+)#?([\w-]*)\)`).FindAllStringSubmatch(text, -1) {
			target, err := os.ReadFile(filepath.Join(filepath.Dir(path), m[1]))
			if err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
			if heading := strings.ReplaceAll(m[2], "-", " "); heading != "" && !strings.Contains(strings.ToLower(string(target)), "\n## "+heading+"\n") {
				t.Errorf("%s links to %s, which has no part %q", name, m[1], heading)
			}
		}
		for _, metric := range regexp.MustCompile(`workload_identity_\w+`).FindAllString(text, -1) {
			if !strings.Contains(metrics, metric) {
				t.Errorf("%s names %s, which is not exported", name, metric)
			}
		}
	}
}
