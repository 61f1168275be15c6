package cluster

import (
	"context"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// namespaced is a namespace of the test's own.
type namespaced struct {
	*cluster
	namespace string
}

func newNamespace(t *testing.T) *namespaced {
	t.Helper()
	made, err := shared.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: generated()}, metav1.CreateOptions{})
	must(t, err)
	cleanup(t, func(ctx context.Context) error {
		return shared.CoreV1().Namespaces().Delete(ctx, made.Name, metav1.DeleteOptions{})
	})
	return &namespaced{shared, made.Name}
}

// generated is the metadata of an object whose name the API server makes up.
func generated() metav1.ObjectMeta { return metav1.ObjectMeta{GenerateName: "e2e-"} }

// address is HOST and PORT of the API server.
func (c *namespaced) address(t *testing.T) (host, port string) {
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
func (c *namespaced) makeAccount(t *testing.T, name string, annotations map[string]string) {
	t.Helper()
	_, err := c.CoreV1().ServiceAccounts(c.namespace).Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}, metav1.CreateOptions{})
	must(t, err)
}

// annotate replaces the annotations of a ServiceAccount.
func (c *namespaced) annotate(t *testing.T, name string, annotations map[string]string) {
	t.Helper()
	account, err := c.CoreV1().ServiceAccounts(c.namespace).Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	account.Annotations = annotations
	_, err = c.CoreV1().ServiceAccounts(c.namespace).Update(t.Context(), account, metav1.UpdateOptions{})
	must(t, err)
}

// deleteAccount deletes a ServiceAccount.
func (c *namespaced) deleteAccount(t *testing.T, name string) {
	t.Helper()
	must(t, c.CoreV1().ServiceAccounts(c.namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
}

// mayRead is the name of the Role and of its binding.
const mayRead = "read-own-service-account"

// makeRole lets the ServiceAccount read one ServiceAccount and nothing else, as
// the exporter's manifests do, once it is bound.
func (c *namespaced) makeRole(t *testing.T, readable string) {
	t.Helper()
	_, err := c.RbacV1().Roles(c.namespace).Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: mayRead},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, ResourceNames: []string{readable}}},
	}, metav1.CreateOptions{})
	must(t, err)
}

func (c *namespaced) bindRole(t *testing.T, account string) {
	t.Helper()
	_, err := c.RbacV1().RoleBindings(c.namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: mayRead},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: c.namespace, Name: account}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: mayRead},
	}, metav1.CreateOptions{})
	must(t, err)
}

func (c *namespaced) unbindRole(t *testing.T) {
	t.Helper()
	must(t, c.RbacV1().RoleBindings(c.namespace).Delete(t.Context(), mayRead, metav1.DeleteOptions{}))
}

// token is a new token of the ServiceAccount, bound to nothing but it, or also
// to the object.
func (c *namespaced) token(t *testing.T, account string, bound *authenticationv1.BoundObjectReference) string {
	t.Helper()
	request, err := c.CoreV1().ServiceAccounts(c.namespace).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}, metav1.CreateOptions{})
	must(t, err)
	return request.Status.Token
}

// counted is the sum of the API server's own series with this name and all these labels.
func (c *namespaced) counted(t *testing.T, name string, labels ...string) (sum float64) {
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
