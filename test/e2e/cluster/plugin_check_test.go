package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	image = "workload-identity-exporter.local/exporter:test"
	// checked is a namespace that enforces Pod Security "restricted".
	checked, appEmail = "wi-e2e-check", "app@demo-project.iam.gserviceaccount.com"
)

// A Pod is asked in its own network: of three on one node, whose agent says match, one is
// bypassed and what another asks is dropped. Nothing in them is restarted.
func TestAPodIsCheckedInItsOwnNetwork(t *testing.T) {
	c := shared
	c.healthy(t)
	pods := c.threePods(t)
	right, wrong, cut := pods[0], pods[1], pods[2]
	const lasts = 90 * time.Second
	over := time.Now().Add(lasts + time.Second)
	c.plan(t, c.nodes[0], "bypass", 0, lasts, url.Values{"source": {wrong.Status.PodIP}})
	c.plan(t, c.nodes[0], "drop", 0, lasts, url.Values{"source": {cut.Status.PodIP}})
	t.Cleanup(func() { time.Sleep(time.Until(over)) }) // the next test finds the node as it was
	time.Sleep(time.Second)                            // for the switches

	for _, tt := range []struct {
		pod      corev1.Pod
		exitCode int
		state    string
		observed string
	}{
		{right, 0, "match", appEmail},
		{wrong, 1, "node_fallback", nodeEmail},
		{cut, 3, "unavailable", ""},
	} {
		t.Run(tt.state, func(t *testing.T) {
			began := time.Now()
			out, code := plugin(t, os.Getenv("KUBECONFIG"), "check", "-n", checked, tt.pod.Name, "--image", image, "-o", "json")
			took := time.Since(began)
			var said struct {
				Checks []struct {
					Container string
					Node      string
					Problem   string
					Report    struct {
						State, Observed, Expected string
						About                     struct{ Pod, Node string }
					}
				}
			}
			if err := json.Unmarshal([]byte(out), &said); err != nil || len(said.Checks) != 1 {
				t.Fatalf("%v: %s", err, out)
			}
			got := said.Checks[0]
			if r := got.Report; code != tt.exitCode || r.State != tt.state || r.Observed != tt.observed || r.Expected != appEmail || r.About.Pod != tt.pod.Name || got.Node != c.nodes[0] {
				t.Errorf("exit code %d, want %d: %+v, want %s and %q", code, tt.exitCode, got, tt.state, tt.observed)
			}
			p, err := c.CoreV1().Pods(checked).Get(t.Context(), tt.pod.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if before, now := tt.pod.Status.ContainerStatuses[0], p.Status.ContainerStatuses[0]; now.ContainerID != before.ContainerID || now.RestartCount != 0 || len(p.Spec.EphemeralContainers) != 1 || p.Spec.EphemeralContainers[0].Name != got.Container {
				t.Errorf("the Pod has now %+v and the ephemeral containers %+v", now, p.Spec.EphemeralContainers)
			}
			t.Logf("%s after %s", tt.state, took.Round(10*time.Millisecond))
		})
	}
	if s := c.status(t, c.nodes[0]); s.State != "match" {
		t.Errorf("the agent of the node says %s, and is not affected", s.State)
	}

	t.Run("a workload", func(t *testing.T) {
		began := time.Now()
		out, code := plugin(t, os.Getenv("KUBECONFIG"), "check", "deploy/app", "-n", checked, "--image", image, "--pods", "3")
		for _, want := range []string{right.Name + " on " + c.nodes[0], "verdict   match: ", "verdict   node_fallback: ", "observed  " + nodeEmail, "verdict   unavailable: ", "stays listed in the Pod"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in\n%s", want, out)
			}
		}
		if code != 1 || strings.Contains(out, "(host_network)") {
			t.Errorf("exit code %d, want that of the wrong one, and no hostNetwork:\n%s", code, out)
		}
		t.Logf("three Pods after %s:\n%s", time.Since(began).Round(10*time.Millisecond), out)
	})
	t.Run("an image that cannot be pulled", func(t *testing.T) {
		began := time.Now()
		out, code := plugin(t, os.Getenv("KUBECONFIG"), "check", "-n", checked, "pod/"+right.Name, "--image", "workload-identity-exporter.local/none:test")
		if code != 3 || !strings.Contains(out, "no verdict: the container does not start: ErrImagePull ") {
			t.Errorf("exit code %d: %s", code, out)
		}
		t.Logf("after %s: %s", time.Since(began).Round(10*time.Millisecond), out)
	})
	t.Run("without the right", func(t *testing.T) {
		began := time.Now()
		out, code := plugin(t, c.kubeconfigOf(t, "reader"), "check", "-n", checked, right.Name, "--image", image)
		lines := regexp.MustCompile(`(?m)^  kubectl (.+)$`).FindAllStringSubmatch(out, -1)
		if code != 2 || len(lines) != 2 || !strings.Contains(out, `cannot patch resource "pods/ephemeralcontainers"`) {
			t.Fatalf("exit code %d: %s", code, out)
		}
		t.Logf("after %s: %s", time.Since(began).Round(10*time.Millisecond), out)
		kubectl, err := exec.LookPath("kubectl")
		if err != nil {
			t.Log("no kubectl is in PATH, so its line is not tried")
			return
		}
		run := func(ctx context.Context, line string) (string, error) {
			said, err := exec.CommandContext(ctx, kubectl, strings.Fields(line)...).CombinedOutput()
			return string(said), err
		}
		if said, err := run(t.Context(), lines[0][1]); err != nil {
			t.Fatalf("kubectl %s: %v\n%s", lines[0][1], err, said)
		}
		err = eventually(t.Context(), func(ctx context.Context) error {
			said, err := run(ctx, lines[1][1])
			if err != nil || !strings.Contains(said, "verdict   match: ") {
				return fmt.Errorf("kubectl %s: %w\n%s", lines[1][1], err, said)
			}
			return nil
		})
		must(t, err)
	})
}

// plugin runs it, and returns what it says and its exit code.
func plugin(t *testing.T, kubeconfig string, args ...string) (string, int) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "../../../bin/kubectl-workload_identity", args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	var problems strings.Builder
	command.Stderr = &problems
	out, err := command.Output()
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if code == 2 {
		return string(out) + problems.String(), code
	}
	t.Log(problems.String())
	return string(out), code
}

// threePods are those of the Deployment app, on the first node.
func (c *cluster) threePods(t *testing.T) []corev1.Pod {
	t.Helper()
	err := eventually(t.Context(), func(ctx context.Context) error { // that of a test before may be on its way out
		_, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: checked, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
		}}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.CoreV1().Namespaces().Delete(context.Background(), checked, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	_, err = c.CoreV1().ServiceAccounts(checked).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Name: "app", Annotations: map[string]string{"iam.gke.io/gcp-service-account": appEmail},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	yes, no, labels, three := true, false, map[string]string{nameLabel: "app"}, int32(3)
	_, err = c.AppsV1().Deployments(checked).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "app"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				ServiceAccountName: "app", NodeName: c.nodes[0], AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: new(int64),
				Containers: []corev1.Container{{
					Name: "app", Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
					Env: []corev1.EnvVar{{Name: "WI_EXPECTED_EMAILS", Value: appEmail}, {Name: "WI_EVENTS", Value: "false"}},
					SecurityContext: &corev1.SecurityContext{
						RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
						SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
					},
				}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var pods []corev1.Pod
	err = eventually(t.Context(), func(ctx context.Context) error {
		list, err := c.CoreV1().Pods(checked).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		pods = nil
		for _, p := range list.Items {
			if p.Status.Phase == corev1.PodRunning && p.Status.PodIP != "" && p.Status.ContainerStatuses[0].Ready {
				pods = append(pods, p)
			}
		}
		if len(pods) != 3 {
			return fmt.Errorf("%d of 3 Pods are ready; %s", len(pods), c.trouble(ctx, checked))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

// kubeconfigOf is for a user who may read Pods and ServiceAccounts of the namespace.
func (c *cluster) kubeconfigOf(t *testing.T, name string) string {
	t.Helper()
	rbac := c.RbacV1()
	_, err := c.CoreV1().ServiceAccounts(checked).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err == nil {
		_, err = rbac.Roles(checked).Create(t.Context(), &rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods", "serviceaccounts"}, Verbs: []string{"get"}}},
		}, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = rbac.RoleBindings(checked).Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: checked}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.CoreV1().ServiceAccounts(checked).CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	config.AuthInfos = map[string]*clientcmdapi.AuthInfo{name: {Token: token.Status.Token}}
	config.Contexts[config.CurrentContext].AuthInfo = name
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}
