package cluster

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

func TestItRunsOnLabelledNodesOnly(t *testing.T) {
	c := shared
	c.healthy(t)
	must(t, c.label(t.Context(), c.nodes[1], map[string]any{enabledLabel: nil}))
	if err := c.rolledOut(t.Context(), namespace, exporter, 1); err != nil {
		t.Error(err)
	}
	if p, err := c.pod(t.Context(), namespace, exporter, c.nodes[1]); err == nil {
		t.Errorf("%s runs on %s, which has no label", p.Name, c.nodes[1])
	}
	must(t, c.label(t.Context(), c.nodes[1], map[string]any{enabledLabel: "true"}))
	must(t, c.rolledOut(t.Context(), namespace, exporter, 2))
	c.healthy(t)
}

func TestItRunsUnderRestrictedPodSecurity(t *testing.T) {
	c := shared
	c.healthy(t)
	// The cluster does enforce it: this Pod is refused.
	_, err := c.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "forbidden"},
		Spec:       corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "c", Image: "c"}}},
	}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("a Pod in the host's network: %v, want a refusal by PodSecurity", err)
	}
	for _, n := range c.nodes {
		p, err := c.pod(t.Context(), namespace, exporter, n)
		must(t, err)
		if s := p.Status.ContainerStatuses[0]; !s.Ready || s.RestartCount > 0 {
			t.Errorf("%s on %s: %+v, want ready and never restarted", p.Name, n, s)
		}
	}
}

func TestItMayReadItsOwnServiceAccountAndNothingElse(t *testing.T) {
	c := shared
	c.healthy(t)
	for _, n := range c.nodes {
		if v := c.metric(t, n, `kubernetes_requests_total{resource="serviceaccounts"}`); v < 1 {
			t.Errorf("%v requests by the exporter on %s, want some", v, n)
		}
		if v := c.metric(t, n, `expected_info{email="`+exporterEmail+`",source="annotation"}`); v != 1 {
			t.Errorf("the exporter on %s does not expect what the annotation says", n)
		}
	}

	token, err := c.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), exporter, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(t, err)
	config = rest.AnonymousClientConfig(config)
	config.BearerToken = token.Status.Token
	its, err := kubernetes.NewForConfig(config)
	must(t, err)
	if _, err := its.CoreV1().ServiceAccounts(namespace).Get(t.Context(), exporter, metav1.GetOptions{}); err != nil {
		t.Errorf("its own ServiceAccount: %v", err)
	}
	for what, err := range map[string]error{
		"another ServiceAccount":    get(its.CoreV1().ServiceAccounts(namespace).Get(t.Context(), "default", metav1.GetOptions{})),
		"all ServiceAccounts":       get(its.CoreV1().ServiceAccounts(namespace).List(t.Context(), metav1.ListOptions{})),
		"the Pods of its namespace": get(its.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})),
		"its node":                  get(its.CoreV1().Nodes().Get(t.Context(), c.nodes[0], metav1.GetOptions{})),
		"a ConfigMap":               get(its.CoreV1().ConfigMaps(namespace).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want forbidden", what, err)
		}
	}
}

func get(_ any, err error) error { return err }

func TestAChangedAnnotationAccusesNobody(t *testing.T) {
	c := shared
	c.healthy(t)
	annotate := func(email string) {
		t.Helper()
		change := map[string]any{"metadata": map[string]any{"annotations": map[string]any{"iam.gke.io/gcp-service-account": email}}}
		must(t, c.patch(t.Context(), c.CoreV1().RESTClient(), "serviceaccounts", namespace, exporter, types.MergePatchType, change))
	}
	before := map[string]int{}
	for _, n := range c.nodes {
		before[n] = len(c.status(t, n).Changes)
	}
	for _, email := range []string{"other@demo-project.iam.gserviceaccount.com", exporterEmail} {
		annotate(email)
		for _, n := range c.nodes {
			err := eventually(t.Context(), func(ctx context.Context) error {
				s, err := c.statusNow(ctx, n)
				if err == nil && (s.State != "match" || s.Observed != email || s.Expected != email) {
					err = fmt.Errorf("the exporter on %s: %+v, want %s", n, s, email)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
	for _, n := range c.nodes {
		if s := c.status(t, n); len(s.Changes) != before[n] {
			t.Errorf("the exporter on %s changed its state: %v", n, s.Changes)
		}
	}
}

func TestABypassIsStatedByItsNodeAlone(t *testing.T) {
	c := shared
	c.healthy(t)
	broken, other := c.nodes[0], c.nodes[1]
	before := len(c.status(t, other).Changes)

	c.configuresCilium(t)
	const lasts = 20 * time.Second
	began := time.Now()
	c.plan(t, broken, "bypass", 0, lasts, nil)
	detected := c.awaits(t, broken, "node_fallback", began)
	c.saysWhy(t, broken)
	if detected > atMost {
		t.Errorf("stated after %s, want at most %s", detected, atMost)
	}
	if v := c.metric(t, broken, `observed_info{email="`+nodeEmail+`",metadata_server="vm"}`); v != 1 {
		t.Errorf("observed %+v, want %s from vm", c.status(t, broken), nodeEmail)
	}
	recovered := c.awaits(t, broken, "match", began.Add(lasts))
	if recovered > atMost {
		t.Errorf("match again after %s, want at most %s", recovered, atMost)
	}
	if s := c.status(t, other); len(s.Changes) != before {
		t.Errorf("the exporter on the other node changed its state: %v", s.Changes)
	}
	t.Logf("node_fallback after %s, match again after %s", detected, recovered)
}

// While nobody reaches the API server, for longer than it takes until the
// expectation is due again, the exporter works with what it read last, and still
// accuses when it must.
func TestItOutlivesTheAPIServer(t *testing.T) {
	c := shared
	c.healthy(t)
	addresses := c.apiServers(t)
	broken, other := c.nodes[0], c.nodes[1]
	before := map[string]int{}
	failures := map[string]float64{}
	pods := map[string]types.UID{}
	for _, n := range c.nodes {
		before[n] = len(c.status(t, n).Changes)
		failures[n] = c.failures(t, n, "unavailable") + c.failures(t, n, "timeout")
		p, err := c.pod(t.Context(), namespace, exporter, n)
		must(t, err)
		pods[n] = p.UID
	}

	const soon, outage, bypassAt, bypass = 3 * time.Second, 75 * time.Second, 12 * time.Second, 25 * time.Second
	began := time.Now().Add(soon)
	for _, n := range slices.Backward(c.nodes) {
		c.plan(t, n, "cut", time.Until(began), outage, url.Values{"address": addresses})
	}
	// Planned on a node that can still be asked.
	c.plan(t, broken, "bypass", time.Until(began.Add(bypassAt)), bypass, nil)
	gone := false
	for time.Now().Before(began.Add(outage)) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := c.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err != nil {
			gone = true
		}
		cancel()
		time.Sleep(time.Second) // the outage lasts
	}
	if !gone {
		t.Logf("the suite itself reached the API server all the time, by a way that does not pass the nodes")
	}

	for _, n := range c.nodes {
		s := c.status(t, n)
		if s.Expected != exporterEmail || s.Source != "annotation" {
			t.Errorf("the exporter on %s expects %q by %s after the outage, want what it read before", n, s.Expected, s.Source)
		}
		if f := c.failures(t, n, "unavailable") + c.failures(t, n, "timeout"); f <= failures[n] {
			t.Errorf("the exporter on %s counts no failed request, so there was no outage for it", n)
		}
		p, err := c.pod(t.Context(), namespace, exporter, n)
		must(t, err)
		if p.UID != pods[n] || p.Status.ContainerStatuses[0].RestartCount > 0 {
			t.Errorf("the exporter on %s was started again", n)
		}
	}
	if s := c.status(t, other); len(s.Changes) != before[other] {
		t.Errorf("the exporter on %s changed its state: %v", other, s.Changes)
	}
	s := c.status(t, broken)
	if got := s.Changes[:len(s.Changes)-before[broken]]; len(got) != 2 || got[1].To != "node_fallback" || got[0].To != "match" {
		t.Fatalf("the exporter on %s stated %v, want node_fallback and then match", broken, got)
	}
	detected, recovered := s.Changes[1].At.Sub(began.Add(bypassAt)), s.Changes[0].At.Sub(began.Add(bypassAt+bypass))
	// Reading the expectation again fails first.
	if limit := atMost + 2*time.Second; detected > limit || recovered > limit {
		t.Errorf("node_fallback after %s, match again after %s, want at most %s each", detected, recovered, limit)
	}
	if s.Changes[0].At.After(began.Add(outage)) {
		t.Errorf("the bypass ended at %s, after the outage", s.Changes[0].At)
	}
	t.Logf("without an API server: node_fallback after %s, match again after %s", detected.Round(10*time.Millisecond), recovered.Round(10*time.Millisecond))
}

// apiServers are the addresses by which Pods and nodes reach the API server.
func (c *cluster) apiServers(t *testing.T) []string {
	t.Helper()
	service, err := c.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	must(t, err)
	slices, err := c.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
	must(t, err)
	addresses := []string{net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(int(service.Spec.Ports[0].Port)))}
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			for _, a := range e.Addresses {
				addresses = append(addresses, net.JoinHostPort(a, strconv.Itoa(int(*s.Ports[0].Port))))
			}
		}
	}
	return addresses
}

func (c *cluster) failures(t *testing.T, node, reason string) float64 {
	t.Helper()
	return c.metric(t, node, `kubernetes_request_failures_total{reason="`+reason+`",resource="serviceaccounts"}`)
}

func TestWithoutPermissionItSaysSo(t *testing.T) {
	c := shared
	c.healthy(t)
	node := c.nodes[0]
	before := len(c.status(t, node).Changes)
	failures := c.failures(t, node, "forbidden")
	must(t, c.RbacV1().RoleBindings(namespace).Delete(t.Context(), exporter, metav1.DeleteOptions{}))
	restored := false
	restore := func() {
		if err := c.install(context.Background(), byKustomize); err != nil {
			t.Error(err)
		}
		restored = true
	}
	defer func() {
		if !restored {
			restore()
		}
	}()

	// Who read it before goes on with that.
	err := eventually(t.Context(), func(context.Context) error {
		if c.failures(t, node, "forbidden") == failures {
			return fmt.Errorf("no request of the exporter on %s was forbidden", node)
		}
		return nil
	})
	must(t, err)
	if s := c.status(t, node); s.State != "match" || s.Expected != exporterEmail || len(s.Changes) != before {
		t.Errorf("without permission: %+v, want what was read before", s)
	}
	old, err := c.pod(t.Context(), namespace, exporter, node)
	must(t, err)
	// It counts a request before it logs the failure, and the container runtime passes lines on.
	want := "allow the verb get on the ServiceAccount " + exporter + " by a Role in the namespace " + namespace
	err = eventually(t.Context(), func(ctx context.Context) error {
		logs, err := c.CoreV1().Pods(namespace).GetLogs(old.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err == nil && !strings.Contains(string(logs), want) {
			err = fmt.Errorf("the log does not say %q:\n%s", want, logs)
		}
		return err
	})
	must(t, err)

	// Who starts without it cannot tell.
	must(t, c.CoreV1().Pods(namespace).Delete(t.Context(), old.Name, metav1.DeleteOptions{}))
	c.awaits(t, node, "unknown_expectation", time.Now())
	if v := c.failures(t, node, "forbidden"); v < 1 {
		t.Errorf("%v forbidden requests of the new exporter, want some", v)
	}
	if v := c.metric(t, node, `verdicts_total{state="mismatch"}`) + c.metric(t, node, `verdicts_total{state="node_fallback"}`); v > 0 {
		t.Errorf("%v verdicts accuse without an expectation", v)
	}
	restore()
	c.awaits(t, node, "match", time.Now())
	if got := c.status(t, node).Stated(); !slices.Equal(got, []string{"unknown_expectation", "match"}) {
		t.Errorf("stated %v, want unknown_expectation and then match", got)
	}
}
