package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.yaml.in/yaml/v3"
)

// workflow is the part of GitHub's format that these tests are about.
type workflow struct {
	On          map[string]map[string][]string
	Permissions map[string]string
	Env         map[string]string
	Jobs        map[string]struct {
		Needs       string
		Permissions map[string]string
		Steps       []struct {
			Name, Run string
			Uses      yaml.Node // with its comment
			With      map[string]string
		}
	}
}

func readWorkflow(t *testing.T) (workflow, string) {
	t.Helper()
	text := repository{t, "../.."}.read(".github/workflows/release.yaml")
	var w workflow
	if err := yaml.Unmarshal([]byte(text), &w); err != nil || len(w.Jobs) != 2 {
		t.Fatalf("%d jobs: %v", len(w.Jobs), err)
	}
	return w, text
}

// testPublish runs the workflow's own script with the registry of the image, and pulls
// what it pushed as a node does. Only the signatures are not real.
func testPublish(t *testing.T, r repository, host, version string) {
	crane, helm := os.Getenv("CRANE"), os.Getenv("HELM")
	switch missing := crane == "" || helm == ""; {
	case missing && os.Getenv("CI") != "":
		t.Fatal("it needs CRANE and HELM, which make test-tools sets")
	case missing:
		t.Skip("it needs CRANE and HELM, which make test-tools sets")
	}
	home := t.TempDir()
	for tool, script := range map[string]string{
		"crane": `exec "` + crane + `" "$@"`,
		// Helm talks to no registry in clear text unless it is told to.
		"helm":   `case $1 in push | pull) set -- "$@" --plain-http ;; esac; exec "` + helm + `" "$@"`,
		"cosign": `echo "$@" >>"$HOME/signed"`,
	} {
		if err := os.WriteFile(filepath.Join(home, tool), []byte("#!/bin/bash\n"+script+"\n"), 0o700); err != nil { //nolint:gosec // it is run
			t.Fatal(err)
		}
	}
	w, _ := readWorkflow(t)
	var push *exec.Cmd
	for _, s := range w.Jobs["publish"].Steps {
		if strings.HasPrefix(s.Name, "Push ") {
			push = exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", s.Run)
		}
	}
	push.Dir = t.TempDir()
	if err := os.CopyFS(push.Dir+"/dist", os.DirFS(r.folder+"/dist")); err != nil {
		t.Fatal(err)
	}
	push.Env = []string{
		"HOME=" + home, "PATH=" + home + ":" + os.Getenv("PATH"), "REGISTRY=" + host, "GITHUB_REPOSITORY=Some-One/agent", "GITHUB_REPOSITORY_OWNER=Some-One",
		"GITHUB_REF_NAME=v" + version, "GITHUB_ACTOR=x", "GITHUB_TOKEN=x", "GITHUB_OUTPUT=" + home + "/output",
	}
	if said, err := push.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}

	written := repository{t, home}.read("output")
	m := regexp.MustCompile(`^image=(\S+)\ndigest=(\S+)\nchart=(\S+)\nchart_digest=(\S+)\n$`).FindStringSubmatch(written)
	if m == nil || m[1] != host+"/some-one/agent" || m[3] != host+"/some-one/charts/"+program {
		t.Fatalf("it pushed\n%s", written)
	}
	if signed, want := (repository{t, home}).read("signed"), fmt.Sprintf("sign --yes --recursive %s@%s\nsign --yes %s@%s\n", m[1], m[2], m[3], m[4]); signed != want {
		t.Errorf("it signed\n%s, want\n%s", signed, want)
	}
	image, err := name.NewDigest(m[1] + "@" + m[2])
	if err != nil {
		t.Fatal(err)
	}
	for _, architecture := range architectures {
		pulled, err := remote.Image(image, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
		if err == nil {
			err = validate.Image(pulled)
		}
		if err != nil {
			t.Fatalf("a node for %s cannot pull %s: %v", architecture, image, err)
		}
		if config, err := pulled.ConfigFile(); err != nil || config.Architecture != architecture {
			t.Errorf("a node for %s gets %+v: %v", architecture, config, err)
		}
	}
	// What cannot be pushed is not signed either.
	dist := repository{t, push.Dir}
	if err := errors.Join(os.RemoveAll(push.Dir+"/image"), os.RemoveAll(push.Dir+"/pulled"), os.Remove(home+"/signed")); err != nil {
		t.Fatal(err)
	}
	broken := "dist/" + program + "_" + version + "_image.tar"
	dist.write(broken, strings.ReplaceAll(dist.read(broken), m[2][7:], strings.Repeat("0", 64)))
	again := exec.CommandContext(t.Context(), push.Path, push.Args[1:]...)
	again.Dir, again.Env = push.Dir, push.Env
	said, err := again.CombinedOutput()
	if _, signed := os.Stat(home + "/signed"); err == nil || !os.IsNotExist(signed) {
		t.Errorf("it published a broken image: %v\n%s", signed, said)
	}
}

// A tag can be moved to other code, a commit cannot.
func TestActionsArePinned(t *testing.T) {
	w, _ := readWorkflow(t)
	pinned := regexp.MustCompile(`^([\w.-]+/[\w./-]+)@[0-9a-f]{40}# v\d+\.\d+\.\d+$`)
	commits := map[string]string{}
	for job, j := range w.Jobs {
		for _, s := range j.Steps {
			uses := s.Uses.Value + s.Uses.LineComment
			m := pinned.FindStringSubmatch(uses)
			switch {
			case uses == "":
				continue
			case m == nil:
				t.Fatalf("%s uses %s, want a commit of 40 digits and its version behind it", job, uses)
			case commits[m[1]] != "" && commits[m[1]] != uses:
				t.Errorf("%s is pinned to two commits", m[1])
			case m[1] == "actions/checkout" && s.With["persist-credentials"] != "false":
				t.Errorf("%s leaves its token in the work tree", job)
			case m[1] == "actions/setup-go" && (s.With["cache"] != "false" || s.With["go-version-file"] != "tools/go.mod"):
				t.Errorf("%s builds with a cache that other runs write, or with another Go than the later one", job)
			}
			commits[m[1]] = uses
		}
	}
	if len(commits) != 5 {
		t.Errorf("it uses %v, want what checks out, sets up, passes on (2) and attests", commits)
	}
}

func TestOnlyWhatSignsMayWrite(t *testing.T) {
	w, text := readWorkflow(t)
	if !maps.Equal(w.Permissions, map[string]string{"contents": "read"}) || w.Jobs["build"].Permissions != nil {
		t.Errorf("by default jobs may %v, and build may %v; want to read the code and nothing else", w.Permissions, w.Jobs["build"].Permissions)
	}
	if p := w.Jobs["publish"]; p.Needs != "build" || !maps.Equal(p.Permissions, map[string]string{"contents": "write", "packages": "write", "id-token": "write", "attestations": "write"}) {
		t.Errorf("publish needs %q and may %v", p.Needs, p.Permissions)
	}
	var runs []string
	for job, j := range w.Jobs {
		for _, s := range j.Steps {
			if job == "build" && s.Run != "" {
				runs = append(runs, s.Run)
			}
			// What GitHub puts into a script before the shell reads it can be a command.
			if strings.Contains(s.Run, "${{") {
				t.Errorf("a script of %s has an expression in it: %s", job, s.Run)
			}
			if job == "publish" && regexp.MustCompile(`\bmake\b`).MatchString(s.Run) {
				t.Errorf("what may write runs the repository's code: %s", s.Run)
			}
		}
	}
	if want := []string{"make test test-alerts test-tools", `make release TAG="$GITHUB_REF_NAME" IMAGE_REPOSITORY="$REGISTRY/${GITHUB_REPOSITORY,,}"`}; !slices.Equal(runs, want) {
		t.Errorf("build runs %q, want %q", runs, want)
	}
	if strings.Contains(text, "secrets.") || strings.Contains(text, "pull_request") {
		t.Error("it has a password, or runs for people who may not write")
	}
}

func TestTagsOfVersionsStartIt(t *testing.T) {
	w, _ := readWorkflow(t)
	if len(w.On) != 1 || len(w.On["push"]) != 1 {
		t.Errorf("it runs on %v, want tags only", w.On)
	}
	// In these patterns a dot is a dot, and the rest is as in regular expressions.
	starts := regexp.MustCompile("^(?:" + strings.ReplaceAll(strings.Join(w.On["push"]["tags"], "|"), ".", `\.`) + ")$")
	for tag, want := range map[string]bool{
		"v0.1.0": true, "v10.20.30": true, "v0.2.0-rc.1": true,
		"v1": false, "0.1.0": false, "v1.2.3+4": false, "v1.2.3-$(id).1": false, "v1.2.3-rc.1;id": false, "nightly": false,
	} {
		if starts.MatchString(tag) != want || versionTag.MatchString(tag) != want {
			t.Errorf("the tag %s starts it: %v, and can be released: %v; want %v", tag, starts.MatchString(tag), versionTag.MatchString(tag), want)
		}
	}
}

// The same version of a tool is in the workflow, in the Makefile and in go.mod.
func TestToolsAreOfOneVersion(t *testing.T) {
	w, _ := readWorkflow(t)
	here := repository{t, "../.."}
	for tool, module := range map[string]string{"CRANE_VERSION": "github.com/google/go-containerregistry", "HELM_VERSION": "helm.sh/helm/v3"} {
		if v := w.Env[tool]; !strings.Contains(here.read("tools/go.mod"), module+" "+v+"\n") || !strings.Contains(here.read("Makefile"), tool+" := "+v+"\n") {
			t.Errorf("%s %s of the workflow is not that of tools/go.mod and the Makefile", tool, v)
		}
	}
}

// What users copy to verify a signature must fit the identity that the workflow signs
// as, and no other.
func TestTheDocumentedIdentityIsTheWorkflows(t *testing.T) {
	found := regexp.MustCompile(`--certificate-identity-regexp '(.*?)'`).FindAllStringSubmatch(repository{t, "../.."}.read("docs/releasing.md"), -1)
	if len(found) != 2 {
		t.Fatalf("%d commands name the identity, want one for the files and one for image and chart", len(found))
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

// What people install is where the workflow of this repository puts it.
func TestTheRegistryIsTheWorkflows(t *testing.T) {
	w, text := readWorkflow(t)
	known := []string{"github.com", "token.actions.githubusercontent.com", "example.iam.gserviceaccount.com", w.Env["REGISTRY"]}
	for _, host := range regexp.MustCompile(`(?i)\b(?:[a-z0-9-]+\.)+(?:io|com|org|net|dev|cloud)\b`).FindAllString(text, -1) {
		if !slices.Contains(known, host) {
			t.Errorf("it names %s", host)
		}
	}
	image := w.Env["REGISTRY"] + "/workload-identity-exporter/workload-identity-exporter"
	chart := "oci://" + w.Env["REGISTRY"] + "/workload-identity-exporter/charts/" + program
	here := repository{t, "../.."}
	for path, want := range map[string]string{
		"deploy/chart/values.yaml": "repository: " + image + "\n", "deploy/kustomize/base/daemonset.yaml": "image: " + image + ":", "Makefile": "IMAGE_REPOSITORY ?= " + image + "\n",
		"README.md": chart + " ", "docs/install.md": chart + " ", "deploy/chart/README.md": chart + " ", "docs/releasing.md": chart + ":",
	} {
		if !strings.Contains(here.read(path), want) {
			t.Errorf("%s does not have %q", path, want)
		}
	}
}
