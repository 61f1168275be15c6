package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const gatedEmail = "gated@demo-project.iam.gserviceaccount.com"

// A Pod with the gate of docs/gating.md, under a ServiceAccount that may read
// nothing, does not start while its node hands out its own identity.
func TestAGatedPodStartsAfterTheRepair(t *testing.T) {
	c := shared
	c.healthy(t)
	accounts, pods := c.CoreV1().ServiceAccounts(namespace), c.CoreV1().Pods(namespace)
	_, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Name: "gated", Annotations: map[string]string{"iam.gke.io/gcp-service-account": gatedEmail},
	}}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
		_ = pods.Delete(context.Background(), "gated", now) // may not be there
		if err := accounts.Delete(context.Background(), "gated", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})

	node := c.nodes[0]
	const lasts = 30 * time.Second
	began := time.Now()
	c.plan(t, node, "bypass", 0, lasts, nil)
	c.awaits(t, node, "node_fallback", began)
	yes, no := true, false
	container := corev1.Container{
		Name: "gate", Image: "workload-identity-exporter.local/exporter:test", ImagePullPolicy: corev1.PullIfNotPresent,
		Args: []string{"check", "-expect=" + gatedEmail, "-wait=10s"},
		SecurityContext: &corev1.SecurityContext{
			RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	app := container
	app.Name, app.Args = "app", nil
	app.Env = []corev1.EnvVar{{Name: "WI_EXPECTED_EMAILS", Value: gatedEmail}}
	_, err = pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "gated"},
		Spec: corev1.PodSpec{
			ServiceAccountName: "gated", NodeName: node, AutomountServiceAccountToken: &no,
			InitContainers: []corev1.Container{container}, Containers: []corev1.Container{app},
		},
	}, metav1.CreateOptions{})
	must(t, err)

	refused := ""
	err = eventually(t.Context(), func(ctx context.Context) error {
		p, err := pods.Get(ctx, "gated", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, s := range p.Status.InitContainerStatuses {
			if s.State.Terminated != nil && s.State.Terminated.ExitCode == 1 || s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 1 {
				out, err := pods.GetLogs("gated", &corev1.PodLogOptions{Container: "gate", Previous: s.LastTerminationState.Terminated != nil && s.State.Terminated == nil}).DoRaw(ctx)
				refused = string(out)
				return err
			}
		}
		return fmt.Errorf("the gate has not refused the Pod yet: %+v", p.Status.InitContainerStatuses)
	})
	must(t, err)
	if since := time.Since(began); since > lasts {
		t.Fatalf("the gate ended with 1 after %s, when the bypass was over", since)
	}
	if !strings.Contains(refused, "verdict   node_fallback: ") || !strings.Contains(refused, "observed  "+nodeEmail) {
		t.Errorf("the gate says\n%s\nwant node_fallback, with the node's identity", refused)
	}
	err = eventually(t.Context(), func(ctx context.Context) error {
		p, err := pods.Get(ctx, "gated", metav1.GetOptions{})
		if err == nil && p.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("the Pod is %s after the repair", p.Status.Phase)
		}
		return err
	})
	must(t, err)
	if started := time.Since(began); started < lasts {
		t.Errorf("it runs after %s, before the repair after %s", started, lasts)
	}
	t.Logf("refused on the bypassed node, and running %s after the repair", time.Since(began.Add(lasts)).Round(time.Second))
}
