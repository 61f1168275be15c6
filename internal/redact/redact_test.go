package redact_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/redact"
)

func redactor(t *testing.T, key string) *redact.Redactor {
	t.Helper()
	r, err := redact.New([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const key = "0123456789abcdef0123456789abcdef"

func TestIdentitiesInATextAreHashed(t *testing.T) {
	r := redactor(t, key)
	const app, pool = "app@demo-project.iam.gserviceaccount.com", "demo-project.svc.id.goog"
	const principal = "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/demo.svc.id.goog/subject/ns/demo/sa/app"
	sa, inPool, subject := r.Text(app), r.Text(pool), r.Text(principal)
	for what, hash := range map[string]string{"sa-": sa, "pool-": inPool, "principal-": subject} {
		if !strings.HasPrefix(hash, what) || len(hash) != len(what)+12 {
			t.Errorf("hash %q, want %s and 12 digits", hash, what)
		}
	}
	for text, want := range map[string]string{
		"":                                  "",
		"no answer":                         "no answer",
		"a@":                                "a@",
		"Expected " + app + ", got x.":      "Expected " + sa + ", got x.",
		"it gives " + app + ".":             "it gives " + sa + ".",
		`"` + app + `" and '` + app + `'`:   `"` + sa + `" and '` + sa + `'`,
		app + "," + app:                     sa + "," + sa,
		strings.ToUpper(app):                sa,
		strings.Replace(app, "@", "%40", 1): sa,
		"serviceAccount:" + app:             "serviceAccount:" + sa,
		`--member="serviceAccount:` + pool + `[a/b]"`: `--member="serviceAccount:` + inPool + `[a/b]"`,
		`{"why":"first\n` + app + `"}`:                `{"why":"first\n` + sa + `"}`,
		`{"why":"\u003c` + app + `\u003e"}`:           `{"why":"\u003c` + sa + `\u003e"}`,
		"got " + principal + ".":                      "got " + subject + ".",
		"(" + pool + ")":                              "(" + inPool + ")",
		// What is not an identity stays.
		"metadata.google.internal, kubernetes.default.svc.cluster.local": "metadata.google.internal, kubernetes.default.svc.cluster.local",
	} {
		if got := r.Text(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
	if other := redactor(t, strings.ToUpper(key)).Text(app); other == sa {
		t.Error("another key gives the same hash")
	}
	if again := redactor(t, key+"\n").Text(app); again != sa {
		t.Errorf("with a newline behind the key the hash is %s, want %s", again, sa)
	}
}

// What may be stated is all hidden: what Parse accepts has no other form.
func TestNothingThatParsesIsShown(t *testing.T) {
	r := redactor(t, key)
	for _, s := range []string{
		"app@demo.iam.gserviceaccount.com", "GSA_NAME@PROJECT_ID.iam.gserviceaccount.com", "a+b@x.y", "project.eu0.svc.id.goog", "example.com:demo.svc.id.goog",
		"app@project.example.com.iam.gserviceaccount.com", "app@project.eu0.iam.gserviceaccount.com", "1-compute@developer.gserviceaccount.com",
		"principal://agents.global.org-1.system.id.goog/resources/aiplatform/projects/1/locations/x/reasoningEngines/2",
	} {
		id, err := identity.Parse(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if got := r.Text(string(id)); strings.ContainsAny(got, "@.:/") {
			t.Errorf("%s is shown as %s", s, got)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"app@demo.iam.gserviceaccount.com", `\n\u003ca@b.c`, "principal://a/b.", "x.svc.id.goog[n/s]", "a@v1.2.3"} {
		f.Add(s)
	}
	r, err := redact.New([]byte(key))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := identity.Parse(s)
		if err != nil {
			return
		}
		for _, text := range []string{s, "got " + s + ", which is wrong", `{"why":"\n` + s + `"}`} {
			if shown := strings.ToLower(r.Text(text)); strings.Contains(shown, string(id)) || strings.ContainsAny(shown, "@") {
				t.Errorf("%q is shown as %q", text, shown)
			}
		}
	})
}

func TestACopyIsRedacted(t *testing.T) {
	type inner struct {
		Of   identity.Identity
		At   time.Time
		Seen *string
		none *string
	}
	type outer struct {
		inner
		All   []inner
		By    map[string]identity.Identity
		Lines [][]string
	}
	name := "a@b.c"
	given := outer{
		inner: inner{Of: "a@b.c", Seen: &name, At: time.Unix(1, 0)}, All: []inner{{Of: "a@b.c", none: &name}},
		By: map[string]identity.Identity{"x": "a@b.c"}, Lines: [][]string{{"run a@b.c"}},
	}
	r := redactor(t, key)
	want := r.Text(name)
	got := redact.Value(r, given)
	// The embedded one is not exported, and so neither shown by anybody.
	if got.All[0].Of != identity.Identity(want) || got.By["x"] != identity.Identity(want) || got.Lines[0][0] != "run "+want || !got.At.Equal(given.At) || got.All[0].none != &name {
		t.Errorf("the copy is %+v", got)
	}
	if given.All[0].Of != "a@b.c" || given.By["x"] != "a@b.c" || given.Lines[0][0] != "run a@b.c" || name != "a@b.c" {
		t.Errorf("what was copied is now %+v", given)
	}
	if kept := redact.Value(nil, given); kept.All[0].Of != "a@b.c" {
		t.Errorf("without a key it is %+v", kept)
	}
}

func TestWhatIsWrittenIsRedacted(t *testing.T) {
	var to bytes.Buffer
	r := redactor(t, key)
	line := "observed a@b.c\n"
	if n, err := r.Writer(&to).Write([]byte(line)); n != len(line) || err != nil || to.String() != "observed "+r.Text("a@b.c")+"\n" {
		t.Errorf("%d, %v, %q", n, err, to.String())
	}
	if w := (*redact.Redactor)(nil).Writer(&to); w != &to {
		t.Error("without a key there is a writer between")
	}
}

func TestAKeyThatIsNoneIsRefused(t *testing.T) {
	for _, k := range []string{"", "short", "   0123456789abcde   ", strings.Repeat("0", 64)} {
		if _, err := redact.New([]byte(k)); err == nil {
			t.Errorf("the key %q is taken", k)
		}
	}
}
