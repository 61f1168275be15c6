package identity_test

import (
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func TestParse(t *testing.T) {
	tests := []struct {
		in   string
		want identity.Identity // empty: refused
		kind identity.Kind
	}{
		{"app@project.iam.gserviceaccount.com", app, identity.ServiceAccount},
		{" App@Project.iam.gserviceaccount.com\r\n", app, identity.ServiceAccount},
		{"app@project.eu0.iam.gserviceaccount.com", sovereign, identity.ServiceAccount},
		{"123456789012-compute@developer.gserviceaccount.com\n", nodeSA, identity.ServiceAccount},
		{"app@project.example.com.iam.gserviceaccount.com", "app@project.example.com.iam.gserviceaccount.com", identity.ServiceAccount},
		{"PROJECT.svc.id.goog", pool, identity.WorkloadPool},
		{"project.eu0.svc.id.goog", euPool, identity.WorkloadPool},
		{"example.com:project.svc.id.goog", "example.com:project.svc.id.goog", identity.WorkloadPool},
		{
			"principal://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/project.svc.id.goog/subject/ns/demo/sa/app",
			subject, identity.Principal,
		},

		{"", "", ""},
		{" \n", "", ""},
		{"hello world", "", ""},
		{"project.iam.gserviceaccount.com", "", ""},
		{"app@", "", ""},
		{"app@localhost", "", ""},
		{"@project.iam.gserviceaccount.com", "", ""},
		{"a@b@project.iam.gserviceaccount.com", "", ""},
		{"app@project.iam.gserviceaccount.com\nother@project.iam.gserviceaccount.com", "", ""},
		{"<script>alert(1)</script>@project.iam.gserviceaccount.com", "", ""},
		{"äpp@project.iam.gserviceaccount.com", "", ""},
		{"<!DOCTYPE html><html lang=en>app@project.iam.gserviceaccount.com", "", ""},
		{".svc.id.goog", "", ""},
		{"principal://iam.googleapis.com/projects/123", "", ""},
		{"app\x00@project.iam.gserviceaccount.com", "", ""},
		{strings.Repeat("a", 2000) + "@project.iam.gserviceaccount.com", "", ""},
	}
	for _, tt := range tests {
		got, err := identity.Parse(tt.in)
		if got != tt.want || (err != nil) != (tt.want == "") || got.Kind() != tt.kind {
			t.Errorf("Parse(%.60q) = %q (%s), %v; want %q (%s)", tt.in, got, got.Kind(), err, tt.want, tt.kind)
		}
	}
}

func TestPattern(t *testing.T) {
	tests := []struct {
		pattern string
		id      identity.Identity
		want    bool
	}{
		{"*-compute@developer.gserviceaccount.com", nodeSA, true},
		{"*-compute@developer.gserviceaccount.com", app, false},
		{"*-compute@developer.gserviceaccount.com", "1-compute@developer.gserviceaccount.com.example.com", false},
		{"Nodes@*.iam.gserviceaccount.com", customSA, true},
		{"*@project.iam.gserviceaccount.com", app, true},
		{"n*e*@project.iam.gserviceaccount.com", customSA, true},
		{"n*x*@project.iam.gserviceaccount.com", customSA, false},
		{"app@project.iam.gserviceaccount.com", app, true},
		{"app@project.iam.gserviceaccount.com", "app@projectxiam.gserviceaccount.com", false},
		{"app@project.iam.*.com", "app@project.iam.com", false},
	}
	for _, tt := range tests {
		p, err := identity.ParsePattern(tt.pattern)
		if err != nil {
			t.Errorf("ParsePattern(%q): %v", tt.pattern, err)
			continue
		}
		if got := p.Match(tt.id); got != tt.want {
			t.Errorf("%q matches %q: %t, want %t", p, tt.id, got, tt.want)
		}
	}
	for _, s := range []string{"", "*", "**", "project", "*@", "*@*", "a b@project.com", "*.svc.id.goog"} {
		if p, err := identity.ParsePattern(s); err == nil {
			t.Errorf("ParsePattern(%q) = %q, want an error: it would match far too much", s, p)
		}
	}
}

func TestFromAnnotations(t *testing.T) {
	tests := []struct {
		name        string
		annotations map[string]string
		project     string
		want        string
		source      identity.Source
	}{
		{"annotated", map[string]string{identity.AnnotationServiceAccount: " App@Project.iam.gserviceaccount.com "}, "project", string(app), identity.SourceAnnotation},
		{"not annotated", nil, "Project", "project.svc.id.goog,project.*.svc.id.goog", identity.SourceWorkloadPool},
		{"an empty annotation is none", map[string]string{identity.AnnotationServiceAccount: ""}, "project", "project.svc.id.goog,project.*.svc.id.goog", identity.SourceWorkloadPool},
		{"not annotated, the project is not known", nil, "", "*.svc.id.goog", identity.SourceWorkloadPool},
		{"not annotated, a project with a domain", nil, "example.com:project", "*.svc.id.goog", identity.SourceWorkloadPool},
		{
			"the principal is asked for",
			map[string]string{identity.AnnotationReturnPrincipal: "true"},
			"project",
			"project.svc.id.goog,project.*.svc.id.goog,principal://*/subject/ns/demo/sa/app", identity.SourceWorkloadPool,
		},
		{
			"the principal is not asked for",
			map[string]string{identity.AnnotationReturnPrincipal: "false", identity.AnnotationServiceAccount: string(app)},
			"project",
			string(app), identity.SourceAnnotation,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := identity.FromAnnotations(tt.annotations, "demo", "app", tt.project)
			if err != nil || e.String() != tt.want || e.Source != tt.source {
				t.Errorf("FromAnnotations() = %s from %s, %v; want %s from %s", e, e.Source, err, tt.want, tt.source)
			}
		})
	}
	for _, wrong := range []string{"app", "app@project", string(pool)} {
		e, err := identity.FromAnnotations(map[string]string{identity.AnnotationServiceAccount: wrong}, "demo", "app", "project")
		if err == nil || e.Known() {
			t.Errorf("annotation %q gives the expectation %q, want an error: nothing that GKE answers could match it", wrong, e)
		} else if !strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "demo/app") {
			t.Errorf("error %q names neither the value nor the ServiceAccount", err)
		}
	}
}
