package main

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
)

// headings of every runbook, in this order.
var headings = []string{"Meaning", "Impact", "Confirm", "Causes and fixes", "Silence", "Over"}

// page is a document by its path in the repository.
type page struct{ path, text string }

// alert is the alert that a runbook is for.
func (p page) alert() string { return strings.TrimSuffix(filepath.Base(p.path), ".md") }

func runbooks(t *testing.T) []page {
	t.Helper()
	paths, err := filepath.Glob(repository + "/alerts/runbooks/*")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no runbooks: %v", err)
	}
	var pages []page
	for _, path := range paths {
		path = "alerts/runbooks/" + filepath.Base(path)
		pages = append(pages, page{path, string(read(t, path))})
	}
	return pages
}

// pages are all that people read.
func pages(t *testing.T) []page {
	t.Helper()
	var all []page
	for _, pattern := range []string{"*.md", "docs/*.md", "alerts/*.md", "alerts/runbooks/*.md", "deploy/chart/*.md"} {
		paths, err := filepath.Glob(repository + "/" + pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("no pages %s: %v", pattern, err)
		}
		for _, path := range paths {
			path = strings.TrimPrefix(filepath.ToSlash(path), repository+"/")
			all = append(all, page{path, string(read(t, path))})
		}
	}
	return all
}

// In zsh what is behind a # is an argument, and an apostrophe waits for another one.
func TestCommandsCanBePasted(t *testing.T) {
	block := regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$")
	quoted := regexp.MustCompile(`(?s)'[^']*'|"[^"]*"`)
	blocks := 0
	for _, p := range pages(t) {
		for _, m := range block.FindAllStringSubmatch(p.text, -1) {
			blocks++
			var commands []string
			for line := range strings.Lines(m[1]) {
				if comment, ok := strings.CutPrefix(strings.TrimSpace(line), "#"); !ok {
					commands = append(commands, line)
				} else if strings.ContainsAny(comment, "'\"`?*[") {
					t.Errorf("%s: the shell acts on the comment %q", p.path, comment)
				}
			}
			if text := quoted.ReplaceAllString(strings.Join(commands, ""), "''"); strings.Contains(text, " #") {
				t.Errorf("%s has a comment behind a command:\n%s", p.path, m[1])
			} else if strings.Contains(text, "=...") {
				t.Errorf("%s has a placeholder that runs:\n%s", p.path, m[1])
			}
		}
	}
	if blocks < 50 {
		t.Errorf("%d commands were found", blocks)
	}
}

func alerts(t *testing.T) []monitoringv1.Rule {
	t.Helper()
	var found []monitoringv1.Rule
	for _, g := range rules(t) {
		for _, r := range g.Rules {
			if r.Alert != "" {
				found = append(found, r)
			}
		}
	}
	return found
}

func TestEveryAlertHasARunbookAndTheOtherWayRound(t *testing.T) {
	var got, want []string
	for _, a := range alerts(t) {
		want = append(want, a.Alert+".md")
	}
	for _, p := range runbooks(t) {
		got = append(got, filepath.Base(p.path))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("runbooks\n%v, want\n%v", got, want)
	}
}

// What a notification is made of, and who gets it.
func TestEveryAlertSaysWhatPeopleNeed(t *testing.T) {
	for _, a := range alerts(t) {
		if s := a.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q, want critical or warning", a.Alert, s)
		}
		for _, name := range []string{"summary", "description", "runbook_url"} {
			if strings.TrimSpace(a.Annotations[name]) == "" {
				t.Errorf("%s has no annotation %s", a.Alert, name)
			}
		}
		if url := a.Annotations["runbook_url"]; !strings.HasSuffix(url, "/alerts/runbooks/"+a.Alert+".md") {
			t.Errorf("%s: runbook_url %s is not that of its runbook", a.Alert, url)
		}
	}
}

func TestRunbooksHaveAllTheirParts(t *testing.T) {
	for _, p := range runbooks(t) {
		title, rest, _ := strings.Cut(withoutCode(p.text), "\n## ")
		if title != "# "+p.alert()+"\n" {
			t.Errorf("%s begins with %q, want its name and nothing else before the first part", p.path, title)
		}
		var got []string
		for part := range strings.SplitSeq(rest, "\n## ") {
			heading, content, _ := strings.Cut(part, "\n")
			got = append(got, heading)
			if regexp.MustCompile(`(?m)^[^#\s]`).FindString(content) == "" {
				t.Errorf("%s: no text under %q", p.path, heading)
			}
		}
		if !slices.Equal(got, headings) {
			t.Errorf("%s has the parts %q, want %q", p.path, got, headings)
		}
	}
}

// withoutCode leaves out blocks of code, whose comments look like headings.
func withoutCode(text string) string {
	return regexp.MustCompile("(?ms)^ *```.*?^ *```$").ReplaceAllString(text, "")
}

// Somebody who is woken by an alert silences that one, in one cluster.
func TestEveryRunbookSilencesItsAlert(t *testing.T) {
	command := regexp.MustCompile(`amtool silence add (?:.*\\\n)? *(?:.* )?alertname=(\S+) cluster=CLUSTER`)
	for _, p := range runbooks(t) {
		_, silence, _ := strings.Cut(p.text, "\n## Silence\n")
		silence, _, _ = strings.Cut(silence, "\n## ")
		m := command.FindStringSubmatch(silence)
		if m == nil || m[1] != p.alert() {
			t.Errorf("%s: want a command under Silence with alertname=%s cluster=CLUSTER", p.path, p.alert())
		}
	}
}

func TestLinksLeadToFilesAndHeadings(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)
	for _, p := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(withoutCode(p.text), -1) {
			path, anchor := m[1], m[2]
			if strings.Contains(path, "://") {
				continue
			}
			target := p.path
			if path != "" {
				target = filepath.Join(filepath.Dir(p.path), path)
			}
			found, err := filepath.Glob(repository + "/" + target)
			if err != nil || len(found) == 0 {
				t.Errorf("%s links to %s, which is not there", p.path, target)
			} else if anchor != "" && !slices.Contains(anchors(string(read(t, target))), anchor) {
				t.Errorf("%s links to %s, which has no heading #%s", p.path, target, anchor)
			}
		}
	}
}

// anchors are the names by which the headings of a page can be linked.
func anchors(text string) []string {
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(withoutCode(text), -1) {
		name := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// A query that finds nothing because its metric does not exist reads like all is well.
func TestMetricsOfRunbooksExist(t *testing.T) {
	known := exported(t)
	for _, p := range pages(t) {
		for _, m := range regexp.MustCompile(`(?:^|[^-\w])(workload_identity[_:][\w:]+)(\.\*)?`).FindAllStringSubmatch(p.text, -1) { // but for kubectl-workload_identity
			name := m[1]
			if m[2] != "" && slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(k, name) }) {
				continue // the beginning of names
			}
			if !slices.Contains(known, name) && name != "workload_identity_provider:" { // of an action of GitHub
				t.Errorf("%s names %s, which is neither exported nor recorded", p.path, name)
			}
		}
	}
}

func TestQueriesOfRunbooksAreQueries(t *testing.T) {
	block := regexp.MustCompile("(?ms)^ *```promql\n(.*?)^ *```$")
	for _, p := range runbooks(t) {
		queries := block.FindAllStringSubmatch(p.text, -1)
		if len(queries) == 0 {
			t.Errorf("%s has no query", p.path)
		}
		for _, m := range queries {
			if _, err := parser.NewParser(parser.Options{}).ParseExpr(m[1]); err != nil {
				t.Errorf("%s: %s: %v", p.path, m[1], err)
			}
		}
	}
}

// The table of all alerts says what the rules say.
func TestTheListOfAlertsIsComplete(t *testing.T) {
	row := regexp.MustCompile(`(?m)^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| (\w+) \| ([^|]+) \| [^|]+ \|$`)
	var got, want []string
	after := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(read(t, "alerts/README.md")), -1) {
		got = append(got, m[1]+" "+m[2]+" "+m[3])
		after[m[1]] = m[4]
	}
	for _, a := range alerts(t) {
		want = append(want, a.Alert+" "+a.Alert+" "+a.Labels["severity"])
		if a.For == nil {
			continue // it is described in words
		}
		if span := strings.NewReplacer("s", " s", "m", " min").Replace(string(*a.For)); after[a.Alert] != span {
			t.Errorf("alerts/README.md: %s fires after %q, want %q", a.Alert, after[a.Alert], span)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("alerts/README.md lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
