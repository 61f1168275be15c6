package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// tool is the path of a program that `make e2e-cluster` installs.
func tool(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path != "" {
		return path
	}
	t.Fatalf("%s is not set: run `make e2e-cluster`", variable)
	return ""
}

func command(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// holds waits until the cluster has the objects, and none but these.
func (c *cluster) holds(t *testing.T, want []*unstructured.Unstructured) {
	t.Helper()
	var ids []string
	for _, o := range want {
		if kind := o.GetKind(); kind != "Namespace" && kind != "Pod" {
			ids = append(ids, fmt.Sprintf("%s %s/%s", kind, o.GetNamespace(), o.GetName()))
		}
	}
	slices.Sort(ids)
	err := eventually(t.Context(), func(ctx context.Context) error {
		got, err := c.left(ctx)
		// Where there are controllers, they add some of their own.
		got = slices.DeleteFunc(got, func(id string) bool {
			kind, _, _ := strings.Cut(id, " ")
			return slices.Contains([]string{"Pod", "ControllerRevision", "EndpointSlice", "Endpoints"}, kind)
		})
		slices.Sort(got)
		if err == nil && !slices.Equal(slices.Compact(got), ids) {
			err = fmt.Errorf("the cluster has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(ids, "\n"))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Objects of what is no longer wanted go with an upgrade, and all with the release.
func TestHelmLeavesNothingBehind(t *testing.T) {
	shared.bare(t)
	helm := tool(t, "HELM")
	const chart, values = "../../../deploy/chart", "../../../tools/deploy/testdata/rendered/"
	cleanup(t, func(ctx context.Context) error {
		return exec.CommandContext(ctx, helm, "uninstall", exporter, "--namespace", exporter, "--ignore-not-found").Run()
	})
	notes := command(t, helm, "install", exporter, chart, "--namespace", exporter, "--values", values+"everything.yaml")
	if !strings.Contains(notes, "helm -n "+exporter+" test "+exporter) || strings.Contains(notes, "kubectl label namespace") {
		t.Errorf("the notes for a namespace that is restricted:\n%s", notes)
	}
	shared.holds(t, rendered(t, "helm-everything"))
	command(t, helm, "upgrade", exporter, chart, "--namespace", exporter, "--values", values+"gmp.yaml")
	shared.holds(t, rendered(t, "helm-gmp"))
	command(t, helm, "upgrade", exporter, chart, "--namespace", exporter, "--values", values+"base.yaml")
	shared.holds(t, rendered(t, "helm-base"))
	command(t, helm, "rollback", exporter, "1", "--namespace", exporter)
	shared.holds(t, rendered(t, "helm-everything"))
	command(t, helm, "uninstall", exporter, "--namespace", exporter)
	shared.holds(t, nil)
	if secrets, err := shared.CoreV1().Secrets(exporter).List(t.Context(), metav1.ListOptions{}); err != nil || len(secrets.Items) > 0 {
		t.Errorf("%d Secrets stay, %v", len(secrets.Items), err)
	}
}

// Cilium would not let agents to an API server on a node.
func TestTheNotesWarnOfACiliumOfYourOwn(t *testing.T) {
	cilium := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": map[string]any{"name": "cilium", "namespace": "kube-system"},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": map[string]any{"k8s-app": "cilium"}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"k8s-app": "cilium"}},
				"spec": map[string]any{
					"nodeSelector": map[string]any{"example.com/none": "true"},
					"containers":   []any{map[string]any{"name": "cilium", "image": "cilium:test"}},
				},
			},
		},
	}}
	warned := func(dataplane string) bool {
		t.Helper()
		notes := command(t, tool(t, "HELM"), "install", exporter, "../../../deploy/chart", "--namespace", exporter, "--dry-run=server",
			"--set", "googleServiceAccount=a@p.iam.gserviceaccount.com,networkPolicy.dataplane="+dataplane)
		return strings.Contains(notes, "WARNING: this cluster has a Cilium of its own")
	}
	shared.bare(t)
	if warned("any") {
		t.Error("the notes warn of a Cilium that is not there")
	}
	shared.with(t, []*unstructured.Unstructured{cilium})
	for dataplane, want := range map[string]bool{"any": true, "dataplane-v2": true, "cilium": false} {
		if warned(dataplane) != want {
			t.Errorf("with networkPolicy.dataplane=%s the notes warn: %v, want %v", dataplane, !want, want)
		}
	}
}

// Each overlay has all that it needs, and what it made can be found by its label.
func TestKustomizeLeavesNothingBehind(t *testing.T) {
	for _, overlay := range []string{"kustomize-everything", "kustomize-gmp", "kustomize-cilium"} {
		t.Run(overlay, func(t *testing.T) {
			all := rendered(t, overlay)
			t.Run("installed", func(t *testing.T) {
				shared.with(t, all)
				shared.holds(t, all)
			})
			shared.holds(t, nil)
		})
	}
}
