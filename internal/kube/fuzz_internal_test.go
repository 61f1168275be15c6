package kube

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// answering gives every request the same answer.
type answering struct {
	status int
	body   string
}

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: a.status, Header: http.Header{"Content-Type": {"application/json"}, "Date": {"Thu, 26 Nov 2026 12:00:00 GMT"}},
		Body: io.NopCloser(strings.NewReader(a.body)), Request: r, ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

// FuzzObjects is the JSON of the API server, for each kind of object that is read.
func FuzzObjects(f *testing.F) {
	for _, s := range []string{
		`{"metadata":{"name":"app","annotations":{"iam.gke.io/gcp-service-account":"app@demo-project.iam.gserviceaccount.com"},"managedFields":[{"time":"2026-11-26T11:59:30Z","fieldsV1":{"f:metadata":{"f:annotations":{"f:iam.gke.io/gcp-service-account":{}}}}}]}}`,
		`{"metadata":{"name":"cilium-config","managedFields":[{"time":"9999-12-31T23:59:59Z","fieldsV1":{"f:data":{}}}]},"data":{"enable-bpf-masquerade":"true"}}`,
		`{"metadata":{"labels":{"a":"b"},"annotations":{"network.cilium.io/x":"y"}},"spec":{"taints":[{"key":"node.cilium.io/\u001b[31m"}]},"status":{"conditions":[{"reason":"CiliumIsUp"}]}}`,
		`{"items":[{"metadata":{"name":"c"},"spec":{"nodeSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]},"defaults":{"x":"y"}}}]}`,
		`{"metadata":{"continue":"x"},"items":[{"spec":{"nodeSelector":{}}},{"spec":{"nodeSelector":null}}]}`,
		`{"items":[{"metadata":{},"spec":{"containers":[{"name":"cilium-agent","image":"quay.io/cilium/cilium:v1.20.2@sha256:00"}]},"status":{"startTime":"2026-11-26T00:00:00Z"}}]}`,
		`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"forbidden \u202e @T@","reason":"Forbidden","code":403}`,
		`{"metadata":null}`, `{"metadata":{"managedFields":{}}}`, `{"metadata":{"managedFields":[1,[],{"time":1},{"fieldsV1":"x"}]}}`, `[]`, `null`, "\xff", "",
	} {
		for kind, status := range []int{200, 200, 200, 200, 200, 200, 403, 429, 500} {
			f.Add(uint8(kind), status, s)
		}
	}
	self := Self{Namespace: "demo", ServiceAccount: "app", Node: "n1", Project: "demo-project"}
	// The fuzzer writes a mark where the secret is to be, or it would soon have another.
	const mark, unmistakable = "@T@", "7Qw2xZ9LrT4bVn8KpY3m"
	f.Fuzz(func(t *testing.T, kind uint8, status int, body string) {
		body = strings.ReplaceAll(body, mark, "ya29.c.fuzzed-"+unmistakable)
		a := answering{max(100, min(status, 999)), body}
		c, err := NewClient(&rest.Config{Host: "http://127.0.0.1", WrapTransport: func(http.RoundTripper) http.RoundTripper { return a }}, "test/1", func(Resource, Reason) {})
		if err != nil {
			t.Fatal(err)
		}
		r := settingsReader{client: c, self: self, Settings: diagnose.Settings{NodeLabels: map[string]string{"a": "b"}, Cilium: diagnose.ConfigMap{Namespace: "kube-system"}}}
		switch kind % 6 {
		case 0:
			e, err := c.Expectation(t.Context(), self)
			if err != nil && (len(err.Error()) > 2048 || strings.Contains(err.Error(), unmistakable) || strings.ContainsFunc(err.Error(), isUnprintable)) {
				t.Errorf("the error is %q", err)
			}
			if e.Age < 0 || !e.Changed.IsZero() && e.Changed.Year() < 1 {
				t.Errorf("changed %s, %s ago", e.Changed, e.Age)
			}
			if e.Known() && e.Source == identity.SourceAnnotation && status != http.StatusOK && status != http.StatusCreated && status/100 != 2 {
				t.Errorf("an expectation by the status %d", status)
			}
		case 1:
			if m := r.configMap(t.Context(), "cilium-config", "kube-system"); m.State != diagnose.Read && len(m.Data) > 0 {
				t.Errorf("data of a ConfigMap that was not read: %+v", m)
			}
		case 2:
			r.readNode(t.Context())
		case 3:
			r.readNodeConfigs(t.Context())
			if r.NodeConfigs.State != diagnose.Read && len(r.NodeConfigs.Items) > 0 {
				t.Errorf("items that were not read: %+v", r.NodeConfigs)
			}
		case 4:
			r.readCiliumPod(t.Context())
			r.readCiliumVersion(t.Context())
			if strings.Contains(r.CiliumAgent.Version, "/") {
				t.Errorf("the version is %q", r.CiliumAgent.Version)
			}
		case 5:
			r.readAnetd(t.Context())
		}
		if kind%6 != 0 {
			checkDiagnosis(t, r.Settings)
		}
	})
}

func isUnprintable(r rune) bool { return r < ' ' || r > '~' }

// checkDiagnosis shows the settings to those who explain a verdict by them.
func checkDiagnosis(t *testing.T, s diagnose.Settings) {
	t.Helper()
	d := diagnose.Diagnose(diagnose.Facts{
		Settings: s,
		Loop:     diagnose.Loop{Verdict: identity.Verdict{State: identity.NodeFallback, Server: identity.ServerVM, Identity: "1-compute@developer.gserviceaccount.com"}},
	})
	for _, found := range append(d.Suspects, d.RuledOut...) {
		if len(found.Why) > 2048 || strings.ContainsFunc(found.Why, isUnprintable) {
			t.Errorf("why is %q", found.Why)
		}
	}
}

// FuzzOwnToken is the token that the kubelet has mounted.
func FuzzOwnToken(f *testing.F) {
	for _, s := range []string{
		`{"iss":"https://container.googleapis.com/v1/projects/demo-project/locations/x/clusters/y","kubernetes.io":{"namespace":"demo","node":{"name":"n1"},"pod":{"name":"p","uid":"u"},"serviceaccount":{"name":"app"}}}`,
		`{"kubernetes.io":{"namespace":1}}`, `{"kubernetes.io":[]}`, `{"iss":"/projects/a/locations/b/projects/"}`, `{}`, `null`, "\xff",
	} {
		f.Add("e30", []byte(s), "c2ln")
	}
	f.Add(".", []byte("{}"), "\n")
	f.Fuzz(func(t *testing.T, header string, payload []byte, signature string) {
		self, ok := claimsOf(header + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + signature)
		if !ok && self != (Self{}) {
			t.Errorf("%+v of a token that cannot be read", self)
		}
		if strings.Contains(self.Project, "/locations/") {
			t.Errorf("the project is %q", self.Project)
		}
		if ok && strings.Count(header+signature, ".") > 0 {
			t.Errorf("a token of more than three parts was read")
		}
	})
}

// FuzzManagedFields are those who own fields of an object, and when they changed it.
func FuzzManagedFields(f *testing.F) {
	for _, s := range []string{
		`[{"time":"2026-11-26T11:59:30Z","fieldsV1":{"f:metadata":{"f:annotations":{"f:iam.gke.io/gcp-service-account":{}}},"f:data":{}}}]`,
		`[{"time":"0000-01-01T00:00:00Z","fieldsV1":{"f:data":{}}},{"time":"9999-12-31T23:59:59-23:59","fieldsV1":{"f:data":{}}}]`,
		`[1,"x",null,{"time":1,"fieldsV1":{"f:data":{}}}]`, `{}`, `[`, `[[[[`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, fields []byte) {
		o := object{ManagedFields: fields, Annotations: map[string]string{identity.AnnotationServiceAccount: "x"}}
		for _, at := range []time.Time{o.changed(), o.changedBelow("f:data")} {
			if !at.IsZero() && !strings.Contains(string(fields), "T") && !strings.Contains(string(fields), "\\u") {
				t.Errorf("a time %s of nothing", at)
			}
		}
	})
}
