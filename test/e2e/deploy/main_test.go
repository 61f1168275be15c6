package deploy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// shared is the one cluster of all tests, which follow one another.
var shared *cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("KUBECONFIG") == "" {
		fmt.Fprintln(os.Stderr, "deploy: SKIPPED, because KUBECONFIG is not set: name the file of any test cluster")
		if os.Getenv("CI") != "" {
			return 1 // in CI nothing may be left out
		}
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	var made []*unstructured.Unstructured
	if shared, err = connect(); err == nil {
		made, err = shared.setUp(ctx)
		defer func() { shared.tearDown(made) }()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		return 1
	}
	return m.Run()
}

// setUp makes the namespace, and the kinds of others that are not there.
func (c *cluster) setUp(ctx context.Context) (made []*unstructured.Unstructured, err error) {
	// What an earlier run left may still be on its way out.
	err = eventually(ctx, func(ctx context.Context) error {
		_, err := c.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("the namespace %s is there: the suite would spoil what is installed", name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	base, err := objects(filepath.Join(renderedFiles, "kustomize-base.yaml"))
	if err != nil {
		return nil, err
	}
	for _, o := range base {
		if o.GetKind() == "Namespace" {
			if err := c.apply(ctx, o); err != nil {
				return nil, err
			}
		}
	}
	paths, err := filepath.Glob("crds/*.yaml")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		crds, err := objects(path)
		if err != nil {
			return made, err
		}
		r, err := c.resource(crds[0])
		if err != nil {
			return made, err
		}
		if _, err := r.Get(ctx, crds[0].GetName(), metav1.GetOptions{}); err == nil {
			continue // the real one
		}
		if err := c.apply(ctx, crds[0]); err != nil {
			return made, err
		}
		made = append(made, crds[0])
	}
	for _, crd := range made {
		err := eventually(ctx, func(ctx context.Context) error {
			c.mapper.Reset()
			spec, _ := crd.Object["spec"].(map[string]any)
			names, _ := spec["names"].(map[string]any)
			versions, _ := spec["versions"].([]any)
			o := &unstructured.Unstructured{}
			o.SetAPIVersion(fmt.Sprintf("%v/%v", spec["group"], versions[0].(map[string]any)["name"]))
			o.SetKind(fmt.Sprint(names["kind"]))
			if spec["scope"] == "Namespaced" {
				o.SetNamespace(name)
			}
			r, err := c.resource(o)
			if err == nil {
				_, err = r.List(ctx, metav1.ListOptions{})
			}
			return err
		})
		if err != nil {
			return made, err
		}
	}
	return made, nil
}

// tearDown leaves the cluster as it was.
func (c *cluster) tearDown(made []*unstructured.Unstructured) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	complain := func(err error) {
		if err != nil && !apierrors.IsNotFound(err) {
			fmt.Fprintln(os.Stderr, "deploy: clean up:", err)
		}
	}
	// A cluster with controllers puts this into every namespace. Without them
	// nobody else ends the deletion of one.
	_, alone := c.CoreV1().ConfigMaps(name).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
	complain(c.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}))
	if apierrors.IsNotFound(alone) {
		_, err := c.CoreV1().Namespaces().Finalize(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.UpdateOptions{})
		complain(err)
	}
	complain(eventually(ctx, func(ctx context.Context) error {
		_, err := c.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			err = fmt.Errorf("the namespace %s stays", name)
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}))
	// Afterwards, since the end of a namespace waits for a complete list of kinds.
	for _, o := range made {
		complain(c.remove(ctx, o))
	}
}
