package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// The manifests that are shipped, as `make e2e-cluster` renders them.
const (
	byKustomize = "../../../bin/deploy/kustomize-default.yaml"
	// withCondition is by Kustomize, with the permissions that are off by default.
	withCondition = "../../../bin/deploy/kustomize-node-condition.yaml"
)

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

// shipped are the objects that people install, with the image of this suite, the
// service account that the simulated project has, and two settings that are
// shorter, so that a test which waits for them ends.
func shipped(path string) ([]*unstructured.Unstructured, error) {
	manifest, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: run `make e2e-cluster`, which renders it", err)
	}
	all, err := objects(manifest)
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
	return c.applyObjects(ctx, all)
}

// uninstall deletes it, the last object first, but not the namespace. What is not
// there is well.
func (c *cluster) uninstall(ctx context.Context, path string) error {
	all, err := shipped(path)
	if err != nil {
		return err
	}
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
