package cluster

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

// confine puts the requests of a ServiceAccount into a priority level of API
// Priority and Fairness that has no share, none to borrow, and no queue. The API
// server still serves one of its requests at a time (canAccommodateSeatsLocked
// in k8s.io/apiserver's queueset: one that is wider than the limit may run
// alone), and rejects the others.
func (c *namespaced) confine(t *testing.T, account string) *flowcontrolv1.FlowSchema {
	t.Helper()
	none, api, all := int32(0), c.FlowcontrolV1(), []string{"*"}
	level, err := api.PriorityLevelConfigurations().Create(t.Context(), &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: generated(),
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: &none, LendablePercent: &none, BorrowingLimitPercent: &none,
				LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
			},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	cleanup(t, func(ctx context.Context) error {
		return api.PriorityLevelConfigurations().Delete(ctx, level.Name, metav1.DeleteOptions{})
	})
	flow, err := api.FlowSchemas().Create(t.Context(), &flowcontrolv1.FlowSchema{
		ObjectMeta: generated(),
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level.Name},
			MatchingPrecedence:         300, // before the schemas for all service accounts
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects: []flowcontrolv1.Subject{{
					Kind:           flowcontrolv1.SubjectKindServiceAccount,
					ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: c.namespace, Name: account},
				}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: all, APIGroups: all, Resources: all, Namespaces: all, ClusterScope: true}},
			}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	cleanup(t, func(ctx context.Context) error {
		return api.FlowSchemas().Delete(ctx, flow.Name, metav1.DeleteOptions{})
	})
	return flow
}

// occupy makes a request with the token that lasts until the returned function
// is called, for a minute at most: a review of its own rights, which everybody
// may ask for, whose body does not arrive.
func (c *namespaced) occupy(t *testing.T, token string) (leave func()) {
	t.Helper()
	client, err := rest.HTTPClientFor(&rest.Config{
		BearerToken:     token,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.config.CAData, ServerName: c.config.ServerName},
	})
	must(t, err)
	host, port := c.address(t)
	url := "https://" + net.JoinHostPort(host, port) + "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	waiting.Go(func() {
		for {
			body, never := io.Pipe()
			defer never.Close()
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
			if err != nil {
				t.Error(err)
				return
			}
			request.Header.Set("Content-Type", "application/json")
			answer, err := client.Do(request)
			if err != nil {
				return // left
			}
			_ = answer.Body.Close()
			// A read that is not quite finished had the one place.
			if answer.StatusCode != http.StatusTooManyRequests {
				t.Errorf("the request that should last was answered: %s", answer.Status)
				return
			}
		}
	})
	leave = sync.OnceFunc(func() {
		cancel()
		waiting.Wait()
	})
	t.Cleanup(leave)
	return leave
}

// A Retry-After is an order to client-go, which would obey it up to ten times.
func TestAThrottledReadIsNotRepeated(t *testing.T) {
	c := newNamespace(t)
	p := c.readablePod(t, bound(app))
	flow := c.confine(t, "app")
	p.eventually(t, "confined", func(r result) bool { return r.request.flow == string(flow.UID) })
	leave := c.occupy(t, c.token(t, "app", nil))
	p.eventually(t, "throttled", func(r result) bool { return r.reason == kube.Throttled })

	rejected := func() float64 {
		return c.counted(t, "apiserver_flowcontrol_rejected_requests_total", `flow_schema="`+flow.Name+`"`)
	}
	before := rejected()
	r := p.read(t)
	r.fails(t, kube.Throttled, c.namespace+"/app", "too many requests")
	if r.request.retryAfter == "" {
		t.Error("the API server sent no Retry-After, so this proves nothing")
	}
	if n := rejected() - before; n != 1 {
		t.Errorf("the API server rejected %v requests of one read, want 1", n)
	}
	t.Logf("throttled after %s, Retry-After: %s: %v", r.took.Round(time.Millisecond), r.request.retryAfter, r.err)
	p.link.becomesQuiet(t, patience)

	leave()
	p.eventually(t, "served again", func(r result) bool { return r.err == nil }).reads(t, app)
}
