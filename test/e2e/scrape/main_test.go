package scrape

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	name  = "workload-identity-exporter" // of all objects, and of their namespace
	email = name + "@demo-project.iam.gserviceaccount.com"
	// suite begins the names of the namespaces, so that it can find what is left.
	suite = "wi-e2e-scrape"
	// patience bounds waiting only.
	patience = 2 * time.Minute
)

// cluster is the one that KUBECONFIG names; nodes are the two that it uses.
type cluster struct {
	*kubernetes.Clientset
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
	nodes   []string
}

func TestMain(m *testing.M) {
	for _, variable := range []string{"KUBECONFIG", "HELM", "OPERATOR"} {
		if os.Getenv(variable) == "" {
			fmt.Fprintf(os.Stderr, "scrape: SKIPPED, because %s is not set: run `make e2e-scrape` with the KUBECONFIG of a test cluster of two nodes\n", variable)
			if os.Getenv("CI") != "" {
				os.Exit(1) // in CI nothing may be left out
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// connect makes two nodes of the cluster into nodes of GKE for the time of the test.
func connect(t *testing.T) *cluster {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(t, err)
	config.QPS, config.Timeout = -1, 30*time.Second
	c := &cluster{}
	c.Clientset, err = kubernetes.NewForConfig(config)
	must(t, err)
	c.dynamic, err = dynamic.NewForConfig(config)
	must(t, err)
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Discovery()))
	list, err := c.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, n := range list.Items {
		if strings.HasPrefix(n.Spec.ProviderID, "gce://") {
			t.Fatalf("node %s is one of Google's: the suite would take the place of its metadata servers; use another cluster", n.Name)
		}
	}
	if len(list.Items) < 2 {
		t.Fatalf("the cluster has %d nodes, and the suite needs two", len(list.Items))
	}
	for _, n := range list.Items[:2] {
		c.nodes = append(c.nodes, n.Name)
		before := `null`
		if v, ok := n.Labels["iam.gke.io/gke-metadata-server-enabled"]; ok {
			before = `"` + v + `"`
		}
		label := func(ctx context.Context, ours, enabled string) error {
			_, err := c.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType,
				[]byte(`{"metadata": {"labels": {"wi-e2e": `+ours+`, "iam.gke.io/gke-metadata-server-enabled": `+enabled+`}}}`), metav1.PatchOptions{})
			return err
		}
		must(t, label(t.Context(), `"true"`, `"true"`))
		t.Cleanup(func() { check(t, label(context.Background(), "null", before)) })
	}
	load := strings.Fields(os.Getenv("E2E_LOAD_IMAGE"))
	for _, image := range []string{"exporter", "e2e-node", "prometheus"} {
		path, err := filepath.Abs("../../../bin/images/" + image + ".tar")
		must(t, err)
		if len(load) > 0 { // else the nodes have them already
			command(t, nil, load[0], append(load[1:], path)...)
		}
	}
	return c
}

// apply makes the objects, and takes away what is in no namespace at the end: the
// rest goes with its namespace.
func (c *cluster) apply(t *testing.T, all []*unstructured.Unstructured) {
	t.Helper()
	for _, o := range all {
		mapping, err := c.mapper.RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
		must(t, err)
		r := c.dynamic.Resource(mapping.Resource).Namespace(o.GetNamespace())
		if _, err = r.Apply(t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: "e2e", Force: true}); err != nil {
			t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		if o.GetNamespace() == "" {
			t.Cleanup(func() {
				// Several installs share a PriorityClass.
				if err := r.Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
					check(t, err)
				}
			})
		}
	}
}

// pods are the names of the Pods of a namespace by their nodes, when all are ready.
func (c *cluster) pods(t *testing.T, namespace string, want int) map[string]string {
	t.Helper()
	var found map[string]string
	eventually(t, func(ctx context.Context) error {
		list, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		found = map[string]string{}
		var trouble []string
		for _, p := range list.Items {
			if s := p.Status.ContainerStatuses; len(s) == 1 && s[0].Ready && p.DeletionTimestamp == nil {
				found[p.Spec.NodeName] = p.Name
			} else {
				trouble = append(trouble, fmt.Sprintf("%s: %s %+v", p.Name, p.Status.Phase, s))
			}
		}
		if err == nil && len(found) != want {
			err = fmt.Errorf("%d Pods of %s are ready, want %d: %v", len(found), namespace, want, trouble)
		}
		return err
	})
	return found
}

func objects(t *testing.T, manifest string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096); ; {
		var o unstructured.Unstructured
		err := decoder.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		if len(o.Object) > 0 {
			all = append(all, &o)
		}
	}
}

func command(t *testing.T, in []byte, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// eventually asks until there is no error.
func eventually(t *testing.T, ask func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	must(t, err)
	return string(text)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}
