package identity_test

import (
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

var fuzzedNames = []string{
	"app@demo-project.iam.gserviceaccount.com", " APP@demo-project.iam.gserviceaccount.com\n", "1-compute@developer.gserviceaccount.com",
	"demo-project.svc.id.goog", "example.com:project.svc.id.goog", "serviceAccount:demo-project.svc.id.goog[demo/app]", "principalSet://iam.googleapis.com/x",
	"principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/subject/ns/demo/sa/app",
	"GSA_NAME@PROJECT_ID.iam.gserviceaccount.com", "\u212a@p.iam.gserviceaccount.com", "a\u202eb@c.d", "ya29.c.0123456789abcdef0123456789@x.y", "\x00", "\xff", "@", "*@*", "",
}

// FuzzParse is an email, a workload pool or a principal, as a server or an annotation has it.
func FuzzParse(f *testing.F) {
	for _, s := range fuzzedNames {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		checkShown(t, identity.Shown(s), 256)
		id, err := identity.Parse(s)
		if (err == nil) == (id == "") {
			t.Fatalf("%q, %v", id, err)
		}
		if err != nil {
			if len(err.Error()) > 1024 || !utf8.ValidString(err.Error()) {
				t.Errorf("the error is %q", err)
			}
			return
		}
		checkShown(t, string(id), 512)
		if again, err := identity.Parse(string(id)); again != id || err != nil || id.Kind() == "" {
			t.Errorf("%q is %q, %v, a %q", id, again, err, id.Kind())
		}
		// It is the same text but for the case of ASCII, and white space around it.
		if !strings.EqualFold(strings.TrimSpace(s), string(id)) || len(strings.TrimSpace(s)) != len(id) {
			t.Errorf("%q became %q", s, id)
		}
	})
}

func checkShown(t *testing.T, s string, most int) {
	t.Helper()
	if len(s) > most || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		t.Errorf("%q is not a line of at most %d printable bytes", s, most)
	}
}

// FuzzPattern is a configured pattern of accounts, and an identity.
func FuzzPattern(f *testing.F) {
	for _, p := range []string{"*-compute@developer.gserviceaccount.com", "nodes-*@demo-project.iam.gserviceaccount.com", "*a*b*@p.c", "n@*.iam.gserviceaccount.com", "*@*", "a**b@c.d"} {
		for _, s := range fuzzedNames {
			f.Add(p, s)
		}
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		p, err := identity.ParsePattern(pattern)
		if err != nil {
			return
		}
		id, err := identity.Parse(s)
		if err != nil {
			return
		}
		// No identity with an @ has a slash or a bracket, nor has a pattern.
		want, err := path.Match(string(p), string(id))
		if err != nil || id.Kind() == identity.Principal {
			want = false
		}
		if got := p.Match(id); got != want {
			t.Errorf("%q matches %q: %t, want %t", p, id, got, want)
		}
		if p.Match("app@demo-project.iam.gserviceaccount.com") && p.Match("x@other.example.com") && p.Match("y@z.iam.gserviceaccount.com") {
			t.Errorf("%q is everybody", p)
		}
	})
}

// FuzzAnnotations are those of a ServiceAccount, against what a server gives.
func FuzzAnnotations(f *testing.F) {
	for _, s := range fuzzedNames {
		for _, observed := range fuzzedNames[:4] {
			f.Add(s, "iam.gke.io/gcp-service-acount", "true", "demo", "app", "demo-project", observed)
			f.Add(s, "", "", "demo", "app", "example.com:project", observed)
		}
	}
	f.Fuzz(func(t *testing.T, annotation, key, principal, namespace, name, project, observed string) {
		// These two come from JSON, or from variables that are refused if they are no UTF-8.
		namespace, name = strings.ToValidUTF8(namespace, "x"), strings.ToValidUTF8(name, "x")
		annotations := map[string]string{key: "x", identity.AnnotationServiceAccount: annotation, identity.AnnotationReturnPrincipal: principal}
		if near := identity.NearMiss(annotations); near != "" && near != key && near != identity.AnnotationReturnPrincipal {
			t.Errorf("the near miss %q is no key", near)
		}
		e, err := identity.FromAnnotations(annotations, namespace, name, project)
		if (err != nil) != (e.Invalid != "" || !e.Known()) {
			t.Errorf("%+v, %v", e, err)
		}
		checkShown(t, e.Invalid, 256)
		if err != nil && !utf8.ValidString(err.Error()) {
			t.Errorf("the error is %q", err)
		}
		id, _ := identity.Parse(observed)
		asked := identity.Request{Origin: identity.Asked}
		o := identity.Observation{Email: identity.Email{Request: asked, Identity: id, Instead: identity.Shown(observed)}, Token: identity.Token{Request: asked}}
		if id == "" {
			o.Email.Failure = &identity.Failure{Reason: identity.Malformed}
		}
		v := identity.Judge(e, identity.DefaultNodeAccounts(), o)
		if v.State != identity.Match {
			return
		}
		switch id.Kind() {
		case identity.ServiceAccount:
			if !strings.EqualFold(strings.TrimSpace(annotation), string(id)) {
				t.Errorf("a match of %q with the annotation %q", id, annotation)
			}
		case identity.WorkloadPool:
			if strings.TrimSpace(annotation) != "" || !strings.HasSuffix(string(id), ".svc.id.goog") {
				t.Errorf("a match of %q with the annotation %q", id, annotation)
			}
		case identity.Principal:
			if principal != "true" || !strings.HasSuffix(string(id), "/subject/ns/"+namespace+"/sa/"+name) {
				t.Errorf("a match of %q for %s/%s", id, namespace, name)
			}
		}
	})
}
