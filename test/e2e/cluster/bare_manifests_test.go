package cluster

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestTheAPIServerTakesAllThatIsRendered(t *testing.T) {
	installAccount(t)
	kinds := map[string]bool{}
	for _, file := range files(t) {
		for _, o := range rendered(t, file) {
			kinds[o.GetKind()] = true
			if o.GetKind() == "Pod" {
				must(t, unstructured.SetNestedField(o.Object, exporter, "spec", "serviceAccountName")) // the one that is there
			}
			if strings.HasPrefix(file, "kustomize-grafana-") {
				o.SetNamespace("default") // people name that of their Grafana
			}
			made, err := shared.applied(t.Context(), o, metav1.DryRunAll)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			// Argo CD compares lists as they are, but for the kinds that it knows.
			if group := o.GroupVersionKind().Group; strings.Contains(group, ".") && group != "rbac.authorization.k8s.io" && group != "networking.k8s.io" {
				for _, path := range added(o.GetKind(), o.Object["spec"], made.Object["spec"], false) {
					t.Errorf("%s: the API server adds %s", file, path)
				}
			}
		}
	}
	for _, kind := range []string{"DaemonSet", "ValidatingAdmissionPolicy", "NetworkPolicy", "CiliumNetworkPolicy", "PodMonitor", "ServiceMonitor", "PrometheusRule", "PodMonitoring", "ClusterRules", "GrafanaDashboard"} {
		if !kinds[kind] {
			t.Errorf("no %s is rendered", kind)
		}
	}
}

// added are the fields that the API server filled in, inside of lists.
func added(path string, want, got any, inList bool) (paths []string) {
	switch g := got.(type) {
	case map[string]any:
		w, _ := want.(map[string]any)
		for name, inner := range g {
			if _, given := w[name]; given {
				paths = append(paths, added(path+"."+name, w[name], inner, inList)...)
			} else if inList {
				paths = append(paths, path+"."+name)
			}
		}
	case []any:
		w, _ := want.([]any)
		if len(w) != len(g) {
			return []string{path}
		}
		for i := range g {
			paths = append(paths, added(path, w[i], g[i], true)...)
		}
	}
	return paths
}

// installAccount makes the ServiceAccount, without which there is no Pod.
func installAccount(t *testing.T) {
	t.Helper()
	shared.with(t, slices.DeleteFunc(rendered(t, "kustomize-base"), func(o *unstructured.Unstructured) bool { return o.GetKind() != "ServiceAccount" }))
}

// The API server must be strict, or the test above proves nothing.
func TestTheAPIServerRefusesAFieldThatItDoesNotKnow(t *testing.T) {
	for _, kind := range []string{"DaemonSet", "PodMonitor", "ValidatingAdmissionPolicy"} {
		for _, o := range rendered(t, "kustomize-everything") {
			if o.GetKind() != kind {
				continue
			}
			must(t, unstructured.SetNestedField(o.Object, "x", "spec", "typo"))
			if _, err := shared.applied(t.Context(), o, metav1.DryRunAll); err == nil || !strings.Contains(err.Error(), "typo") {
				t.Errorf("%s with a typo: %v", kind, err)
			}
			break
		}
	}
}

// pods are those that a file's objects would make.
func pods(t *testing.T, all []*unstructured.Unstructured) []corev1.Pod {
	t.Helper()
	var found []corev1.Pod
	for _, o := range all {
		var pod corev1.Pod
		switch o.GetKind() {
		case "DaemonSet":
			template, _, err := unstructured.NestedMap(o.Object, "spec", "template")
			must(t, err)
			must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(template, &pod))
		case "Pod":
			must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &pod))
		default:
			continue
		}
		pod.ObjectMeta = metav1.ObjectMeta{Name: "pod", Namespace: exporter, Labels: pod.Labels}
		// Other things than the standard, which other tests are about.
		pod.Spec.ServiceAccountName, pod.Spec.PriorityClassName = exporter, ""
		found = append(found, pod)
	}
	return found
}

func TestPodsMeetTheRestrictedStandard(t *testing.T) {
	installAccount(t)
	create := func(pod corev1.Pod) error {
		_, err := shared.CoreV1().Pods(exporter).Create(t.Context(), &pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	count := 0
	for _, file := range files(t) {
		for _, pod := range pods(t, rendered(t, file)) {
			count++
			if err := create(pod); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	if count < 20 {
		t.Errorf("%d Pods, want those of all overlays and examples", count)
	}
	pod := pods(t, rendered(t, "kustomize-default"))[0]
	pod.Spec.HostNetwork = true
	if err := create(pod); !apierrors.IsForbidden(err) {
		t.Errorf("a Pod in the node's network: %v, want it forbidden by the standard", err)
	}
}
