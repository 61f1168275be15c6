package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// kustomization builds one with these lines, in a folder that is gone afterwards.
func kustomization(t *testing.T, folder, lines string) []object {
	t.Helper()
	if err := os.MkdirAll(folder, 0o750); err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n" + lines
	if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return kustomized(t, folder)
}

// moved are the lines that set the namespace of an overlay, as Flux's targetNamespace does.
func moved(t *testing.T, from, overlay string) string {
	t.Helper()
	to, err := filepath.Abs(overlay)
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(from, to)
	if err != nil {
		t.Fatal(err)
	}
	return "namespace: elsewhere\nresources: [" + relative + "]\n"
}

// grants are the objects for RBAC, by their names and namespaces.
func grants(objects []object) []string {
	var ids []string
	for _, o := range objects {
		if strings.HasPrefix(o.id(), "rbac.authorization.k8s.io/") {
			ids = append(ids, o.id())
		}
	}
	slices.Sort(ids)
	return ids
}

func TestAnyOverlayCanBeMovedToAnotherNamespace(t *testing.T) {
	all, err := overlays(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, overlay := range all {
		folder := t.TempDir()
		objects := kustomization(t, folder, moved(t, folder, overlay))
		byID(t, objects) // none is there twice
		mentionNot(t, overlay, objects)
	}
}

// mentionNot fails if an object names the namespace that all were moved from.
func mentionNot(t *testing.T, overlay string, objects []object) {
	t.Helper()
	for _, o := range objects {
		if s := o.String(); strings.Contains(s, "namespace: "+namespace) || strings.Contains(s, "serviceaccount:"+namespace) {
			t.Errorf("%s: %s names the former namespace:\n%s", overlay, o.id(), s)
		}
	}
}

// What people copy from the documentation brings back what was moved too far.
func TestRolesAreBroughtBack(t *testing.T) {
	const overlay = "testdata/kustomize/everything"
	folder := t.TempDir()
	inner := filepath.Join(folder, "moved")
	kustomization(t, inner, moved(t, inner, overlay))
	m := regexp.MustCompile("(?s)```yaml\napiVersion: kustomize[^\n]*\nkind: Kustomization\n(.*?)```").FindStringSubmatch(page(t))
	if m == nil {
		t.Fatal("docs/gitops.md has no kustomization")
	}
	objects := kustomization(t, folder, m[1])
	mentionNot(t, overlay, objects)
	got := grants(objects)
	var want []string
	for _, id := range grants(kustomized(t, overlay)) {
		want = append(want, strings.ReplaceAll(id, " in "+namespace, " in elsewhere"))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("it gives\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(root + "/docs/gitops.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documented decodes an object of the page.
func documented(t *testing.T, kind string, into any) {
	t.Helper()
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page(t), -1) {
		for document := range strings.SplitSeq(m[1], "---\n") {
			if strings.Contains(document, "\nkind: "+kind+"\n") {
				if err := yaml.Unmarshal([]byte(document), into); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
	}
	t.Fatalf("docs/gitops.md has no %s", kind)
}

func TestTheProjectOfArgoCDAllowsAllThatIsShipped(t *testing.T) {
	var project struct {
		Spec struct {
			Destinations             []struct{ Namespace string }
			ClusterResourceWhitelist []struct{ Group, Kind string }
		}
	}
	documented(t, "AppProject", &project)
	allowed := map[string]bool{}
	for _, d := range project.Spec.Destinations {
		allowed["namespace "+d.Namespace] = false
	}
	for _, k := range project.Spec.ClusterResourceWhitelist {
		allowed[k.Group+" "+k.Kind] = false
	}
	need := func(from string, o object) {
		version, _ := o["apiVersion"].(string)
		group, _, grouped := strings.Cut(version, "/")
		if !grouped {
			group = ""
		}
		what := group + " " + o["kind"].(string)
		if in, namespaced := o.metadata()["namespace"].(string); namespaced {
			what = "namespace " + in
		}
		if _, ok := allowed[what]; !ok {
			t.Errorf("%s: the project does not allow %s, which %s needs", from, what, o.id())
		}
		allowed[what] = true
	}
	all, err := overlays(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, overlay := range all {
		if strings.HasPrefix(filepath.Base(overlay), "grafana-") {
			continue // in the namespace of Grafana
		}
		for _, o := range kustomized(t, overlay) {
			need(overlay, o)
		}
	}
	for what, needed := range allowed {
		if !needed {
			t.Errorf("nothing needs %s", what)
		}
	}
}

func TestTheValuesForGitOpsAreRendered(t *testing.T) {
	var application struct {
		Spec struct {
			Source struct {
				Helm struct{ ValuesObject map[string]any }
			}
		}
	}
	documented(t, "Application", &application)
	rendered(t, application.Spec.Source.Helm.ValuesObject)
	var release struct {
		Spec struct{ Values map[string]any }
	}
	documented(t, "HelmRelease", &release)
	rendered(t, release.Spec.Values)
}

// Argo CD applies kinds that it does not know last, when the agents run already.
func TestThePoliciesComeBeforeWhatTheyBound(t *testing.T) {
	for _, o := range kustomized(t, "testdata/kustomize/everything") {
		policy := strings.Contains(o.id(), "ValidatingAdmissionPolicy")
		if wave := o.annotation("argocd.argoproj.io/sync-wave"); (wave == "-1") != policy {
			t.Errorf("%s is in sync wave %q", o.id(), wave)
		}
	}
}
