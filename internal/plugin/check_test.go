package plugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

const gsa = "iam.gke.io/gcp-service-account"

// podServer is an API server with one Pod, whose ephemeral container ends as it is told to.
type podServer struct {
	spec, status, node object
	annotations        object
	refuses            string // in place of the container: the message of a 403
	state              object // of the container
	log                string
	added              map[string]any // the container that was added
	patches            int
}

func (p *podServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	refuse := func(code int, reason, message string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": message})
	}
	pod := object{"metadata": object{"name": "app-0", "namespace": "shop"}, "spec": p.spec, "status": p.status}
	switch r.URL.Path {
	case "/api/v1/namespaces/shop/pods/app-0":
		if p.added != nil {
			p.status["ephemeralContainerStatuses"] = []object{{"name": "somebody-elses", "state": object{"terminated": object{"exitCode": 0}}}, {"name": p.added["name"], "state": p.state}}
		}
		_ = json.NewEncoder(w).Encode(pod)
	case "/api/v1/namespaces/shop/pods/app-0/ephemeralcontainers":
		p.patches++
		if p.refuses != "" {
			refuse(http.StatusForbidden, "Forbidden", p.refuses)
			return
		}
		var patch struct {
			Spec struct{ EphemeralContainers []map[string]any }
		}
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &patch); err != nil || r.Method != http.MethodPatch || r.Header.Get("Content-Type") != "application/strategic-merge-patch+json" {
			refuse(http.StatusBadRequest, "BadRequest", fmt.Sprintf("%s %v: %s", r.Method, err, body))
			return
		}
		p.added = patch.Spec.EphemeralContainers[0]
		_ = json.NewEncoder(w).Encode(pod)
	case "/api/v1/namespaces/shop/pods/app-0/log":
		if r.URL.Query().Get("container") == p.added["name"] {
			fmt.Fprint(w, p.log)
		}
	case "/api/v1/nodes/n1":
		_ = json.NewEncoder(w).Encode(p.node)
	case "/api/v1/namespaces/shop/serviceaccounts/app":
		_ = json.NewEncoder(w).Encode(object{"metadata": object{"name": "app", "annotations": p.annotations}})
	default:
		refuse(http.StatusNotFound, "NotFound", r.URL.Path+" not found")
	}
}

func newPodServer() *podServer {
	said, _ := json.MarshalIndent(report.Report{State: identity.NodeFallback, ExitCode: 1, Meaning: identity.NodeFallback.Meaning(), Observed: "n@p.iam.gserviceaccount.com"}, "", "  ")
	return &podServer{
		spec: object{"nodeName": "n1", "serviceAccountName": "app"}, status: object{"phase": "Running"}, annotations: object{gsa: app},
		node:  object{"metadata": object{"labels": object{"kubernetes.io/os": "linux", "iam.gke.io/gke-metadata-server-enabled": "true"}}, "spec": object{"providerID": "gce://demo-project/zone/n1"}},
		state: object{"terminated": object{"exitCode": 1}}, log: "warning: something {odd}\n" + string(said) + "\n",
	}
}

func (p *podServer) check(ctx context.Context, t *testing.T, o plugin.PodCheck) (plugin.Checked, error) {
	t.Helper()
	s := httptest.NewServer(p)
	defer s.Close()
	c, err := plugin.NewCluster(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	o.Image, o.Say = "registry.example/agent:1", func(what string) { t.Log(what) }
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	return c.Check(ctx, "shop", "app-0", o)
}

func TestAPodIsCheckedInItsOwnNetwork(t *testing.T) {
	p := newPodServer()
	got, err := p.check(t.Context(), t, plugin.PodCheck{})
	if err != nil {
		t.Fatal(err)
	}
	if got.ExitCode != 1 || got.Problem != "" || got.Report == nil || got.Report.State != identity.NodeFallback || got.Expected != app || got.Node != "n1" || got.ServiceAccount != "app" {
		t.Errorf("%+v", got)
	}
	// Pod Security Standards, "Restricted": what it asks of a container.
	security, _ := json.Marshal(p.added["securityContext"])
	want := `{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"privileged":false,"readOnlyRootFilesystem":true,"runAsGroup":65532,"runAsNonRoot":true,"runAsUser":65532,"seccompProfile":{"type":"RuntimeDefault"}}`
	if string(security) != want {
		t.Errorf("securityContext\n%s\nwant\n%s", security, want)
	}
	if command := fmt.Sprint(p.added["command"]); command != "[/workload-identity-exporter check -expect="+app+" -output=json]" || p.added["image"] != "registry.example/agent:1" {
		t.Errorf("it runs %s of %s", command, p.added["image"])
	}
	var text, data bytes.Buffer
	if err := plugin.PrintChecks(&text, []plugin.Checked{got}, "table"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"pod       shop/app-0 on n1, ServiceAccount app\n", "verdict   node_fallback: ", "container " + got.Container, "nothing can remove it"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &text)
		}
	}
	if err := plugin.PrintChecks(&data, []plugin.Checked{got}, "json"); err != nil || !strings.Contains(data.String(), `"state": "node_fallback"`) {
		t.Errorf("%v: %s", err, &data)
	}
}

// Nothing is added to a Pod of which it is known that it cannot answer.
func TestAPodThatCannotBeChecked(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*podServer)
		want   string
	}{
		"hostNetwork":   {func(p *podServer) { p.spec["hostNetwork"] = true }, "it gets the identity of its node at any time"},
		"finished":      {func(p *podServer) { p.status["phase"] = "Succeeded" }, "has finished (Succeeded)"},
		"pending":       {func(p *podServer) { p.status["phase"] = "Pending" }, "does not run yet (Pending)"},
		"Windows":       {func(p *podServer) { p.node["metadata"] = object{"labels": object{"kubernetes.io/os": "windows"}} }, "runs on Windows"},
		"no annotation": {func(p *podServer) { p.annotations = nil }, "demo-project.svc.id.goog, or that of the fleet's host project: name what is right by --expect"},
		"a principal, perhaps": {
			func(p *podServer) { p.annotations["iam.gke.io/return-principal-id-as-email"] = "true" }, "by --expect",
		},
	} {
		p := newPodServer()
		tt.change(p)
		got, err := p.check(t.Context(), t, plugin.PodCheck{})
		if err != nil || got.ExitCode != report.ExitInconclusive || !strings.Contains(got.Problem, tt.want) || p.patches != 0 {
			t.Errorf("%s: %v, %d patches, exit code %d: %q, want %q", name, err, p.patches, got.ExitCode, got.Problem, tt.want)
		}
	}
	for name, annotations := range map[string]object{
		"is not the email":                 {gsa: "app"},
		"looks as if it was meant to be":   {"iam.gke.io/gcp-serviceaccount": app},
		"ServiceAccount shop/app has no a": {"iam.gke.io/gcp-service-acount": app},
	} {
		p := newPodServer()
		p.annotations = annotations
		if _, err := p.check(t.Context(), t, plugin.PodCheck{}); err == nil || !strings.Contains(err.Error(), name) || p.patches != 0 {
			t.Errorf("%v: %v, want %q", annotations, err, name)
		}
	}
	p := newPodServer()
	p.annotations, p.spec["runtimeClassName"] = nil, "gvisor"
	if got, err := p.check(t.Context(), t, plugin.PodCheck{Expect: []string{"a@b.iam.gserviceaccount.com", "demo-project.svc.id.goog"}}); err != nil || got.Expected != "a@b.iam.gserviceaccount.com,demo-project.svc.id.goog" || got.Report == nil {
		t.Errorf("with --expect: %v, %+v", err, got)
	}
}

func TestTheClusterRefusesTheContainer(t *testing.T) {
	p := newPodServer()
	p.refuses = `pods "app-0" is forbidden: User "dev" cannot patch resource "pods/ephemeralcontainers" in API group "" in the namespace "shop"`
	_, err := p.check(t.Context(), t, plugin.PodCheck{})
	if err == nil || !strings.Contains(err.Error(), "  kubectl debug -n shop app-0 --profile=restricted --image=registry.example/agent:1 -c workload-identity-") ||
		!strings.Contains(err.Error(), " -- /workload-identity-exporter check -expect="+app) || !strings.Contains(err.Error(), p.refuses) {
		t.Errorf("without the right: %v", err)
	}
	p.refuses = `admission webhook "images.example" denied the request: registry.example is not trusted`
	if _, err := p.check(t.Context(), t, plugin.PodCheck{}); err == nil || strings.Contains(err.Error(), "kubectl debug") || !strings.Contains(err.Error(), "does not admit the ephemeral container") || !strings.Contains(err.Error(), p.refuses) {
		t.Errorf("by admission: %v", err)
	}
}

func TestTheContainerGivesNoVerdict(t *testing.T) {
	waits := func(reason string) object {
		return object{"waiting": object{"reason": reason, "message": "back-off\x1b[2J"}}
	}
	for want, tt := range map[string]struct {
		state object
		log   string
	}{
		"the container does not start: ImagePullBackOff back-off [2J; name an image": {state: waits("ImagePullBackOff")},
		"the container does not start: CreateContainerConfigError back-off [2J":      {state: waits("CreateContainerConfigError")},
		"the container does not start: ErrImagePull back-off [2J; name an image":     {state: waits("ErrImagePull")},
		"no answer within 700ms: it runs, and has not ended":                         {state: object{"running": object{}}},
		"did not run the check: it ended with 128, StartError no such file":          {state: object{"terminated": object{"exitCode": 128, "reason": "StartError", "message": "no such file"}}},
		"check ended with 0 and said no report:\nall is well [2J\n":                  {state: object{"terminated": object{"exitCode": 0}}, log: "all is well\x1b[2J\n"},
		"check ended with 2 and said no report:\n{\"state\": \"gone_to_lunch\"}\n":   {state: object{"terminated": object{"exitCode": 2}}, log: "{\"state\": \"gone_to_lunch\"}\n"},
	} {
		p := newPodServer()
		p.state, p.log = tt.state, tt.log
		got, err := p.check(t.Context(), t, plugin.PodCheck{Timeout: 700 * time.Millisecond})
		var text bytes.Buffer
		if err == nil {
			err = plugin.PrintChecks(&text, []plugin.Checked{got}, "table")
		}
		if err != nil || !strings.Contains(text.String(), want) || strings.Contains(text.String(), "\x1b") || !strings.Contains(text.String(), "stays listed") {
			t.Errorf("%v:\n%s\nwant %q", err, &text, want)
		}
	}
}

func TestCtrlCEndsTheWait(t *testing.T) {
	p := newPodServer()
	p.state = object{"running": object{}}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := p.check(ctx, t, plugin.PodCheck{})
	if err == nil || !strings.Contains(err.Error(), "interrupted; what it finds is in kubectl logs -n shop app-0 -c workload-identity-") {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestPodsOfAWorkload(t *testing.T) {
	pod := func(name, node, ready string) object {
		return object{"metadata": object{"name": name}, "spec": object{"nodeName": node}, "status": object{"conditions": []object{{"type": "Ready", "status": ready}}}}
	}
	pods := []object{pod("a", "n1", "True"), pod("b", "n1", "True"), pod("c", "n2", "True"), pod("d", "n3", "False")}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/apis/apps/v1/namespaces/shop/deployments/app", "/apis/batch/v1/namespaces/shop/jobs/app":
			_ = json.NewEncoder(w).Encode(object{"spec": object{"selector": object{"matchLabels": object{"app": "a"}}}})
		case "/apis/apps/v1/namespaces/shop/statefulsets/app":
			_ = json.NewEncoder(w).Encode(object{"spec": object{"selector": object{"matchLabels": object{"app": "none"}}}})
		case "/api/v1/namespaces/shop/pods":
			if r.URL.Query().Get("labelSelector") != "app=a" {
				pods = pods[3:]
			}
			_ = json.NewEncoder(w).Encode(object{"items": pods})
		default:
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	c, err := plugin.NewCluster(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]string{"app-0": "app-0", "pod/app-0": "app-0", "deploy/app": "a c b", "Deployment.apps/app": "a c b", "jobs/app": "a c b"} {
		if got, err := c.Pods(t.Context(), "shop", what, 5); err != nil || !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %v, %v, want %s", what, got, err, want)
		}
	}
	if got, err := c.Pods(t.Context(), "shop", "deploy/app", 1); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("one: %v, %v", got, err)
	}
	for what, want := range map[string]string{
		"node/n1": "want a pod, deploy", "pod/": "want POD or KIND/NAME", "deploy/../x": "want POD or KIND/NAME", "deploy/gone": "the server could not find",
		"sts/app": "none of the 1 Pods of sts/app in the namespace shop is ready",
	} {
		if got, err := c.Pods(t.Context(), "shop", what, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %q", what, got, err, want)
		}
	}
}
