package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/pages"
)

const cause = "cilium_bpf_host_routing"

// configuresCilium makes the cluster look as if Cilium were there, with the
// setting that breaks Workload Identity, for as long as the test lasts.
func (c *cluster) configuresCilium(t *testing.T) {
	t.Helper()
	configs := c.CoreV1().ConfigMaps("kube-system")
	_, err := configs.Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "cilium-config"},
		Data:       map[string]string{"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true"},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		t.Fatal("the cluster has a ConfigMap cilium-config: the suite would break its Cilium; use another cluster")
	}
	must(t, err)
	t.Cleanup(func() {
		if err := configs.Delete(context.Background(), "cilium-config", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// runsCilium makes the nodes look as if Cilium's agents had started since it was
// configured, for as long as the test lasts.
func (c *cluster) runsCilium(t *testing.T) {
	t.Helper()
	labels := map[string]string{"k8s-app": "cilium", nameLabel: "cilium"}
	sets := c.AppsV1().DaemonSets("kube-system")
	_, err := sets.Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "cilium"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					NodeSelector:                  map[string]string{suiteLabel: "true"},
					Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					TerminationGracePeriodSeconds: new(int64),
					// Any program that does not end; the exporter does nothing here that anybody sees.
					Containers: []corev1.Container{{
						Name: "cilium-agent", Image: "workload-identity-exporter.local/exporter:test", ImagePullPolicy: corev1.PullIfNotPresent,
						Env: []corev1.EnvVar{{Name: "WI_EVENTS", Value: "false"}},
					}},
				},
			},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		if err := sets.Delete(context.Background(), "cilium", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	configured, err := c.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "cilium-config", metav1.GetOptions{})
	must(t, err)
	for _, n := range c.nodes {
		// Kubernetes counts seconds, and in the same one it is not known what was first.
		err := eventually(t.Context(), func(ctx context.Context) error {
			p, err := c.pod(ctx, "kube-system", "cilium", n)
			switch {
			case err != nil:
				return err
			case p.Status.StartTime == nil:
				return fmt.Errorf("%s on %s has not started; %s", p.Name, n, c.trouble(ctx, "kube-system"))
			case !p.Status.StartTime.After(configured.CreationTimestamp.Time):
				return errors.Join(fmt.Errorf("%s on %s started too soon", p.Name, n), c.CoreV1().Pods("kube-system").Delete(ctx, p.Name, metav1.DeleteOptions{}))
			}
			return nil
		})
		must(t, err)
	}
}

// saysWhy wants the cause of a bypass in the metrics, and in the Events that
// `kubectl describe` shows of the Node and of the agent's Pod. The state is published
// before the settings are read that explain it.
func (c *cluster) saysWhy(t *testing.T, node string) {
	t.Helper()
	err := eventually(t.Context(), func(ctx context.Context) error {
		page, err := c.page(ctx, node, "metrics")
		if v, _ := pages.Metric(page, `suspected_cause{cause="`+cause+`"}`); err == nil && v != 1 {
			err = fmt.Errorf("the exporter on %s does not suspect %s", node, cause)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	p, err := c.pod(t.Context(), namespace, exporter, node)
	must(t, err)
	for _, about := range []struct{ namespace, kind, uid string }{{"default", "Node", node}, {namespace, "Pod", string(p.UID)}} {
		err := eventually(t.Context(), func(ctx context.Context) error {
			list, err := c.CoreV1().Events(about.namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=" + about.kind + ",involvedObject.uid=" + about.uid})
			if err != nil {
				return err
			}
			for _, e := range list.Items {
				if e.Reason == "WorkloadIdentityNodeFallback" && e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, cause) {
					return nil
				}
			}
			return fmt.Errorf("%d Events about the %s, none of which says that it is %s: %s", len(list.Items), about.kind, cause, c.logs(ctx, p.Name))
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func (c *cluster) logs(ctx context.Context, pod string) string {
	logs, err := c.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return err.Error()
	}
	return string(logs)
}
