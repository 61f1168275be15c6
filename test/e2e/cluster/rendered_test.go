package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// rendered are the objects of an overlay or of an example of the chart.
func rendered(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	all, err := objectsOf(filepath.Join(renderedFiles, file+".yaml"))
	must(t, err)
	return all
}

// files are the names of all that is rendered.
func files(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(renderedFiles + "/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("nothing is rendered in %s, which `make e2e-cluster` does: %v", renderedFiles, err)
	}
	var names []string
	for _, p := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(p), ".yaml"))
	}
	return names
}

// with applies the objects for the time of a test, without the namespace, which is
// there, and without Pods, which nobody could run.
func (c *cluster) with(t *testing.T, all []*unstructured.Unstructured) {
	t.Helper()
	c.bare(t)
	for _, o := range all {
		if kind := o.GetKind(); kind == "Namespace" || kind == "Pod" {
			continue
		}
		must(t, c.apply(t.Context(), o))
		cleanup(t, func(ctx context.Context) error { return c.remove(ctx, o) })
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
				if strings.HasPrefix(o.GetLabels()[nameLabel], exporter) && o.GetKind() != "Namespace" {
					found = append(found, fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()))
				}
			}
		}
	}
	return found, nil
}
