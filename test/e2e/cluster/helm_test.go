package cluster

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the chart gives runs as well. Who changes from one to the other takes the
// first away before, and it leaves nothing but the namespace.
func TestTheChartRunsInPlaceOfTheOverlay(t *testing.T) {
	c := shared
	c.healthy(t)
	if err := c.uninstall(t.Context(), byKustomize); err != nil {
		t.Fatal(err)
	}
	restored := false
	t.Cleanup(func() {
		if restored {
			return
		}
		if err := c.install(context.Background(), byKustomize); err != nil {
			t.Error(err)
		}
	})
	err := eventually(t.Context(), func(ctx context.Context) error {
		list, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: nameLabel + "=" + exporter})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d Pods are left", len(list.Items))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.install(t.Context(), byHelm); err != nil {
		t.Fatal(err)
	}
	if err := c.rolledOut(t.Context(), namespace, exporter, 2); err != nil {
		t.Fatal(err)
	}
	c.healthy(t)
	if err := c.uninstall(t.Context(), byHelm); err != nil {
		t.Fatal(err)
	}
	restored = true
	if err := c.install(t.Context(), byKustomize); err != nil {
		t.Fatal(err)
	}
	if err := c.rolledOut(t.Context(), namespace, exporter, 2); err != nil {
		t.Fatal(err)
	}
	c.healthy(t)
}
