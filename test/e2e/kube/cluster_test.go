package kube_test

import (
	"context"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// patience bounds the waiting for what the API server does a moment later, such
// as to see a change in its caches. It is for machines that do many things at once.
const patience = 30 * time.Second

// cluster is the API server of KUBECONFIG, and a namespace of the test's own.
type cluster struct {
	*kubernetes.Clientset
	config    *rest.Config
	namespace string
}

func connect(t *testing.T) *cluster {
	t.Helper()
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	must(t, err)
	must(t, rest.LoadTLSFiles(config))
	config.QPS = -1 // the tests of a suite are no burden
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	namespace, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: generated()}, metav1.CreateOptions{})
	must(t, err)
	c := &cluster{Clientset: client, config: config, namespace: namespace.Name}
	// Not waited for: a cluster without controllers never finishes it.
	c.cleanup(t, func(ctx context.Context) error {
		return client.CoreV1().Namespaces().Delete(ctx, c.namespace, metav1.DeleteOptions{})
	})
	return c
}

// generated is the metadata of an object whose name the API server makes up.
func generated() metav1.ObjectMeta { return metav1.ObjectMeta{GenerateName: "e2e-kube-"} }

// cleanup calls f at the end of the test, when its context has ended.
func (c *cluster) cleanup(t *testing.T, f func(context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

// address is HOST and PORT of the API server.
func (c *cluster) address(t *testing.T) (host, port string) {
	t.Helper()
	u, err := url.Parse(c.config.Host)
	if err != nil || u.Scheme != "https" || (u.Path != "" && u.Path != "/") {
		t.Fatalf("KUBECONFIG names the server %q, want https://HOST:PORT, as Pods have it", c.config.Host)
	}
	if len(c.config.CAData) == 0 {
		t.Fatal("KUBECONFIG names no certificate authority, but Pods have one")
	}
	if u.Port() == "" {
		return u.Hostname(), "443"
	}
	host, port, err = net.SplitHostPort(u.Host)
	must(t, err)
	return host, port
}

// makeAccount creates a ServiceAccount.
func (c *cluster) makeAccount(t *testing.T, name string, annotations map[string]string) {
	t.Helper()
	_, err := c.CoreV1().ServiceAccounts(c.namespace).Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}, metav1.CreateOptions{})
	must(t, err)
}

// annotate replaces the annotations of a ServiceAccount.
func (c *cluster) annotate(t *testing.T, name string, annotations map[string]string) {
	t.Helper()
	account, err := c.CoreV1().ServiceAccounts(c.namespace).Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	account.Annotations = annotations
	_, err = c.CoreV1().ServiceAccounts(c.namespace).Update(t.Context(), account, metav1.UpdateOptions{})
	must(t, err)
}

// deleteAccount deletes a ServiceAccount.
func (c *cluster) deleteAccount(t *testing.T, name string) {
	t.Helper()
	must(t, c.CoreV1().ServiceAccounts(c.namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
}

// mayRead is the name of the Role and of its binding.
const mayRead = "read-own-service-account"

// makeRole lets the ServiceAccount read one ServiceAccount and nothing else, as
// the exporter's manifests do, once it is bound.
func (c *cluster) makeRole(t *testing.T, readable string) {
	t.Helper()
	_, err := c.RbacV1().Roles(c.namespace).Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: mayRead},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, ResourceNames: []string{readable}}},
	}, metav1.CreateOptions{})
	must(t, err)
}

func (c *cluster) bindRole(t *testing.T, account string) {
	t.Helper()
	_, err := c.RbacV1().RoleBindings(c.namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: mayRead},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: c.namespace, Name: account}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: mayRead},
	}, metav1.CreateOptions{})
	must(t, err)
}

func (c *cluster) unbindRole(t *testing.T) {
	t.Helper()
	must(t, c.RbacV1().RoleBindings(c.namespace).Delete(t.Context(), mayRead, metav1.DeleteOptions{}))
}

// token is a new token of the ServiceAccount, bound to nothing but it, or also
// to the object.
func (c *cluster) token(t *testing.T, account string, bound *authenticationv1.BoundObjectReference) string {
	t.Helper()
	request, err := c.CoreV1().ServiceAccounts(c.namespace).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}, metav1.CreateOptions{})
	must(t, err)
	return request.Status.Token
}

// metric is the sum of the API server's own series with this name and all these labels.
func (c *cluster) metric(t *testing.T, name string, labels ...string) (sum float64) {
	t.Helper()
	text, err := c.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	must(t, err)
	for line := range strings.Lines(string(text)) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if !strings.HasPrefix(series, name+"{") || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(series, l) }) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		must(t, err)
		sum += v
	}
	return sum
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
