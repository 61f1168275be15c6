package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	account = "exporter"
	email   = "exporter@demo-project.iam.gserviceaccount.com"
)

// cluster is the API server, which the agents reach by a relay that can be cut.
type cluster struct {
	*kubernetes.Clientset
	// namespace is that of the agents, and its name that of all else that is made for them.
	namespace   string
	configured  bool   // there is a ConfigMap of Cilium's
	credentials string // the folder that the kubelet would mount
	agents      *rest.Config
	relay       net.Listener
	server      string

	mu     sync.Mutex
	isCut  bool
	open   map[net.Conn]bool
	opened int // connections so far
}

func newCluster(ctx context.Context) (*cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, fmt.Errorf("KUBECONFIG names no cluster: %w", err)
	}
	config.QPS = -1
	c := &cluster{open: map[net.Conn]bool{}}
	if c.Clientset, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	at, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	c.server = at.Host
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, c.remove())
	}
	if c.relay, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		return nil, errors.Join(err, c.remove())
	}
	go c.serve(ctx)
	if err := c.mount(ctx, config); err != nil {
		c.close()
		return nil, err
	}
	c.agents = &rest.Config{
		Host: "https://" + c.relay.Addr().String(), BearerTokenFile: filepath.Join(c.credentials, "token"),
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(c.credentials, "ca.crt"), ServerName: at.Hostname()},
	}
	return c, nil
}

// prepare makes what the agents read, and lets them.
func (c *cluster) prepare(ctx context.Context) error {
	made, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "wi-load-"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	c.namespace = made.Name
	_, err = c.CoreV1().ConfigMaps("kube-system").Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "cilium-config"}, Data: map[string]string{"enable-bpf-masquerade": "false", "kube-proxy-replacement": "true"},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("use a cluster without Cilium: %w", err)
	}
	c.configured = true
	meta := metav1.ObjectMeta{Name: c.namespace}
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"serviceaccounts", "configmaps", "nodes"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}},
		{APIGroups: []string{"apps"}, Resources: []string{"daemonsets"}, Verbs: []string{"get"}},
		{APIGroups: []string{"cilium.io"}, Resources: []string{"ciliumnodeconfigs"}, Verbs: []string{"list"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
	subject := rbacv1.Subject{Kind: "ServiceAccount", Name: account, Namespace: c.namespace}
	_, errAccount := c.CoreV1().ServiceAccounts(c.namespace).Create(ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: account, Annotations: map[string]string{"iam.gke.io/gcp-service-account": email}},
	}, metav1.CreateOptions{})
	_, errRole := c.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	_, errBinding := c.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: c.namespace}, Subjects: []rbacv1.Subject{subject},
	}, metav1.CreateOptions{})
	return errors.Join(errAccount, errRole, errBinding)
}

// remove takes away what prepare and reject made.
func (c *cluster) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, gone := range []func() error{
		func() error {
			if !c.configured {
				return nil
			}
			return c.CoreV1().ConfigMaps("kube-system").Delete(ctx, "cilium-config", metav1.DeleteOptions{})
		},
		func() error {
			return c.RbacV1().ClusterRoleBindings().Delete(ctx, c.namespace, metav1.DeleteOptions{})
		},
		func() error { return c.RbacV1().ClusterRoles().Delete(ctx, c.namespace, metav1.DeleteOptions{}) },
		func() error {
			return c.FlowcontrolV1().FlowSchemas().Delete(ctx, c.namespace, metav1.DeleteOptions{})
		},
		func() error {
			return c.FlowcontrolV1().PriorityLevelConfigurations().Delete(ctx, c.namespace, metav1.DeleteOptions{})
		},
		func() error { return c.CoreV1().Namespaces().Delete(ctx, c.namespace, metav1.DeleteOptions{}) },
	} {
		if err := ignoreNotFound(gone()); err != nil {
			return err
		}
	}
	return nil
}

// mount writes the files that a Pod of the account finds.
func (c *cluster) mount(ctx context.Context, config *rest.Config) error {
	hours := int64(6 * 60 * 60)
	token, err := c.CoreV1().ServiceAccounts(c.namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := rest.LoadTLSFiles(config); err != nil {
		return err
	}
	if c.credentials, err = os.MkdirTemp("", "apiserver"); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(c.credentials, "token"), []byte(token.Status.Token), 0o600),
		os.WriteFile(filepath.Join(c.credentials, "ca.crt"), config.CAData, 0o600), //nolint:gosec // the folder is ours
	)
}

func (c *cluster) close() {
	if c.relay != nil {
		_ = c.relay.Close()
	}
	_ = os.RemoveAll(c.credentials)
	if err := c.remove(); err != nil {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
	}
}

// serve relays connections until the listener is closed.
func (c *cluster) serve(ctx context.Context) {
	for {
		from, err := c.relay.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many files are open
			fmt.Fprintln(os.Stderr, "apiserver:", err)
			time.Sleep(time.Second)
			continue
		}
		c.mu.Lock()
		c.opened++
		refused := c.isCut
		if !refused {
			c.open[from] = true
		}
		c.mu.Unlock()
		if refused {
			_ = from.Close()
			continue
		}
		go c.join(ctx, from)
	}
}

func (c *cluster) join(ctx context.Context, from net.Conn) {
	defer func() {
		_ = from.Close()
		c.mu.Lock()
		delete(c.open, from)
		c.mu.Unlock()
	}()
	to, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.server)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(to, from)
		_ = to.Close()
	}()
	_, _ = io.Copy(from, to)
}

// cut closes all connections, and accepts none.
func (c *cluster) cut(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = on
	if on {
		for conn := range c.open {
			_ = conn.Close()
		}
	}
}

// connections is how many there were so far.
func (c *cluster) connections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opened
}

// reject makes priority and fairness answer 429 to the agents, by a level that has no
// share of the server and takes none of others'.
func (c *cluster) reject(ctx context.Context, on bool) error {
	if !on {
		return errors.Join(
			c.FlowcontrolV1().FlowSchemas().Delete(ctx, c.namespace, metav1.DeleteOptions{}),
			c.FlowcontrolV1().PriorityLevelConfigurations().Delete(ctx, c.namespace, metav1.DeleteOptions{}),
		)
	}
	none := int32(0)
	_, errLevel := c.FlowcontrolV1().PriorityLevelConfigurations().Create(ctx, &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: c.namespace},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: &none, BorrowingLimitPercent: &none, LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
			},
		},
	}, metav1.CreateOptions{})
	_, errSchema := c.FlowcontrolV1().FlowSchemas().Create(ctx, &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: c.namespace},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: c.namespace}, MatchingPrecedence: 500,
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: c.namespace, Name: account}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, ClusterScope: true, Namespaces: []string{"*"}}},
			}},
		},
	}, metav1.CreateOptions{})
	return errors.Join(errLevel, errSchema)
}

// cpu is how many seconds of a core the API server has used so far.
func (c *cluster) cpu(ctx context.Context) (float64, error) {
	page, err := c.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(page)) {
		if v, ok := strings.CutPrefix(line, "process_cpu_seconds_total "); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, errors.New("the API server has no metric process_cpu_seconds_total")
}
