package cluster

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The manifests that are shipped, as `make e2e-cluster` renders them.
const (
	byKustomize = renderedFiles + "/kustomize-default.yaml"
	// withCondition is by Kustomize, with the permissions that are off by default.
	withCondition = renderedFiles + "/kustomize-node-condition.yaml"
)

// shipped are the objects that people install, with the image of this suite, the
// service account that the simulated project has, and two settings that are
// shorter, so that a test which waits for them ends.
func shipped(path string) ([]*unstructured.Unstructured, error) {
	all, err := objectsOf(path)
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		switch o.GetKind() {
		case "ServiceAccount":
			annotations := o.GetAnnotations()
			annotations["iam.gke.io/gcp-service-account"] = exporterEmail
			o.SetAnnotations(annotations)
		case "DaemonSet":
			containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
			container, ok := containers[0].(map[string]any)
			if !ok {
				return nil, errors.New("the DaemonSet has no container")
			}
			container["image"] = "workload-identity-exporter.local/exporter:test"
			env, _ := container["env"].([]any)
			container["env"] = append(env,
				map[string]any{"name": "WI_EXPECTATION_INTERVAL", "value": "1m"},
				map[string]any{"name": "WI_STARTUP_GRACE", "value": "10s"})
			if err := unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers"); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// install applies what is shipped.
func (c *cluster) install(ctx context.Context, path string) error {
	all, err := shipped(path)
	if err != nil {
		return err
	}
	return c.apply(ctx, all...)
}

// uninstall deletes it, the last object first, but not the namespace. What is not
// there is well.
func (c *cluster) uninstall(ctx context.Context, path string) error {
	all, err := shipped(path)
	if err != nil {
		return err
	}
	return c.remove(ctx, all...)
}
