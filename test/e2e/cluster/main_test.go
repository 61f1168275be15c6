package cluster

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// loadImage is the variable that holds the command which loads an image into
// all nodes of the cluster; an archive's path is added to it.
const loadImage = "E2E_LOAD_IMAGE"

// The archives that `make e2e-cluster` builds before.
var archives = []string{"../../../bin/images/exporter.tar", "../../../bin/images/e2e-node.tar"}

//go:embed manifests/node.yaml
var nodeManifest []byte

// shared is the one cluster of all tests, which follow one another.
var shared *cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	klog.LogToStderr(false)
	klog.SetOutput(clientLog)
	if os.Getenv("KUBECONFIG") == "" {
		fmt.Fprintln(os.Stderr, "cluster: SKIPPED, because KUBECONFIG is not set: name the file of a test cluster of two nodes, such as one of kind")
		if os.Getenv("CI") != "" {
			return 1 // in CI nothing may be left out
		}
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var err error
	if shared, err = connect(os.Getenv("KUBECONFIG")); err == nil {
		defer shared.tearDown()
		err = shared.setUp(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	return m.Run()
}

// setUp finds two nodes, brings the images there, and makes the namespace and the kinds
// of others that are not there.
func (c *cluster) setUp(ctx context.Context) error {
	list, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	slices.SortFunc(list.Items, func(a, b corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	for _, n := range list.Items {
		if strings.HasPrefix(n.Spec.ProviderID, "gce://") {
			return fmt.Errorf("node %s is one of Google's: the suite would take the place of its metadata servers; use another cluster", n.Name)
		}
		if len(c.nodes) < 2 {
			c.nodes = append(c.nodes, n.Name)
			c.labels[n.Name] = n.Labels[enabledLabel]
		}
	}
	if len(c.nodes) < 2 {
		return fmt.Errorf("the cluster has %d nodes, and the suite needs two", len(c.nodes))
	}
	if err := load(ctx, os.Getenv(loadImage)); err != nil {
		return err
	}
	// What an earlier run left may still be on its way out.
	for _, n := range []string{namespace, nodeNamespace} {
		if err := eventually(ctx, func(ctx context.Context) error { return c.gone(ctx, n) }); err != nil {
			return fmt.Errorf("%w: the suite would spoil what is installed", err)
		}
	}
	base, err := objectsOf(renderedFiles + "/kustomize-base.yaml")
	if err != nil {
		return err
	}
	if err := c.apply(ctx, slices.DeleteFunc(base, func(o *unstructured.Unstructured) bool { return o.GetKind() != "Namespace" })...); err != nil {
		return err
	}
	return c.makeKinds(ctx)
}

func (c *cluster) gone(ctx context.Context, namespace string) error {
	_, err := c.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("the namespace %s is there", namespace)
	}
	return err
}

func (c *cluster) makeKinds(ctx context.Context) error {
	paths, err := filepath.Glob("crds/*.yaml")
	if err != nil {
		return err
	}
	for _, path := range paths {
		crds, err := objectsOf(path)
		if err != nil {
			return err
		}
		r, err := c.resource(crds[0])
		if err != nil {
			return err
		}
		if _, err := r.Get(ctx, crds[0].GetName(), metav1.GetOptions{}); err == nil {
			continue // the real one
		}
		if err := c.apply(ctx, crds[0]); err != nil {
			return err
		}
		c.kinds = append(c.kinds, crds[0])
	}
	return eventually(ctx, func(ctx context.Context) error {
		c.mapper.Reset()
		for _, crd := range c.kinds {
			group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
			kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
			mapping, err := c.mapper.RESTMapping(schema.GroupKind{Group: group, Kind: kind})
			if err == nil {
				_, err = c.dynamic.Resource(mapping.Resource).List(ctx, metav1.ListOptions{})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// inhabit makes the two nodes into nodes of GKE, and installs the exporter, unless
// that is done.
func (c *cluster) inhabit(ctx context.Context) error {
	if c.installed {
		return nil
	}
	manifest, err := objects(nodeManifest)
	if err == nil {
		err = c.labelNodes(ctx, "true")
	}
	if err == nil {
		err = c.apply(ctx, manifest...)
	}
	if err == nil {
		err = c.rolledOut(ctx, nodeNamespace, "node", len(c.nodes))
	}
	if err == nil {
		err = c.install(ctx, byKustomize)
	}
	if err == nil {
		err = c.rolledOut(ctx, namespace, exporter, len(c.nodes))
	}
	c.installed = err == nil
	return err
}

// bare takes all that away again but the namespaces, for tests of what is installed.
func (c *cluster) bare(t *testing.T) {
	t.Helper()
	if !c.installed {
		return
	}
	must(t, c.uninstall(t.Context(), byKustomize))
	c.nothingIsLeft(t)
	must(t, c.labelNodes(t.Context(), ""))
	c.installed = false
}

func load(ctx context.Context, command string) error {
	if command == "" {
		fmt.Fprintf(os.Stderr, "cluster: %s is not set, so the nodes must have the images already; with kind it is `kind load image-archive`\n", loadImage)
		return nil
	}
	for _, archive := range archives {
		path, err := filepath.Abs(archive)
		if err != nil {
			return err
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: run `make e2e-cluster`, which builds it", err)
		}
		words := append(strings.Fields(command), path)
		out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s=%q with %s: %w\n%s", loadImage, command, path, err, out)
		}
	}
	return nil
}

// tearDown leaves the cluster as it was. The suite's own Pods restore the nodes
// when they end.
func (c *cluster) tearDown() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	remove := func(what string, err error) {
		if err != nil && !apierrors.IsNotFound(err) {
			fmt.Fprintf(os.Stderr, "cluster: leaves %s behind: %v\n", what, err)
		}
	}
	remove("what was installed", c.uninstall(ctx, byKustomize))
	if manifest, err := objects(nodeManifest); err == nil {
		remove("the simulated nodes", c.remove(ctx, manifest...))
	}
	for _, n := range []string{namespace, nodeNamespace} {
		remove("namespace "+n, c.CoreV1().Namespaces().Delete(ctx, n, metav1.DeleteOptions{}))
	}
	remove("labels of nodes", c.labelNodes(ctx, ""))
	// Afterwards, since the end of a namespace waits for a complete list of kinds.
	for _, n := range []string{namespace, nodeNamespace} {
		remove("namespace "+n, eventually(ctx, func(ctx context.Context) error { return c.gone(ctx, n) }))
	}
	remove("CustomResourceDefinitions", c.remove(ctx, c.kinds...))
}

// labelNodes makes both into nodes of the suite, or what they were before.
func (c *cluster) labelNodes(ctx context.Context, ours string) error {
	for _, n := range c.nodes {
		labels := map[string]any{suiteLabel: nil, enabledLabel: nil} // nil takes a label away
		if ours != "" {
			labels[suiteLabel], labels[enabledLabel] = ours, ours
		} else if c.labels[n] != "" {
			labels[enabledLabel] = c.labels[n]
		}
		if err := c.label(ctx, n, labels); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) label(ctx context.Context, node string, labels map[string]any) error {
	return c.patch(ctx, c.CoreV1().RESTClient(), "nodes", "", node, types.MergePatchType, map[string]any{"metadata": map[string]any{"labels": labels}})
}
