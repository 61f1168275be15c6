package cluster

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// agent is a client with a token of the exporter's ServiceAccount, bound to the
// Pod if there is one.
func (c *cluster) agent(t *testing.T, pod *corev1.Pod) *kubernetes.Clientset {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	token, err := c.CoreV1().ServiceAccounts(exporter).CreateToken(t.Context(), exporter, request, metav1.CreateOptions{})
	must(t, err)
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken = token.Status.Token
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	return client
}

// mayDo is what a client may do in some namespaces, as lines, but for what every
// ServiceAccount may.
func mayDo(t *testing.T, client *kubernetes.Clientset) []string {
	t.Helper()
	var lines []string
	for _, namespace := range []string{exporter, "kube-system", "default", "kube-public"} {
		review, err := client.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
			&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, metav1.CreateOptions{})
		must(t, err)
		for _, r := range review.Status.ResourceRules {
			if slices.Equal(r.APIGroups, []string{"authorization.k8s.io"}) || slices.Equal(r.APIGroups, []string{"authentication.k8s.io"}) {
				continue
			}
			line := fmt.Sprintf("%s %s", strings.Join(r.Verbs, ","), strings.Join(r.Resources, ","))
			if len(r.ResourceNames) > 0 {
				line += " " + strings.Join(r.ResourceNames, ",")
			}
			lines = append(lines, line+" in "+namespace)
		}
	}
	slices.Sort(lines)
	return lines
}

func everywhere(rule string) []string {
	return []string{rule + " in default", rule + " in kube-public", rule + " in kube-system", rule + " in " + exporter}
}

const (
	ownAccount  = "get serviceaccounts " + exporter + " in " + exporter
	masquerade  = "get configmaps cilium-config,ip-masq-agent in kube-system"
	dataplane   = "get daemonsets anetd in kube-system"
	version     = "get daemonsets cilium in kube-system"
	podEvents   = "create,patch events in " + exporter
	nodeEvents  = "create,patch events in default"
	nodeConfigs = "list ciliumnodeconfigs in kube-system"
	ciliumPods  = "list pods in kube-system"
)

// Asked of the API server itself, with a token of the agent.
func TestAnAgentMayDoThisAndNothingElse(t *testing.T) {
	for _, tt := range []struct {
		file string
		want []string
	}{
		{"kustomize-base", []string{ownAccount}},
		{"kustomize-default", []string{nodeEvents, podEvents, masquerade, dataplane, version, ownAccount}},
		{"kustomize-cilium", []string{nodeEvents, podEvents, masquerade, dataplane, version, ownAccount}},
		{"kustomize-expected-emails", nil},
		{"helm-cilium-without-api", nil},
		{"kustomize-everything", slices.Concat([]string{nodeEvents, podEvents, masquerade, dataplane, version, nodeConfigs, ciliumPods, ownAccount}, everywhere("get nodes"), everywhere("patch nodes/status"))},
	} {
		t.Run(tt.file, func(t *testing.T) {
			shared.with(t, rendered(t, tt.file))
			client := shared.agent(t, nil)
			slices.Sort(tt.want)
			err := eventually(t.Context(), func(context.Context) error {
				if got := mayDo(t, client); !slices.Equal(got, tt.want) {
					return fmt.Errorf("it may\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// The table in docs/security.md has a row for each, and none for more.
func TestTheDocumentationListsEveryPermission(t *testing.T) {
	text, err := os.ReadFile("../../../docs/security.md")
	must(t, err)
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(get|list|create,patch|patch) ([^`]+)`").FindAllStringSubmatch(string(text), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	slices.Sort(got)
	want := []string{ownAccount, masquerade, dataplane, version, nodeConfigs, ciliumPods, podEvents, nodeEvents, "get nodes", "patch nodes/status"}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("docs/security.md lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
