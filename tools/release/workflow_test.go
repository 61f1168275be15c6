package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const workflowPath = "../../.github/workflows/release.yaml"

// workflow is the part of GitHub's format that these tests are about.
type workflow struct {
	On          map[string]map[string][]string
	Permissions map[string]string
	Env         map[string]string
	Jobs        map[string]struct {
		Needs       string
		Permissions map[string]string
		Steps       []step
	}
}

type step struct {
	Uses yaml.Node // with its comment
	Run  string
	Env  map[string]string
	With map[string]string
}

func readWorkflow(t *testing.T) (workflow, string) {
	t.Helper()
	text, err := os.ReadFile(workflowPath)
	if err != nil {
		t.Fatal(err)
	}
	var w workflow
	if err := yaml.Unmarshal(text, &w); err != nil {
		t.Fatal(err)
	}
	if len(w.Jobs) == 0 {
		t.Fatal("there are no jobs")
	}
	return w, string(text)
}

// A tag can be moved to other code, a commit cannot.
func TestActionsArePinned(t *testing.T) {
	w, text := readWorkflow(t)
	pinned := regexp.MustCompile(`^([\w.-]+/[\w./-]+)@([0-9a-f]{40})$`)
	commits := map[string]string{}
	for name, job := range w.Jobs {
		for _, s := range job.Steps {
			if s.Uses.Value == "" {
				continue
			}
			m := pinned.FindStringSubmatch(s.Uses.Value)
			if m == nil || !regexp.MustCompile(`^# v\d+\.\d+\.\d+$`).MatchString(s.Uses.LineComment) {
				t.Errorf("%s uses %s %s, want a commit of 40 digits and its version behind it", name, s.Uses.Value, s.Uses.LineComment)
				continue
			}
			if commit := m[2] + s.Uses.LineComment; commits[m[1]] != "" && commits[m[1]] != commit {
				t.Errorf("%s is pinned to two commits", m[1])
			} else {
				commits[m[1]] = commit
			}
			if m[1] == "actions/checkout" && s.With["persist-credentials"] != "false" {
				t.Errorf("%s leaves its token in the work tree", name)
			}
			if m[1] == "actions/setup-go" && s.With["cache"] != "false" {
				t.Errorf("%s builds with a cache that other runs write", name)
			}
		}
	}
	if n := strings.Count(text, "uses:"); n < 5 || len(commits) < 5 {
		t.Errorf("%d lines use %d actions, want what checks out, sets up, passes on and attests", n, len(commits))
	}
}

func TestOnlyWhatSignsMayWrite(t *testing.T) {
	w, text := readWorkflow(t)
	if !maps.Equal(w.Permissions, map[string]string{"contents": "read"}) {
		t.Errorf("by default jobs may %v, want to read the code and nothing else", w.Permissions)
	}
	for name, job := range w.Jobs {
		want := map[string]string(nil)
		if name == "publish" {
			want = map[string]string{"contents": "write", "id-token": "write", "attestations": "write"}
		}
		if !maps.Equal(job.Permissions, want) {
			t.Errorf("%s may %v, want %v", name, job.Permissions, want)
		}
		for _, s := range job.Steps {
			for variable, value := range s.Env {
				if name != "publish" && strings.Contains(value, "secrets.") {
					t.Errorf("%s has the secret %s", name, variable)
				}
			}
			// What GitHub puts into a script before the shell reads it can be a command.
			if strings.Contains(s.Run, "${{") {
				t.Errorf("a script of %s has an expression in it: %s", name, s.Run)
			}
			if name == "publish" && regexp.MustCompile(`\bmake\b`).MatchString(s.Run) {
				t.Errorf("what may write runs the repository's code: %s", s.Run)
			}
		}
	}
	if w.Jobs["publish"].Needs != "build" {
		t.Errorf("publish needs %q, want build", w.Jobs["publish"].Needs)
	}
	if strings.Contains(text, "pull_request") {
		t.Error("it runs for people who may not write")
	}
}

func TestTagsOfVersionsStartIt(t *testing.T) {
	w, _ := readWorkflow(t)
	if events := slices.Collect(maps.Keys(w.On)); !slices.Equal(events, []string{"push"}) || len(w.On["push"]) != 1 {
		t.Errorf("it runs on %v, want tags only", w.On)
	}
	// In these patterns a dot is a dot, and the rest is as in regular expressions.
	var patterns []string
	for _, p := range w.On["push"]["tags"] {
		patterns = append(patterns, strings.ReplaceAll(p, ".", `\.`))
	}
	starts := regexp.MustCompile("^(?:" + strings.Join(patterns, "|") + ")$")
	for tag, want := range map[string]bool{
		"v0.1.0": true, "v10.20.30": true, "v0.2.0-rc.1": true,
		"v1": false, "0.1.0": false, "v1.2.3+4": false, "v1.2.3-$(id).1": false, "v1.2.3-rc.1;id": false, "nightly": false,
	} {
		if starts.MatchString(tag) != want {
			t.Errorf("the tag %s starts it: %v, want %v", tag, !want, want)
		}
		if _, ok := released(tag); want && !ok {
			t.Errorf("the tag %s starts it, and cannot be released", tag)
		}
	}
}

func TestItTestsAndThenMakesTheFilesOfTheTag(t *testing.T) {
	w, _ := readWorkflow(t)
	var runs []string
	for _, s := range w.Jobs["build"].Steps {
		if s.Run != "" {
			runs = append(runs, s.Run)
		}
		if strings.Contains(s.Uses.Value, "setup-go") && s.With["go-version-file"] != "tools/go.mod" {
			t.Errorf("it builds with the Go of %s, want that of tools/go.mod, which is the later one", s.With["go-version-file"])
		}
	}
	if want := []string{"make test", `make release TAG="$GITHUB_REF_NAME"`}; !slices.Equal(runs, want) {
		t.Errorf("it runs %q, want %q", runs, want)
	}
	modules, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "github.com/google/go-containerregistry " + w.Env["CRANE_VERSION"] + "\n"; !strings.Contains(string(modules), want) {
		t.Errorf("crane is of another version than the library that packs the image: go.mod has not %q", want)
	}
}

// What users copy to verify a signature must fit the identity that the workflow signs
// as, and no other.
func TestTheDocumentedIdentityIsTheWorkflows(t *testing.T) {
	text, err := os.ReadFile("../../docs/releasing.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`--certificate-identity-regexp '(.*?)'`).FindAllStringSubmatch(string(text), -1)
	if len(found) != 2 {
		t.Fatalf("%d commands name the identity, want one for the files and one for the image", len(found))
	}
	const ours = "https://github.com/workload-identity-exporter/workload-identity-exporter/.github/workflows/release.yaml@refs/tags/v0.2.0-rc.1"
	for _, m := range found {
		identity := regexp.MustCompile(m[1])
		for name, want := range map[string]bool{
			ours:                                  true,
			strings.Replace(ours, "-rc.1", "", 1): true,
			strings.Replace(ours, "tags/v0.2.0-rc.1", "heads/v1", 1): false,
			strings.Replace(ours, "release.yaml", "releaseXyaml", 1): false,
			strings.Replace(ours, "github.com", "githubXcom", 1):     false,
			"https://example.com/?" + ours:                           false,
			ours + "/evil":                                           false,
		} {
			if identity.MatchString(name) != want {
				t.Errorf("%s: %s is accepted: %v, want %v", m[1], name, !want, want)
			}
		}
	}
}

// Which registry it is, is for whoever runs it to say.
func TestItNamesNoRegistry(t *testing.T) {
	_, text := readWorkflow(t)
	known := []string{"github.com", "token.actions.githubusercontent.com"}
	for _, host := range regexp.MustCompile(`(?i)\b(?:[a-z0-9-]+\.)+(?:io|com|org|net|dev|cloud)\b`).FindAllString(text, -1) {
		if !slices.Contains(known, host) {
			t.Errorf("it names %s", host)
		}
	}
}
