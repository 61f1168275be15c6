package kube_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is an API server, and a client that finds it as in a Pod.
type cluster struct {
	*kubetest.Server
	client  *kube.Client
	self    kube.Self
	reasons []kube.Reason
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	s, err := kubetest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	for _, e := range s.Environment() {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	c := &cluster{Server: s}
	config, err := kube.Config(os.Getenv, s.Directory)
	if err != nil {
		t.Fatal(err)
	}
	c.client, err = kube.NewClient(config, "test/1", func(_ kube.Resource, r kube.Reason) { c.reasons = append(c.reasons, r) })
	if err != nil {
		t.Fatal(err)
	}
	if c.self, err = kube.SelfFromToken(s.Directory); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) read(t *testing.T, timeout time.Duration) (identity.Reading, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return c.client.Expectation(ctx, c.self)
}

func TestTheExpectationIsReadFromTheAnnotation(t *testing.T) {
	c := newCluster(t)
	for _, tt := range []struct {
		annotations map[string]string
		want        string
	}{
		{nil, "demo-project.svc.id.goog,*.svc.id.goog"},
		{map[string]string{identity.AnnotationServiceAccount: "app@demo-project.iam.gserviceaccount.com"}, "app@demo-project.iam.gserviceaccount.com"},
	} {
		c.Annotate(tt.annotations)
		e, err := c.read(t, 5*time.Second)
		if err != nil || e.String() != tt.want {
			t.Errorf("expectation %q, %v; want %q", e, err, tt.want)
		}
	}
}

// It was read well, so that it may be compared with what the metadata server gives.
func TestAnAnnotationThatIsNoEmailIsReadBesideTheError(t *testing.T) {
	c := newCluster(t)
	c.Annotate(map[string]string{identity.AnnotationServiceAccount: `"app@demo-project.iam.gserviceaccount.com`})
	e, err := c.read(t, 5*time.Second)
	if err == nil || e.Known() || e.Invalid != `"app@demo-project.iam.gserviceaccount.com` {
		t.Errorf("expectation %+v, %v; want the annotation and an error", e, err)
	}
}

func TestAReadIsOneRequestToTheWatchCache(t *testing.T) {
	c := newCluster(t)
	for range 3 {
		if _, err := c.read(t, 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	requests := c.Requests()
	if len(requests) != 3 {
		t.Fatalf("%d requests for three reads, want 3", len(requests))
	}
	r := requests[0]
	if r.Method != http.MethodGet || r.URL.Path != "/api/v1/namespaces/demo/serviceaccounts/app" || r.URL.RawQuery != "resourceVersion=0" {
		t.Errorf("%s %s, want a get of the one ServiceAccount with resourceVersion=0", r.Method, r.URL)
	}
	if accept := r.Header.Get("Accept"); !strings.Contains(accept, "as=PartialObjectMetadata") {
		t.Errorf("Accept %q, want the metadata alone", accept)
	}
	if r.UserAgent() != "test/1" {
		t.Errorf("User-Agent %q, want test/1", r.UserAgent())
	}
	c.leavesNothing(t)
}

// leavesNothing fails unless all connections are closed: one for each node, and idle,
// would burden the API server.
func (c *cluster) leavesNothing(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for c.Connections() > 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // the server notices a little later
	}
	if n := c.Connections(); n != 0 {
		t.Errorf("%d connections stay open after a read, want none", n)
	}
}

func TestFailuresSayWhatToDo(t *testing.T) {
	c := newCluster(t)
	for _, tt := range []struct {
		status  int
		delay   time.Duration
		timeout time.Duration
		reason  kube.Reason
		says    []string
	}{
		{http.StatusForbidden, 0, 5 * time.Second, kube.Forbidden, []string{"demo/app", "verb get", "WI_EXPECTED_EMAILS", `serviceaccounts "app"`}},
		{http.StatusUnauthorized, 0, 5 * time.Second, kube.Forbidden, []string{"demo/app", "refuses the token"}},
		{http.StatusNotFound, 0, 5 * time.Second, kube.NotFound, []string{"demo/app", "WI_SERVICE_ACCOUNT"}},
		{http.StatusTooManyRequests, 0, 5 * time.Second, kube.Throttled, []string{"demo/app"}},
		{kubetest.Cut, 0, 5 * time.Second, kube.Unavailable, []string{"demo/app"}},
		{http.StatusInternalServerError, 0, 5 * time.Second, kube.Unavailable, []string{"demo/app"}},
		{http.StatusOK, time.Minute, 100 * time.Millisecond, kube.Timeout, []string{"demo/app"}},
	} {
		c.Answer(tt.status, tt.delay)
		c.reasons = nil
		before := len(c.Requests())
		e, err := c.read(t, tt.timeout)
		if err == nil || e.Known() {
			t.Errorf("status %d: expectation %q without an error", tt.status, e)
			continue
		}
		if len(c.reasons) != 1 || c.reasons[0] != tt.reason {
			t.Errorf("status %d: observed reasons %q, want %s", tt.status, c.reasons, tt.reason)
		}
		// An API server that is in trouble must not be asked again at once.
		if n := len(c.Requests()) - before; n != 1 {
			t.Errorf("status %d: %d requests, want 1", tt.status, n)
		}
		c.leavesNothing(t)
		for _, part := range tt.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("status %d: error %q lacks %q", tt.status, err, part)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("status %d: error %q is not one line", tt.status, err)
		}
		if claims := strings.Split(kubetest.Token(), ".")[1]; strings.Contains(err.Error(), claims) {
			t.Errorf("status %d: the error quotes the token", tt.status)
		}
	}
	c.Close()
	c.reasons = nil
	if _, err := c.read(t, 5*time.Second); err == nil || len(c.reasons) != 1 || c.reasons[0] != kube.Unavailable {
		t.Errorf("a server that is gone: %v, %q", err, c.reasons)
	}
}

func TestASuccessIsObservedWithoutAReason(t *testing.T) {
	c := newCluster(t)
	if _, err := c.read(t, 5*time.Second); err != nil || len(c.reasons) != 1 || c.reasons[0] != "" {
		t.Errorf("%v, reasons %q; want one that is empty", err, c.reasons)
	}
}

func TestSelfIsReadFromTheToken(t *testing.T) {
	write := func(t *testing.T, token string) string {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".sig"
	}
	for _, tt := range []struct {
		name, token string
		want        kube.Self
		wrong       bool
	}{
		{"a token of GKE", kubetest.Token() + "\n", kube.Self{Namespace: "demo", ServiceAccount: "app", Node: "node-1", Pod: "exporter-abcde", PodUID: "3", Project: "demo-project"}, false},
		{
			"a token of an older Kubernetes, which names no node",
			jwt(`{"iss":"https://kubernetes.default.svc","kubernetes.io":{"namespace":"demo","pod":{"name":"p"},"serviceaccount":{"name":"app"}}}`),
			kube.Self{Namespace: "demo", ServiceAccount: "app", Pod: "p"},
			false,
		},
		{"a token of somebody else", jwt(`{"iss":"https://example.com/projects/x"}`), kube.Self{}, false},
		{"no token", "secret", kube.Self{}, true},
		{"not base64", "a.*.c", kube.Self{}, true},
		{"not JSON", jwt("secret"), kube.Self{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := kube.SelfFromToken(write(t, tt.token))
			if got != tt.want || (err != nil) != tt.wrong {
				t.Errorf("SelfFromToken() = %+v, %v; want %+v", got, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q quotes the token", err)
			}
		})
	}
	if got, err := kube.SelfFromToken(t.TempDir()); err != nil || got != (kube.Self{}) {
		t.Errorf("without a token: %+v, %v; want nothing and no error", got, err)
	}
}

func TestConfiguredNamesWin(t *testing.T) {
	got := kube.Self{Namespace: "a", Node: "n"}.Or(kube.Self{Namespace: "b", ServiceAccount: "c", Pod: "d", Project: "e"})
	if want := (kube.Self{Namespace: "a", ServiceAccount: "c", Node: "n", Pod: "d", Project: "e"}); got != want {
		t.Errorf("Or() = %+v, want %+v", got, want)
	}
}

func TestOutsideOfAClusterThereIsNoAPIServer(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := kube.Config(os.Getenv, t.TempDir()); err != kube.ErrNotInCluster { //nolint:errorlint // this very value
		t.Errorf("Config() without the variables: %v", err)
	}
}
