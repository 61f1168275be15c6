package identity_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func TestParse(t *testing.T) {
	const domain = "@project.iam.gserviceaccount.com"
	longest := strings.Repeat("a", 256-len(domain)) + domain
	longPrincipal := "principal://iam.googleapis.com/subject/"
	longPrincipal += strings.Repeat("a", 512-len(longPrincipal))
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

		{string(agentID), agentID, identity.Principal},
		// A placeholder of many a how-to (fluxcd website issue 966), which GKE repeats.
		{"GSA_NAME@PROJECT_ID.iam.gserviceaccount.com", "gsa_name@project_id.iam.gserviceaccount.com", identity.ServiceAccount},

		{"", "", ""},
		{" \n", "", ""},
		{"hello world", "", ""},
		{"project.iam.gserviceaccount.com", "", ""},
		{"app@", "", ""},
		{"app@localhost", "", ""},
		{"@project.iam.gserviceaccount.com", "", ""},
		{"a@b@project.iam.gserviceaccount.com", "", ""},
		{"app@.", "", ""},
		{"app@project..iam.gserviceaccount.com", "", ""},
		{"app@project.iam.gserviceaccount.com.", "", ""},
		{".svc.id.goog", "", ""},
		{"project.svc.id..goog", "", ""},
		{"app@project.iam.gserviceaccount.com\nother@project.iam.gserviceaccount.com", "", ""},
		{"<script>alert(1)</script>@project.iam.gserviceaccount.com", "", ""},
		{"äpp@project.iam.gserviceaccount.com", "", ""},
		{"<!DOCTYPE html><html lang=en>app@project.iam.gserviceaccount.com", "", ""},
		{".svc.id.goog", "", ""},
		{"principal://iam.googleapis.com", "", ""},
		{"principal://iam.googleapis.com/", "", ""},
		{"principal:///subject/ns/demo/sa/app", "", ""},
		{"principal://localhost/subject/ns/demo/sa/app", "", ""},
		{"principal://./subject/x", "", ""},
		{"principalSet://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/project.svc.id.goog/namespace/demo", "", ""},
		{"serviceAccount:project.svc.id.goog[demo/app]", "", ""},
		{"serviceAccount:project.svc.id.goog", "", ""},
		// What is left of a member may be one again.
		{"project.svc.id.goog]", "", ""},
		{"serviceAccount:serviceAccount:project.svc.id.googdemo/app]", "", ""},
		{"[project.svc.id.goog]", "", ""},
		{"serviceAccount:app@project.iam.gserviceaccount.com", "", ""},
		{"app\x00@project.iam.gserviceaccount.com", "", ""},
		{strings.Repeat("a", 2000) + "@project.iam.gserviceaccount.com", "", ""},
		{longest, identity.Identity(longest), identity.ServiceAccount},
		{"a" + longest, "", ""},
		{longPrincipal, identity.Identity(longPrincipal), identity.Principal},
		{longPrincipal + "a", "", ""},
		{strings.Repeat("a", 256) + ".svc.id.goog", "", ""},

		// These fold to letters of ASCII, or are white space to Unicode.
		{"\u212Aube@project.iam.gserviceaccount.com", "", ""},
		{"n\u0130x@project.iam.gserviceaccount.com", "", ""},
		{"app@project.iam.gserviceaccount.com\u00a0", "", ""},
		{"\u2003app@project.iam.gserviceaccount.com", "", ""},
		{"pro\u212Aect.svc.id.goog", "", ""},

		{"ya29.a0AfH6SMBx@project.iam.gserviceaccount.com", "", ""},
		{"eyJhbGciOiJSUzI1NiJ9@project.iam.gserviceaccount.com", "", ""},
		{"9f86d081884c7d659a2feaa0c55ad015@project.iam.gserviceaccount.com", "", ""},
		{"ya29.a0AfH6SMBx.svc.id.goog", "", ""},
		{"a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5@project-1a2b3c.iam.gserviceaccount.com", "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5@project-1a2b3c.iam.gserviceaccount.com", identity.ServiceAccount}, // the longest ID
		{
			"principal://iam.googleapis.com/projects/1/x/subject/ns/pr-9f86d081884c7d659a2feaa0c55ad015/sa/app",
			"principal://iam.googleapis.com/projects/1/x/subject/ns/pr-9f86d081884c7d659a2feaa0c55ad015/sa/app", identity.Principal,
		},
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
}

func TestAPatternOfEverythingIsRefused(t *testing.T) {
	for _, tt := range []struct{ pattern, says string }{
		{"", "with an @"},
		{"*", "with an @"},
		{"**", "with an @"},
		{"project", "with an @"},
		{"*@", "with an @"},
		{"*@*", "with an @"},
		{"a b@project.com", "with an @"},
		{"*.svc.id.goog", "with an @"},
		{"n\u0130des@project.iam.gserviceaccount.com", "not ASCII"},
		{"*@*.*", "nodes-*@PROJECT.iam.gserviceaccount.com"},
		{"nodes@*.*", "nodes-*@PROJECT.iam.gserviceaccount.com"},
		{"nodes@*.-*", "nodes-*@PROJECT.iam.gserviceaccount.com"},
		{"*@*.iam.gserviceaccount.com", "*@PROJECT.iam.gserviceaccount.com"},
		{"**@*iam.gserviceaccount.com", "*@PROJECT.iam.gserviceaccount.com"},
		{"*-*@*.gserviceaccount.com", "*@PROJECT.iam.gserviceaccount.com"},
		{"*@*.com", "*@PROJECT.iam.gserviceaccount.com"},
		{"*@*.eu0.iam.gserviceaccount.com", "*@PROJECT.iam.gserviceaccount.com"},
	} {
		if p, err := identity.ParsePattern(tt.pattern); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("ParsePattern(%q) = %q, %v; want an error with %q", tt.pattern, p, err, tt.says)
		}
	}
	for _, s := range []string{"*@project.iam.gserviceaccount.com", "*@project-*.iam.gserviceaccount.com", "*@developer.gserviceaccount.com", "gke-*@*.iam.gserviceaccount.com"} {
		if p, err := identity.ParsePattern(s); err != nil || string(p) != s {
			t.Errorf("ParsePattern(%q) = %q, %v; want it", s, p, err)
		}
	}
}

func TestAnExpectationIsListedInAShortText(t *testing.T) {
	ids := func(n int) []identity.Identity {
		var ids []identity.Identity
		for i := range n {
			ids = append(ids, identity.Identity(fmt.Sprintf("app-%04d@project.iam.gserviceaccount.com", i)))
		}
		return ids
	}
	long := identity.Identity("principal://x.y/subject/" + strings.Repeat("a", 400))
	for _, tt := range []struct {
		name string
		e    identity.Expectation
		want string
	}{
		{"none", identity.Expectation{}, ""},
		{"one", identity.Expect(app), string(app)},
		{"two", identity.Expect(app, other), string(app) + "," + string(other)},
		{"a long one", identity.Expect(long), string(long)},
		{"a long one and others", identity.Expect(long, app, other), string(long) + ", and 2 more"},
	} {
		if got := tt.e.String(); got != tt.want {
			t.Errorf("the text of %s is %q, want %q", tt.name, got, tt.want)
		}
	}
	for n := range 300 {
		text := identity.Expect(ids(n)...).String()
		if len(text) > 256 {
			t.Fatalf("%d identities are listed in %d bytes, want at most 256: %s", n, len(text), text)
		}
		list, rest, cut := strings.Cut(text, ", and ")
		listed := strings.Count(list, "@")
		if more := fmt.Sprintf("%d more", n-listed); cut && rest != more || !cut && listed != n {
			t.Errorf("the text of %d identities is %q, want all, or how many are left out", n, text)
		}
		if cut && len(text)+len(ids(1)[0]) < 256 {
			t.Errorf("the text of %d identities is %q, which has room for more", n, text)
		}
	}
}

func TestEqualExpectations(t *testing.T) {
	e := identity.Expect(app, other)
	annotation := e
	annotation.Source = identity.SourceAnnotation
	for _, tt := range []struct {
		name string
		f    identity.Expectation
		want bool
	}{
		{"itself", identity.Expect(app, other), true},
		{"less", identity.Expect(app), false},
		{"another order", identity.Expect(other, app), false},
		{"another source", annotation, false},
		{"nothing", identity.Expectation{}, false},
	} {
		if got := e.Equal(tt.f); got != tt.want {
			t.Errorf("Equal(%s) = %t, want %t", tt.name, got, tt.want)
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
		{"not annotated", nil, "Project", "project.svc.id.goog,*.svc.id.goog", identity.SourceWorkloadPool},
		{"an empty annotation is none", map[string]string{identity.AnnotationServiceAccount: ""}, "project", "project.svc.id.goog,*.svc.id.goog", identity.SourceWorkloadPool},
		{"not annotated, the project is not known", nil, "", "*.svc.id.goog", identity.SourceWorkloadPool},
		{"not annotated, a project that is none", nil, "pro\u212Aect", "*.svc.id.goog", identity.SourceWorkloadPool},
		{"not annotated, a project with a domain", nil, "example.com:project", "*.svc.id.goog", identity.SourceWorkloadPool},
		{"not annotated, a project of a sovereign cloud", nil, "s3ns:project", "project.s3ns.svc.id.goog,*.svc.id.goog", identity.SourceWorkloadPool},
		{"not annotated, half a project", nil, "s3ns:", "*.svc.id.goog", identity.SourceWorkloadPool},
		{
			"the principal is asked for",
			map[string]string{identity.AnnotationReturnPrincipal: "true"},
			"project",
			"project.svc.id.goog,*.svc.id.goog,principal://*/subject/ns/demo/sa/app", identity.SourceWorkloadPool,
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
	// An annotation may have 256 KiB, and by mistake be a key.
	huge := "ya29.secret " + strings.Repeat("x", 100_000)
	if _, err := identity.FromAnnotations(map[string]string{identity.AnnotationServiceAccount: huge}, "demo", "app", "project"); err == nil || len(err.Error()) > 500 || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %.600v, want a short one without the credential", err)
	}
}

// People have the IAM member at hand, and write it down where an identity is wanted.
func TestAnIAMMemberIsRefusedWithWhatIsRight(t *testing.T) {
	for member, says := range map[string]string{
		// velero-plugin-for-gcp issue 194
		"serviceAccount:demo-project.svc.id.goog[demo/app]":           "the email of the service account, or the workload pool demo-project.svc.id.goog",
		"demo-project.svc.id.goog[demo/app]":                          "the email of the service account, or the workload pool demo-project.svc.id.goog",
		"serviceAccount:app@project.iam.gserviceaccount.com":          "app@project.iam.gserviceaccount.com",
		"serviceAccount:ya29.secret[demo/app]":                        "an IAM member",
		"principalSet://iam.googleapis.com/projects/1/namespace/demo": "a set of principals",
	} {
		if id, err := identity.Parse(member); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "ya29") {
			t.Errorf("Parse(%q) = %q, %v; want an error with %q", member, id, err, says)
		}
	}
}
