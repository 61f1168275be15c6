package cluster

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

const (
	app   = "app@demo-project.iam.gserviceaccount.com"
	other = "other@demo-project.iam.gserviceaccount.com"
)

// bound is the annotation that binds a ServiceAccount to a Google service account.
func bound(email string) map[string]string {
	return map[string]string{identity.AnnotationServiceAccount: email}
}

// readablePod returns a Pod of the new ServiceAccount app, which may read it.
func (c *namespaced) readablePod(t *testing.T, annotations map[string]string) *pod {
	t.Helper()
	c.makeAccount(t, "app", annotations)
	c.makeRole(t, "app")
	c.bindRole(t, "app")
	p := c.pod(t, "app")
	p.eventually(t, "readable", func(r result) bool { return r.reason == "" })
	return p
}

func TestTheAnnotationIsTheExpectation(t *testing.T) {
	c := newNamespace(t)
	p := c.readablePod(t, bound(app))
	if want := (kube.Self{Namespace: c.namespace, ServiceAccount: "app", Project: p.self.Project}); p.self != want {
		t.Errorf("the token says %+v, want %+v", p.self, want)
	}
	r := p.read(t)
	r.reads(t, app)
	if r.expectation.Source != identity.SourceAnnotation {
		t.Errorf("from %s, want %s", r.expectation.Source, identity.SourceAnnotation)
	}
	if want := "/api/v1/namespaces/" + c.namespace + "/serviceaccounts/app?resourceVersion=0"; r.request.url != want || r.connections != 1 {
		t.Errorf("the read was %s on %d connections, want %s on one", r.request.url, r.connections, want)
	}
	p.link.becomesQuiet(t, patience)

	c.annotate(t, "app", bound(other))
	p.eventually(t, "the new annotation", func(r result) bool { return r.expectation.String() == other })
	c.annotate(t, "app", nil)
	p.eventually(t, "the workload pool", func(r result) bool { return r.expectation.Source == identity.SourceWorkloadPool })
}

// An agent that starts a moment after a change knows by it that the metadata server
// may not know yet.
func TestTheServiceAccountTellsWhenItsAnnotationWasChanged(t *testing.T) {
	c := newNamespace(t)
	p := c.readablePod(t, bound(app))
	const old = 4 * time.Second
	r := p.eventually(t, "of some age", func(r result) bool { return !r.expectation.Changed.IsZero() && r.expectation.Age >= old })
	if r.expectation.Age > patience+time.Minute {
		t.Errorf("an age of %s, want that of the annotation", r.expectation.Age)
	}
	_, err := c.CoreV1().ServiceAccounts(c.namespace).Patch(t.Context(), "app", types.MergePatchType,
		[]byte(`{"metadata": {"labels": {"team": "demo"}}}`), metav1.PatchOptions{FieldManager: "labeller"})
	must(t, err)
	if r := p.read(t); r.expectation.Changed.IsZero() || r.expectation.Age < old {
		t.Errorf("an age of %s after a change of something else, want at least %s", r.expectation.Age, old)
	}
	c.annotate(t, "app", bound(other))
	changed := p.eventually(t, "the new annotation", func(r result) bool { return r.expectation.String() == other })
	if changed.expectation.Changed.IsZero() || changed.expectation.Age >= r.expectation.Age {
		t.Errorf("an age of %s after the change, want less than the %s before", changed.expectation.Age, r.expectation.Age)
	}
	c.annotate(t, "app", nil)
	removed := p.eventually(t, "no annotation", func(r result) bool { return r.expectation.Source == identity.SourceWorkloadPool })
	if !removed.expectation.Changed.IsZero() {
		t.Errorf("it was removed %s ago, want that nobody can tell", removed.expectation.Age)
	}
}

func TestWithoutAnAnnotationTheWorkloadPoolIsExpected(t *testing.T) {
	p := newNamespace(t).readablePod(t, map[string]string{"team": "demo"})
	want := "*.svc.id.goog"
	// Tokens of GKE tell the project.
	if project := p.self.Project; project != "" {
		want = project + ".svc.id.goog,*.svc.id.goog"
	}
	r := p.read(t)
	r.reads(t, want)
	if r.expectation.Source != identity.SourceWorkloadPool {
		t.Errorf("from %s, want %s", r.expectation.Source, identity.SourceWorkloadPool)
	}
}

func TestAMalformedAnnotationIsAnErrorThatQuotesIt(t *testing.T) {
	c := newNamespace(t)
	p := c.readablePod(t, bound(app))
	for _, value := range []string{"app", "app@demo-project", "demo-project.svc.id.goog", "a b@demo-project.iam.gserviceaccount.com"} {
		c.annotate(t, "app", bound(value))
		// The request succeeded, so there is no reason.
		r := p.eventually(t, "malformed", func(r result) bool { return r.err != nil })
		r.fails(t, "", identity.AnnotationServiceAccount, `"`+value+`"`, c.namespace+"/app")
		c.annotate(t, "app", bound(app))
		p.eventually(t, "well formed", func(r result) bool { return r.err == nil })
	}
}

func TestADeletedServiceAccountIsNotFound(t *testing.T) {
	c := newNamespace(t)
	c.makeAccount(t, "app", bound(app))
	c.makeAccount(t, "reader", nil)
	c.makeRole(t, "app")
	c.bindRole(t, "reader")
	p := c.pod(t, "reader")
	p.self.ServiceAccount = "app" // by WI_SERVICE_ACCOUNT
	p.eventually(t, "readable", func(r result) bool { return r.reason == "" })
	c.deleteAccount(t, "app")
	r := p.eventually(t, "gone", func(r result) bool { return r.err != nil })
	r.fails(t, kube.NotFound, c.namespace+"/app", "WI_POD_NAMESPACE", "WI_SERVICE_ACCOUNT")
}

// The watch cache answers (resourceVersion=0). A read that is consistent instead
// would go to etcd, from 15,000 nodes.
func TestReadsCostEtcdNothing(t *testing.T) {
	c := newNamespace(t)
	p := c.readablePod(t, bound(app))
	fromEtcd := func() float64 {
		return c.counted(t, "etcd_request_duration_seconds_count", `operation="get"`, `="serviceaccounts"`)
	}
	const reads = 50
	before := fromEtcd()
	for range reads {
		p.read(t).reads(t, app)
	}
	ours := fromEtcd() - before
	c.annotate(t, "app", bound(other)) // gets it without resourceVersion first
	all := fromEtcd() - before
	t.Logf("%d reads were %v gets from etcd; one consistent get was %v", reads, ours, all-ours)
	// Others may use the API server at the same time.
	if ours >= reads || all == ours {
		t.Errorf("%d reads were %v gets from etcd and one consistent get %v, want none and one", reads, ours, all-ours)
	}
}
