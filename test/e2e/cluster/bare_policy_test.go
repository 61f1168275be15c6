package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// nodes are two, with a Pod of the exporter on the first, and what agents there
// may do by RBAC: more than any manifest gives them, so that what is refused is
// refused by the policies.
type nodes struct {
	own, other string
	pod        *corev1.Pod
	agent      *kubernetes.Clientset
	// elsewhere has the token of the agent on the other node.
	elsewhere *kubernetes.Clientset
	// unbound has a token of the same ServiceAccount which names no Pod.
	unbound *kubernetes.Clientset
}

func makeNodes(t *testing.T) nodes {
	t.Helper()
	c := shared
	c.with(t, rendered(t, "kustomize-everything"))
	var names []string
	for range 2 {
		node, err := c.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-", Labels: map[string]string{"pool": "a"}}}, metav1.CreateOptions{})
		must(t, err)
		cleanup(t, func(ctx context.Context) error {
			return c.CoreV1().Nodes().Delete(ctx, node.Name, metav1.DeleteOptions{})
		})
		_, err = c.CoreV1().Nodes().PatchStatus(t.Context(), node.Name, []byte(`{"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Test"}], "capacity": {"cpu": "1"}, "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}`))
		must(t, err)
		names = append(names, node.Name)
	}
	var made []*corev1.Pod
	for _, node := range names {
		pod := pods(t, rendered(t, "kustomize-base"))[0]
		pod.ObjectMeta = metav1.ObjectMeta{GenerateName: "e2e-", Namespace: exporter}
		pod.Spec.NodeName = node
		p, err := c.CoreV1().Pods(exporter).Create(t.Context(), &pod, metav1.CreateOptions{})
		must(t, err)
		now := int64(0)
		cleanup(t, func(ctx context.Context) error {
			err := c.CoreV1().Pods(exporter).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
			if apierrors.IsNotFound(err) {
				return nil // with its node
			}
			return err
		})
		made = append(made, p)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "update", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"nodes", "nodes/status"}, Verbs: []string{"get", "create", "update", "patch"}},
	}}
	role, err := c.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{})
	must(t, err)
	cleanup(t, func(ctx context.Context) error {
		return c.RbacV1().ClusterRoles().Delete(ctx, role.Name, metav1.DeleteOptions{})
	})
	binding, err := c.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: exporter, Name: exporter}},
	}, metav1.CreateOptions{})
	must(t, err)
	cleanup(t, func(ctx context.Context) error {
		return c.RbacV1().ClusterRoleBindings().Delete(ctx, binding.Name, metav1.DeleteOptions{})
	})
	n := nodes{own: names[0], other: names[1], pod: made[0], agent: c.agent(t, made[0]), elsewhere: c.agent(t, made[1]), unbound: c.agent(t, nil)}
	// The API server learns of policies and of Roles a moment later.
	must(t, eventually(t.Context(), func(ctx context.Context) error {
		return errors.Join(
			isRefused(n.event(ctx, n.agent, "default", func(e *corev1.Event) { e.InvolvedObject.Name = n.other }), "writes Events about that node"),
			isRefused(patchStatus(ctx, n.agent, n.other, broken), "changes that node only"))
	}))
	return n
}

// isRefused tells why an error is not the refusal by a policy for this reason.
func isRefused(err error, because string) error {
	if err == nil {
		return fmt.Errorf("it is done, want it refused by a policy because of %q", because)
	}
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") || !strings.Contains(err.Error(), because) {
		return fmt.Errorf("%w, want it refused by a policy because of %q", err, because)
	}
	return nil
}

// event writes one about the own node, with a change.
func (n nodes) event(ctx context.Context, client *kubernetes.Clientset, namespace string, change func(*corev1.Event)) error {
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "e2e-", Namespace: namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.own},
		Reason:         "WorkloadIdentityTest", Message: "of the suite", Type: corev1.EventTypeWarning,
		Source: corev1.EventSource{Component: exporter, Host: n.own}, ReportingController: exporter, ReportingInstance: "x",
	}
	change(e)
	made, err := client.CoreV1().Events(namespace).Create(ctx, e, metav1.CreateOptions{})
	if err == nil {
		err = shared.CoreV1().Events(namespace).Delete(ctx, made.Name, metav1.DeleteOptions{})
	}
	return err
}

// aboutOwnPod makes an Event one about the agent's own Pod.
func (n nodes) aboutOwnPod(e *corev1.Event) {
	e.InvolvedObject = corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: n.pod.Namespace, Name: n.pod.Name}
}

func TestAnAgentWritesEventsAboutItsOwnNodeAndPod(t *testing.T) {
	n := makeNodes(t)
	const notItsOwn = "writes Events about that node and about its own Pod"
	for _, tt := range []struct {
		name      string
		client    *kubernetes.Clientset
		namespace string
		change    func(*corev1.Event)
		refused   string // because of this, or not at all
	}{
		{"about its node", n.agent, "default", func(*corev1.Event) {}, ""},
		{"about its Pod", n.agent, exporter, n.aboutOwnPod, ""},
		{"without a source", n.agent, "default", func(e *corev1.Event) { e.Source, e.ReportingController = corev1.EventSource{}, "" }, ""},
		{"about another node", n.agent, "default", func(e *corev1.Event) { e.InvolvedObject.Name = n.other }, notItsOwn},
		{"about another Pod", n.agent, exporter, func(e *corev1.Event) { n.aboutOwnPod(e); e.InvolvedObject.Name = "another" }, notItsOwn},
		{"about a Pod of the same name elsewhere", n.agent, "default", func(e *corev1.Event) { n.aboutOwnPod(e); e.InvolvedObject.Namespace = "default" }, notItsOwn},
		{"about another kind with its node's name", n.agent, "default", func(e *corev1.Event) { e.InvolvedObject.Kind, e.InvolvedObject.Namespace = "Service", "default" }, notItsOwn},
		{"about nothing", n.agent, "default", func(e *corev1.Event) { e.InvolvedObject = corev1.ObjectReference{Namespace: "default"} }, notItsOwn},
		{"as the kubelet", n.agent, "default", func(e *corev1.Event) { e.Source.Component = "kubelet" }, "in its own name only"},
		{"as another controller", n.agent, "default", func(e *corev1.Event) { e.ReportingController = "kubelet" }, "in its own name only"},
		{"with another object", n.agent, "default", func(e *corev1.Event) {
			e.Related = &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.other}
		}, "about one object"},
		{"with another reason", n.agent, "default", func(e *corev1.Event) { e.Reason = "NodeNotReady" }, "a reason that begins with WorkloadIdentity"},
		{"without a reason", n.agent, "default", func(e *corev1.Event) { e.Reason = "" }, "a reason that begins with WorkloadIdentity"},
		{"with a message of a megabyte", n.agent, "default", func(e *corev1.Event) { e.Message = strings.Repeat("x", 1<<20) }, "at most 1,024"},
		{"with labels", n.agent, "default", func(e *corev1.Event) { e.Labels = map[string]string{"a": "b"} }, "no labels"},
		{"with annotations", n.agent, "default", func(e *corev1.Event) { e.Annotations = map[string]string{"a": "b"} }, "no labels"},
		{"that cannot be deleted", n.agent, "default", func(e *corev1.Event) { e.Finalizers = []string{"example.com/x"} }, "no labels"},
		{"that somebody owns", n.agent, "default", func(e *corev1.Event) {
			e.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "x", UID: "y"}}
		}, "no labels"},
		{"by a token of another node's Pod", n.elsewhere, "default", func(*corev1.Event) {}, notItsOwn},
		{"about its Pod by a token of another node's Pod", n.elsewhere, exporter, n.aboutOwnPod, notItsOwn},
		{"by a token that names no Pod", n.unbound, "default", func(*corev1.Event) {}, "not bound to a Pod on a node"},
		{"by somebody else", shared.Clientset, "default", func(e *corev1.Event) { e.InvolvedObject.Name = n.other }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := n.event(t.Context(), tt.client, tt.namespace, tt.change)
			if tt.refused != "" {
				err = isRefused(err, tt.refused)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheSameHoldsForTheOtherFormOfEvents(t *testing.T) {
	n := makeNodes(t)
	write := func(node, controller string) error {
		e := &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-", Namespace: "default"}, EventTime: metav1.NowMicro(),
			ReportingController: controller, ReportingInstance: "x", Action: "Probe", Reason: "WorkloadIdentityTest", Type: corev1.EventTypeWarning,
			Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node},
		}
		made, err := n.agent.EventsV1().Events("default").Create(t.Context(), e, metav1.CreateOptions{})
		if err == nil {
			err = shared.EventsV1().Events("default").Delete(t.Context(), made.Name, metav1.DeleteOptions{})
		}
		return err
	}
	must(t, write(n.own, exporter))
	must(t, isRefused(write(n.other, exporter), "writes Events about that node"))
	must(t, isRefused(write(n.own, "kubelet"), "in its own name only"))
}

func TestAnAgentRepeatsItsOwnEventsAndTakesOverNobodys(t *testing.T) {
	n := makeNodes(t)
	write := func(instance string) *corev1.Event {
		t.Helper()
		e, err := shared.CoreV1().Events("default").Create(t.Context(), &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{GenerateName: "e2e-", Namespace: "default"},
			InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.own}, Source: corev1.EventSource{Component: exporter}, Reason: "WorkloadIdentityTest",
			ReportingController: exporter, ReportingInstance: instance,
		}, metav1.CreateOptions{})
		must(t, err)
		cleanup(t, func(ctx context.Context) error {
			return shared.CoreV1().Events("default").Delete(ctx, e.Name, metav1.DeleteOptions{})
		})
		return e
	}
	patch := func(e *corev1.Event, change string) error {
		_, err := n.agent.CoreV1().Events("default").Patch(t.Context(), e.Name, types.MergePatchType, []byte(change), metav1.PatchOptions{})
		return err
	}
	own := write(n.pod.Name)
	must(t, patch(own, `{"count": 2, "message": "still"}`))
	must(t, isRefused(patch(own, `{"involvedObject": {"name": "`+n.other+`"}}`), "repeats its own"))
	must(t, isRefused(patch(write("another"), `{"message": "all is well"}`), "repeats its own"))
	must(t, isRefused(patch(write(""), `{"message": "all is well"}`), "repeats its own"))
}

// broken is what the agent would write.
const broken = `{"status": {"conditions": [{"type": "WorkloadIdentityBroken", "status": "True", "reason": "NodeFallback", "message": "Pods get the identity of the node"}]}}`

func patchStatus(ctx context.Context, client *kubernetes.Clientset, node, patch string) error {
	_, err := client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	return err
}

func TestAnAgentSetsOneConditionOfItsOwnNode(t *testing.T) {
	n := makeNodes(t)
	for _, tt := range []struct {
		name, node, patch string
		client            *kubernetes.Clientset
		refused           string
	}{
		{"sets it", n.own, broken, n.agent, ""},
		{"sets it again", n.own, strings.Replace(broken, `"True"`, `"False"`, 1), n.agent, ""},
		{"takes it away", n.own, `{"status": {"conditions": [{"$patch": "delete", "type": "WorkloadIdentityBroken"}]}}`, n.agent, ""},
		{"of another node", n.other, broken, n.agent, "changes that node only"},
		{"another condition", n.own, `{"status": {"conditions": [{"type": "Ready", "status": "False"}]}}`, n.agent, "the condition WorkloadIdentityBroken only"},
		{"a new condition", n.own, `{"status": {"conditions": [{"type": "DiskPressure", "status": "True"}]}}`, n.agent, "the condition WorkloadIdentityBroken only"},
		{"takes another away", n.own, `{"status": {"conditions": [{"$patch": "delete", "type": "Ready"}]}}`, n.agent, "the condition WorkloadIdentityBroken only"},
		{"takes all away", n.own, `{"status": {"conditions": null}}`, n.agent, "the condition WorkloadIdentityBroken only"},
		{"the capacity", n.own, `{"status": {"capacity": {"cpu": "64"}}}`, n.agent, "nothing else of its status"},
		{"a new resource", n.own, `{"status": {"allocatable": {"example.com/gpu": "8"}}}`, n.agent, "nothing else of its status"},
		{"takes the capacity away", n.own, `{"status": {"capacity": null}}`, n.agent, "nothing else of its status"},
		{"the address", n.own, `{"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.66"}]}}`, n.agent, "nothing else of its status"},
		{"a label by way of the status", n.own, `{"metadata": {"labels": {"pool": "b"}}}`, n.agent, "does not change the labels"},
		{"takes the labels away", n.own, `{"metadata": {"labels": null}}`, n.agent, "does not change the labels"},
		{"an annotation", n.own, `{"metadata": {"annotations": {"a": "b"}}}`, n.agent, "does not change the labels"},
		{"a finalizer", n.own, `{"metadata": {"finalizers": ["example.com/x"]}}`, n.agent, "does not change the labels"},
		{"an owner", n.own, `{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "y"}]}}`, n.agent, "does not change the labels"},
		{"a message of a megabyte", n.own, strings.Replace(broken, "Pods get", strings.Repeat("x", 1<<20), 1), n.agent, "at most 2,048"},
		{"by a token of another node's Pod", n.own, broken, n.elsewhere, "changes that node only"},
		{"by a token that names no Pod", n.own, broken, n.unbound, "changes that node only"},
		{"by somebody else", n.other, `{"status": {"conditions": [{"type": "Ready", "status": "False"}]}}`, shared.Clientset, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := patchStatus(t.Context(), tt.client, tt.node, tt.patch)
			if tt.refused != "" {
				err = isRefused(err, tt.refused)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("the condition twice", func(t *testing.T) {
		twice := []byte(`[{"op": "add", "path": "/status/conditions/-", "value": {"type": "WorkloadIdentityBroken", "status": "True"}},
			{"op": "add", "path": "/status/conditions/-", "value": {"type": "WorkloadIdentityBroken", "status": "False"}}]`)
		_, err := n.agent.CoreV1().Nodes().Patch(t.Context(), n.own, types.JSONPatchType, twice, metav1.PatchOptions{}, "status")
		must(t, isRefused(err, "once"))
	})
	t.Run("the node itself", func(t *testing.T) {
		_, err := n.agent.CoreV1().Nodes().Patch(t.Context(), n.own, types.MergePatchType, []byte(`{"spec": {"unschedulable": true}}`), metav1.PatchOptions{})
		must(t, isRefused(err, "the status of its node only"))
	})
	t.Run("a new node", func(t *testing.T) {
		_, err := n.agent.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}, metav1.CreateOptions{})
		must(t, isRefused(err, "the status of its node only"))
	})
	// The kubelet's own conditions are there, whatever the agent did.
	node, err := shared.CoreV1().Nodes().Get(t.Context(), n.own, metav1.GetOptions{})
	must(t, err)
	if len(node.Status.Conditions) != 1 || node.Status.Conditions[0].Type != corev1.NodeReady {
		t.Errorf("conditions %+v, want Ready alone", node.Status.Conditions)
	}
}

// A token says which node it was mounted on. Without it no policy could tell.
func TestTheTokenNamesTheNode(t *testing.T) {
	n := makeNodes(t)
	review, err := n.agent.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	must(t, err)
	if got := review.Status.UserInfo.Extra["authentication.kubernetes.io/node-name"]; len(got) != 1 || got[0] != n.own {
		t.Errorf("the token names the node %v, want %s", got, n.own)
	}
}

// The API server's own look at the expressions, where its controller runs.
func TestThePoliciesHaveNoWarnings(t *testing.T) {
	shared.with(t, rendered(t, "kustomize-everything"))
	for _, policy := range []string{exporter + "-events", exporter + "-node-condition"} {
		p, err := shared.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(t.Context(), policy, metav1.GetOptions{})
		must(t, err)
		if check := p.Status.TypeChecking; check != nil && len(check.ExpressionWarnings) > 0 {
			t.Errorf("%s: %+v", policy, check.ExpressionWarnings)
		}
	}
}
