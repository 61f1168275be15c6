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
	"k8s.io/apimachinery/pkg/types"
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

// setUp makes two nodes of the cluster into nodes of GKE, and installs the exporter.
func (c *cluster) setUp(ctx context.Context) error {
	list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
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
	for _, n := range c.nodes {
		if err := c.label(ctx, n, map[string]any{suiteLabel: "true", enabledLabel: "true"}); err != nil {
			return err
		}
	}
	// What an earlier run left may still be on its way out.
	for _, n := range []string{namespace, nodeNamespace} {
		err := eventually(ctx, func(ctx context.Context) error {
			found, err := c.client.CoreV1().Namespaces().Get(ctx, n, metav1.GetOptions{})
			if err == nil && found.DeletionTimestamp != nil {
				return fmt.Errorf("namespace %s is being deleted", n)
			}
			return nil // there is none, or one that can be used; apply finds out
		})
		if err != nil {
			return err
		}
	}
	if err := c.apply(ctx, nodeManifest); err != nil {
		return err
	}
	if err := c.rolledOut(ctx, nodeNamespace, "node", len(c.nodes)); err != nil {
		return err
	}
	if err := c.install(ctx, byKustomize); err != nil {
		return err
	}
	return c.rolledOut(ctx, namespace, exporter, len(c.nodes))
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	remove := func(what string, err error) {
		if err != nil && !apierrors.IsNotFound(err) {
			fmt.Fprintf(os.Stderr, "cluster: leaves %s behind: %v\n", what, err)
		}
	}
	remove("what was installed", c.uninstall(ctx, byKustomize))
	for _, n := range []string{namespace, nodeNamespace} {
		remove("namespace "+n, c.client.CoreV1().Namespaces().Delete(ctx, n, metav1.DeleteOptions{}))
	}
	remove("ClusterRoleBinding wi-e2e-node", c.client.RbacV1().ClusterRoleBindings().Delete(ctx, "wi-e2e-node", metav1.DeleteOptions{}))
	remove("ClusterRole wi-e2e-node", c.client.RbacV1().ClusterRoles().Delete(ctx, "wi-e2e-node", metav1.DeleteOptions{}))
	for _, n := range c.nodes {
		var before any // nil takes the label away
		if c.labels[n] != "" {
			before = c.labels[n]
		}
		remove("labels of node "+n, c.label(ctx, n, map[string]any{suiteLabel: nil, enabledLabel: before}))
	}
}

func (c *cluster) label(ctx context.Context, node string, labels map[string]any) error {
	return c.patch(ctx, c.client.CoreV1().RESTClient(), "nodes", "", node, types.MergePatchType, map[string]any{"metadata": map[string]any{"labels": labels}})
}
