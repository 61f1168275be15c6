package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/pages"
)

// What docs/security.md says is missing without a permission is missing, and
// nothing else: the node is accused as before. At most two are taken away at a time, of
// which one is about the causes and the other about what is written.
// TestWithoutPermissionItSaysSo has the one that is left.
func TestWithoutPermissionsOnlyTheirPartIsMissing(t *testing.T) {
	c := shared
	c.healthy(t)
	node := c.nodes[0]
	c.configuresCilium(t)
	c.runsCilium(t)
	c.allowsAll(t)
	const notTold = "Failed to write the state to Kubernetes"
	for _, tt := range []struct {
		name       string
		without    []string // kind namespace/name
		confidence string   // of the cause, empty if it is not found
		missing    string
		events     []string
		condition  corev1.ConditionStatus
		log        []string
	}{
		{
			"the ConfigMaps, and Events about the Pod",
			[]string{"RoleBinding kube-system/" + exporter + "-masquerade", "RoleBinding " + namespace + "/" + exporter + "-events"},
			"", "cilium-config",
			[]string{"Node"},
			corev1.ConditionTrue,
			[]string{notTold, `"resource":"events","reason":"forbidden"`},
		},
		{
			"the DaemonSet of Dataplane V2, and Events about the Node",
			[]string{"RoleBinding kube-system/" + exporter + "-dataplane", "RoleBinding default/" + exporter + "-node-events"},
			"suggests", "Dataplane V2",
			[]string{"Pod"},
			corev1.ConditionTrue,
			[]string{notTold, `"resource":"events","reason":"forbidden"`},
		},
		{
			// The DaemonSet's nodeSelector says of the labels what is needed here.
			"the Node's labels, and its condition",
			[]string{"ClusterRoleBinding /" + exporter + "-node-labels", "ClusterRoleBinding /" + exporter + "-node-condition"},
			"proves", "",
			[]string{"Node", "Pod"},
			corev1.ConditionFalse,
			[]string{notTold, `"resource":"nodes","reason":"forbidden"`},
		},
		{
			"the CiliumNodeConfigs",
			[]string{"RoleBinding kube-system/" + exporter + "-cilium-node-configs"},
			"suggests", "Whether CiliumNodeConfigs change the settings for this node is not known",
			[]string{"Node", "Pod"},
			corev1.ConditionTrue,
			nil,
		},
		{
			"the Pods of Cilium",
			[]string{"RoleBinding kube-system/" + exporter + "-cilium-pods"},
			"suggests", "When Cilium's agent on this node started is not known",
			[]string{"Node", "Pod"},
			corev1.ConditionTrue,
			nil,
		},
		{"nothing", nil, "proves", "", []string{"Node", "Pod"}, corev1.ConditionTrue, nil},
	} {
		t.Run("without "+tt.name, func(t *testing.T) {
			c.awaitsCondition(t, node, corev1.ConditionFalse) // by an agent that may
			c.takesAway(t, tt.without...)
			c.restarts(t, node)
			c.awaits(t, node, "match", time.Now())
			began := time.Now()
			c.plan(t, node, "bypass", 0, 20*time.Second, nil)
			c.awaits(t, node, "node_fallback", began)
			p, err := c.pod(t.Context(), namespace, exporter, node)
			must(t, err)
			// Within this time the agent has written all that it writes.
			time.Sleep(3 * time.Second)
			s := c.status(t, node)
			i := slices.IndexFunc(s.Causes, func(found pages.Cause) bool { return strings.Contains(found.Why, "enable-bpf-masquerade") })
			switch {
			case i < 0 && tt.confidence != "":
				t.Errorf("causes %+v, want %s", s.Causes, cause)
			case i >= 0 && (s.Causes[i].Cause != cause || s.Causes[i].Confidence != tt.confidence):
				t.Errorf("found %+v, want confidence %q", s.Causes[i], tt.confidence)
			}
			if !missing(s, tt.missing) {
				t.Errorf("it says that %+v is not known, want %q", s.Unknown, tt.missing)
			}
			wantEvents(t, c.eventsBy(t, p.Name), tt.events...)
			c.awaitsCondition(t, node, tt.condition)
			logs := c.logs(t.Context(), p.Name)
			for _, want := range tt.log {
				if !strings.Contains(logs, want) {
					t.Errorf("the log does not say %s:\n%s", want, logs)
				}
			}
			c.awaits(t, node, "match", began)
		})
	}
}

// missing reports whether a fact is said not to be known, or none at all.
func missing(s pages.Status, fact string) bool {
	if fact == "" {
		return len(s.Unknown) == 0
	}
	return slices.ContainsFunc(s.Unknown, func(u struct{ Fact string }) bool { return strings.Contains(u.Fact, fact) })
}

func wantEvents(t *testing.T, events []corev1.Event, about ...string) {
	t.Helper()
	var got []string
	for _, e := range events {
		if e.Reason == "WorkloadIdentityNodeFallback" {
			got = append(got, e.InvolvedObject.Kind)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, about) {
		t.Errorf("Events about %q, want them about %q", got, about)
	}
}

// eventsBy are the Events that an exporter's Pod has written.
func (c *cluster) eventsBy(t *testing.T, pod string) []corev1.Event {
	t.Helper()
	list, err := c.CoreV1().Events("").List(t.Context(), metav1.ListOptions{FieldSelector: "source=" + exporter})
	must(t, err)
	return slices.DeleteFunc(list.Items, func(e corev1.Event) bool { return e.ReportingInstance != pod })
}

// allowsAll installs the exporter with all permissions for as long as the test lasts.
func (c *cluster) allowsAll(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { c.allowsTheUsual(t) })
	must(t, c.install(t.Context(), withCondition))
	must(t, c.rolledOut(t.Context(), namespace, exporter, 2))
	c.healthy(t)
}

// takesAway deletes bindings for as long as the test lasts.
func (c *cluster) takesAway(t *testing.T, bindings ...string) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.install(context.Background(), withCondition); err != nil {
			t.Error(err)
		}
	})
	for _, b := range bindings {
		kind, name, _ := strings.Cut(b, " ")
		in, name, _ := strings.Cut(name, "/")
		var err error
		if kind == "RoleBinding" {
			err = c.RbacV1().RoleBindings(in).Delete(t.Context(), name, metav1.DeleteOptions{})
		} else {
			err = c.RbacV1().ClusterRoleBindings().Delete(t.Context(), name, metav1.DeleteOptions{})
		}
		must(t, err)
	}
}

// restarts lets another exporter begin on the node, which knows nothing yet.
func (c *cluster) restarts(t *testing.T, node string) {
	t.Helper()
	old, err := c.pod(t.Context(), namespace, exporter, node)
	if err == nil {
		err = c.CoreV1().Pods(namespace).Delete(t.Context(), old.Name, metav1.DeleteOptions{})
	}
	must(t, err)
	err = eventually(t.Context(), func(ctx context.Context) error {
		p, err := c.pod(ctx, namespace, exporter, node)
		if err == nil && (p.UID == old.UID || len(p.Status.ContainerStatuses) == 0 || !p.Status.ContainerStatuses[0].Ready) {
			err = fmt.Errorf("no new exporter is ready on %s", node)
		}
		return err
	})
	must(t, err)
}

// The condition is of the broken node alone, says why, and ends with the bypass.
func TestTheNodeSaysThatItIsBroken(t *testing.T) {
	c := shared
	c.healthy(t)
	c.configuresCilium(t)
	c.allowsAll(t)
	broken, other := c.nodes[0], c.nodes[1]
	for _, n := range c.nodes {
		c.awaitsCondition(t, n, corev1.ConditionFalse)
	}
	began := time.Now()
	c.plan(t, broken, "bypass", 0, 20*time.Second, nil)
	c.awaits(t, broken, "node_fallback", began)
	found := c.awaitsCondition(t, broken, corev1.ConditionTrue)
	if found.Reason != "WorkloadIdentityNodeFallback" || !strings.Contains(found.Message, cause) || found.LastTransitionTime.Time.Before(began.Add(-time.Second)) {
		t.Errorf("%+v, want node_fallback with the cause, since the bypass", found)
	}
	if o := c.awaitsCondition(t, other, corev1.ConditionFalse); o.LastTransitionTime.After(began) {
		t.Errorf("the condition of the other node changed: %+v", o)
	}
	c.awaits(t, broken, "match", began)
	c.awaitsCondition(t, broken, corev1.ConditionFalse)
}

const conditionType = "WorkloadIdentityBroken"

func condition(n *corev1.Node) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == conditionType {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func (c *cluster) awaitsCondition(t *testing.T, node string, want corev1.ConditionStatus) *corev1.NodeCondition {
	t.Helper()
	var found *corev1.NodeCondition
	err := eventually(t.Context(), func(ctx context.Context) error {
		n, err := c.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if found = condition(n); found == nil || found.Status != want {
			return fmt.Errorf("the condition of %s is %+v, want %s", node, found, want)
		}
		return nil
	})
	must(t, err)
	return found
}

// allowsTheUsual makes the nodes and the exporter as they were before. A
// condition that an agent has left stays until somebody takes it away.
func (c *cluster) allowsTheUsual(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	err := errors.Join(c.install(ctx, byKustomize), c.removeAllBut(ctx, withCondition, byKustomize), c.rolledOut(ctx, namespace, exporter, 2))
	for _, n := range c.nodes {
		change := map[string]any{"status": map[string]any{"conditions": []any{map[string]any{"type": conditionType, "$patch": "delete"}}}}
		body, _ := json.Marshal(change)
		_, e := c.CoreV1().Nodes().Patch(ctx, n, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
		err = errors.Join(err, e)
	}
	if err != nil {
		t.Error(err)
	}
}

// removeAllBut deletes the objects of a manifest that another one does not have.
func (c *cluster) removeAllBut(ctx context.Context, path, keep string) error {
	more, err := shipped(path)
	if err != nil {
		return err
	}
	fewer, err := shipped(keep)
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, o := range fewer {
		kept[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()] = true
	}
	return c.remove(ctx, slices.DeleteFunc(more, func(o *unstructured.Unstructured) bool {
		return kept[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()]
	})...)
}

// What the Pods use, as their kubelets say: the reason for the requests and limits
// in the manifests. With E2E_SOAK=10m it is what they use in that time.
func TestWhatThePodsUse(t *testing.T) {
	c := shared
	c.healthy(t)
	soak, err := time.ParseDuration(cmp.Or(os.Getenv("E2E_SOAK"), "10s"))
	if err != nil {
		t.Fatalf("E2E_SOAK: %v, want a duration such as 10m", err)
	}
	before := map[string]usage{}
	for _, n := range c.nodes {
		before[n] = c.usage(t, n)
	}
	time.Sleep(soak)
	for _, n := range c.nodes {
		p, err := c.pod(t.Context(), namespace, exporter, n)
		must(t, err)
		now := c.usage(t, n)
		limit := p.Spec.Containers[0].Resources.Limits.Memory().Value()
		request := p.Spec.Containers[0].Resources.Requests.Memory().Value()
		took := now.at.Sub(before[n].at)
		milliCPU := float64(now.cpu-before[n].cpu) / 1e6 / took.Seconds()
		t.Logf("%s: working set %.1f MiB of %d MiB requested and %d MiB allowed, resident %.1f MiB; %.2f thousandths of a core in %s",
			n, float64(now.workingSet)/(1<<20), request>>20, limit>>20, float64(now.resident)/(1<<20), milliCPU, took.Round(time.Second))
		if now.workingSet == 0 || now.workingSet > request {
			t.Errorf("the Pod on %s uses %d bytes, want some, and no more than the %d it requests", n, now.workingSet, request)
		}
		if r := p.Status.ContainerStatuses[0].RestartCount; r > 0 {
			t.Errorf("the Pod on %s was started again %d times", n, r)
		}
	}
}

// usage is in bytes, and in nanoseconds of a core since the start.
type usage struct {
	at                   time.Time
	workingSet, resident int64
	cpu                  int64
}

// usage is what the kubelet's summary says of the exporter on the node. It is
// some seconds old.
func (c *cluster) usage(t *testing.T, node string) usage {
	t.Helper()
	var u usage
	err := eventually(t.Context(), func(ctx context.Context) error {
		body, err := c.CoreV1().RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("stats/summary").DoRaw(ctx)
		if err != nil {
			return err
		}
		var summary struct {
			Pods []struct {
				PodRef     struct{ Name, Namespace string }
				Containers []struct {
					CPU struct {
						Time                 time.Time
						UsageCoreNanoSeconds int64
					}
					Memory struct{ WorkingSetBytes, RSSBytes int64 }
				}
			}
		}
		if err := json.Unmarshal(body, &summary); err != nil {
			return err
		}
		p, err := c.pod(ctx, namespace, exporter, node)
		if err != nil {
			return err
		}
		for _, s := range summary.Pods {
			if s.PodRef.Namespace == namespace && s.PodRef.Name == p.Name && len(s.Containers) == 1 && s.Containers[0].CPU.UsageCoreNanoSeconds > 0 {
				one := s.Containers[0]
				u = usage{one.CPU.Time, one.Memory.WorkingSetBytes, one.Memory.RSSBytes, one.CPU.UsageCoreNanoSeconds}
				return nil
			}
		}
		return fmt.Errorf("the kubelet of %s says nothing about %s", node, p.Name)
	})
	must(t, err)
	return u
}
