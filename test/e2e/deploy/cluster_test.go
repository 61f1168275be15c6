package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	name      = "workload-identity-exporter" // of all objects, and of their namespace
	nameLabel = "app.kubernetes.io/name"
	// renderedFiles is where `make e2e-deploy` renders to.
	renderedFiles = "../../../bin/deploy"
	// patience bounds the waiting for what the API server does a moment later.
	patience = 30 * time.Second
)

// cluster is the API server of KUBECONFIG.
type cluster struct {
	*kubernetes.Clientset
	config  *rest.Config
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

func connect() (*cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // the suite asks for one thing after the other
	config.WarningHandler = rest.NoWarnings{}
	c := &cluster{config: config}
	if c.Clientset, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Discovery()))
	return c, nil
}

// objects are those of a file.
func objects(path string) ([]*unstructured.Unstructured, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		var o unstructured.Unstructured
		if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if len(o.Object) > 0 {
			all = append(all, &o)
		}
	}
}

// rendered are the objects of an overlay or of an example of the chart.
func rendered(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	all, err := objects(filepath.Join(renderedFiles, file+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// files are the names of all that is rendered.
func files(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(renderedFiles + "/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("nothing is rendered in %s, which `make e2e-deploy` does: %v", renderedFiles, err)
	}
	var names []string
	for _, p := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(p), ".yaml"))
	}
	return names
}

func (c *cluster) resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := o.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		if o.GetNamespace() != "" {
			return nil, fmt.Errorf("%s %s has a namespace, and its kind has none", kind.Kind, o.GetName())
		}
		return c.dynamic.Resource(mapping.Resource), nil
	}
	if o.GetNamespace() == "" {
		return nil, fmt.Errorf("%s %s has no namespace", kind.Kind, o.GetName())
	}
	return c.dynamic.Resource(mapping.Resource).Namespace(o.GetNamespace()), nil
}

// apply makes an object what it says, or with metav1.DryRunAll only tells whether
// it could. A field that the API server does not know is an error.
func (c *cluster) apply(ctx context.Context, o *unstructured.Unstructured, dryRun ...string) error {
	_, err := c.applied(ctx, o, dryRun...)
	return err
}

// applied is what the API server makes of the object.
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

func (c *cluster) remove(ctx context.Context, o *unstructured.Unstructured) error {
	r, err := c.resource(o)
	if err == nil {
		err = r.Delete(ctx, o.GetName(), metav1.DeleteOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

// install applies the objects for the time of a test, without the namespace,
// which is there, and without Pods, which nobody could run.
func (c *cluster) install(t *testing.T, all []*unstructured.Unstructured) {
	t.Helper()
	for _, o := range all {
		if kind := o.GetKind(); kind == "Namespace" || kind == "Pod" {
			continue
		}
		if err := c.apply(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		cleanup(t, func(ctx context.Context) error { return c.remove(ctx, o) })
	}
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
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// left are the objects of any kind that have the label of the exporter, but for
// the namespace of the suite.
func (c *cluster) left(ctx context.Context) ([]string, error) {
	lists, err := c.Discovery().ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			if !strings.Contains(strings.Join(r.Verbs, " "), "list") {
				continue
			}
			items, err := c.dynamic.Resource(group.WithResource(r.Name)).List(ctx, metav1.ListOptions{LabelSelector: nameLabel})
			if err != nil {
				return nil, err
			}
			for _, o := range items.Items {
				if strings.HasPrefix(o.GetLabels()[nameLabel], name) && o.GetKind() != "Namespace" {
					found = append(found, fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()))
				}
			}
		}
	}
	return found, nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
