package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/pages"
)

const (
	namespace     = "workload-identity-exporter"
	nodeNamespace = "wi-e2e-nodes"
	exporter      = "workload-identity-exporter" // the name of all its objects
	// renderedFiles is where `make e2e-cluster` renders to.
	renderedFiles = "../../../bin/deploy"
	nameLabel     = "app.kubernetes.io/name"
	enabledLabel  = "iam.gke.io/gke-metadata-server-enabled"
	suiteLabel    = "wi-e2e"

	exporterEmail = "workload-identity-exporter@demo-project.iam.gserviceaccount.com"
	// nodeEmail is Compute Engine's default, which the simulated VM has.
	nodeEmail = "123456789012-compute@developer.gserviceaccount.com"

	// patience is for machines that do many things at once. It bounds waiting only.
	patience = 2 * time.Minute
	// atMost is how long after it begins a wrong identity is stated at the
	// default settings: one interval and one second.
	atMost = 11 * time.Second
)

// cluster is the one that KUBECONFIG names.
type cluster struct {
	*kubernetes.Clientset // each request ends soon
	watcher               *kubernetes.Clientset
	config                *rest.Config
	dynamic               dynamic.Interface
	mapper                *restmapper.DeferredDiscoveryRESTMapper
	// nodes are the two that are made into nodes of GKE, and labels what they
	// had under enabledLabel before.
	nodes  []string
	labels map[string]string
	// kinds are those of others that the suite had to make.
	kinds []*unstructured.Unstructured
	// installed tells whether the nodes are GKE's and the exporter runs there.
	installed bool
}

func connect(kubeconfig string) (*cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("KUBECONFIG=%q: %w", kubeconfig, err)
	}
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, err
	}
	config.QPS = -1 // the suite looks often
	config.WarningHandler = rest.NoWarnings{}
	c := &cluster{config: rest.CopyConfig(config), labels: map[string]string{}}
	if c.watcher, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	config.Timeout = 10 * time.Second
	if c.Clientset, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Discovery()))
	return c, nil
}

// objects are those of a manifest.
func objects(manifest []byte) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	var all []*unstructured.Unstructured
	for {
		var o unstructured.Unstructured
		if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			all = append(all, &o)
		}
	}
}

// objectsOf are those of a file.
func objectsOf(path string) ([]*unstructured.Unstructured, error) {
	manifest, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: run `make e2e-cluster`, which renders it", err)
	}
	return objects(manifest)
}

// resource is where the object is kept.
func (c *cluster) resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := o.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, err
	}
	if inNamespace := mapping.Scope.Name() == meta.RESTScopeNameNamespace; inNamespace != (o.GetNamespace() != "") {
		return nil, fmt.Errorf("%s %s has the namespace %q, and the scope of its kind is the %s", kind.Kind, o.GetName(), o.GetNamespace(), mapping.Scope.Name())
	}
	return c.dynamic.Resource(mapping.Resource).Namespace(o.GetNamespace()), nil
}

// applied is what the API server makes of the object, or with metav1.DryRunAll
// would make of it. A field that it does not know is an error.
func (c *cluster) applied(ctx context.Context, o *unstructured.Unstructured, dryRun ...string) (*unstructured.Unstructured, error) {
	r, err := c.resource(o)
	if err != nil {
		return nil, err
	}
	body, err := o.MarshalJSON()
	if err != nil {
		return nil, err
	}
	force := true
	made, err := r.Patch(ctx, o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "e2e", Force: &force, DryRun: dryRun, FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return made, nil
}

// apply makes the objects what they say.
func (c *cluster) apply(ctx context.Context, all ...*unstructured.Unstructured) error {
	for _, o := range all {
		if _, err := c.applied(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes the objects, the last one first, but not a namespace. What is not
// there is well.
func (c *cluster) remove(ctx context.Context, all ...*unstructured.Unstructured) error {
	for _, o := range slices.Backward(all) {
		if o.GetKind() == "Namespace" {
			continue
		}
		r, err := c.resource(o)
		if err == nil {
			err = r.Delete(ctx, o.GetName(), metav1.DeleteOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// cleanup calls f at the end of the test, when its context has ended.
func cleanup(t *testing.T, f func(context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (*cluster) patch(ctx context.Context, client rest.Interface, resource, namespace, name string, how types.PatchType, change any) error {
	body, err := json.Marshal(change)
	if err != nil {
		return err
	}
	return client.Patch(how).NamespaceIfScoped(namespace, namespace != "").Resource(resource).Name(name).Body(body).Do(ctx).Error()
}

// eventually asks until there is no error.
func eventually(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// rolledOut waits until the DaemonSet's last version is ready on so many nodes.
func (c *cluster) rolledOut(ctx context.Context, namespace, name string, nodes int) error {
	return eventually(ctx, func(ctx context.Context) error {
		d, err := c.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration < d.Generation || int(s.DesiredNumberScheduled) != nodes || int(s.UpdatedNumberScheduled) != nodes || int(s.NumberReady) != nodes || int(s.CurrentNumberScheduled) != nodes {
			return fmt.Errorf("DaemonSet %s/%s: %+v, want %d ready; %s", namespace, name, s, nodes, c.trouble(ctx, namespace))
		}
		return nil
	})
}

// trouble says what the kubelets say about Pods that do not run.
func (c *cluster) trouble(ctx context.Context, namespace string) string {
	list, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	var says []string
	for _, p := range list.Items {
		for _, s := range p.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil {
				says = append(says, fmt.Sprintf("%s waits: %s %s", p.Name, w.Reason, w.Message))
			}
			if e := s.LastTerminationState.Terminated; e != nil {
				says = append(says, fmt.Sprintf("%s ended: %d %s %s", p.Name, e.ExitCode, e.Reason, e.Message))
			}
		}
	}
	return strings.Join(says, "; ")
}

// pod is the one of an app on a node that is not on its way out.
func (c *cluster) pod(ctx context.Context, namespace, app, node string) (*corev1.Pod, error) {
	list, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: nameLabel + "=" + app, FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			return &list.Items[i], nil
		}
	}
	return nil, fmt.Errorf("no Pod of %s on %s", app, node)
}

// page asks the exporter on a node, by way of the API server.
func (c *cluster) page(ctx context.Context, node, path string) (string, error) {
	p, err := c.pod(ctx, namespace, exporter, node)
	if err != nil {
		return "", err
	}
	body, err := c.CoreV1().Pods(namespace).ProxyGet("http", p.Name, "10988", path, nil).DoRaw(ctx)
	return string(body), err
}

func (c *cluster) statusNow(ctx context.Context, node string) (pages.Status, error) {
	page, err := c.page(ctx, node, "status.json")
	if err != nil {
		return pages.Status{}, err
	}
	return pages.ParseStatus(page)
}

func (c *cluster) status(t *testing.T, node string) pages.Status {
	t.Helper()
	var s pages.Status
	err := eventually(t.Context(), func(ctx context.Context) (err error) { s, err = c.statusNow(ctx, node); return err })
	must(t, err)
	return s
}

func (c *cluster) metric(t *testing.T, node, series string) float64 {
	t.Helper()
	var page string
	err := eventually(t.Context(), func(ctx context.Context) (err error) { page, err = c.page(ctx, node, "metrics"); return err })
	must(t, err)
	v, ok := pages.Metric(page, series)
	if !ok {
		t.Fatalf("the exporter on %s has no series %s", node, series)
	}
	return v
}

// awaits waits for the state, and returns how long after the moment it was entered.
func (c *cluster) awaits(t *testing.T, node, state string, since time.Time) time.Duration {
	t.Helper()
	var s pages.Status
	err := eventually(t.Context(), func(ctx context.Context) (err error) {
		if s, err = c.statusNow(ctx, node); err == nil && s.State != state {
			err = fmt.Errorf("the exporter on %s states %+v, want %s", node, s, state)
		}
		return err
	})
	must(t, err)
	if v := c.metric(t, node, `state{state="`+state+`"}`); v != 1 {
		t.Errorf("state %s on the page and %v in the metrics", state, v)
	}
	return s.Changes[0].At.Sub(since).Round(10 * time.Millisecond)
}

// healthy waits until all is well on both nodes, after it made them what a test of
// agents needs.
func (c *cluster) healthy(t *testing.T) {
	t.Helper()
	must(t, c.inhabit(t.Context()))
	for _, n := range c.nodes {
		c.awaits(t, n, "match", time.Now())
		err := eventually(t.Context(), func(ctx context.Context) error {
			p, err := c.pod(ctx, namespace, exporter, n)
			if err == nil && (len(p.Status.ContainerStatuses) == 0 || !p.Status.ContainerStatuses[0].Ready) {
				err = fmt.Errorf("%s on %s is not ready", p.Name, n)
			}
			return err
		})
		must(t, err)
		if s := c.status(t, n); s.Observed != s.Expected || s.Server != "gke" || s.Source != "annotation" {
			t.Fatalf("%s before the test: %+v, want what the annotation says, from gke", n, s)
		}
	}
}

// plan throws a switch of the node: on after a while, and off after another.
func (c *cluster) plan(t *testing.T, node, what string, after, lasts time.Duration, parameters url.Values) {
	t.Helper()
	p, err := c.pod(t.Context(), nodeNamespace, "node", node)
	must(t, err)
	r := c.CoreV1().RESTClient().Put().Namespace(nodeNamespace).Resource("pods").SubResource("proxy").Name("http:"+p.Name+":10982").Suffix(what).
		Param("after", after.String()).Param("for", lasts.String())
	for key, values := range parameters {
		for _, v := range values {
			r = r.Param(key, v)
		}
	}
	if out, err := r.DoRaw(t.Context()); err != nil {
		t.Fatalf("switch %s of %s: %v: %s", what, node, err, out)
	}
}
