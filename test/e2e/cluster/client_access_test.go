package cluster

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

func TestARoleForOneServiceAccountIsEnough(t *testing.T) {
	c := newNamespace(t)
	p := c.readablePod(t, bound(app))
	c.makeAccount(t, "other", bound(other))
	elsewhere := p.self
	elsewhere.ServiceAccount = "other"
	p.readOf(t, elsewhere, patience).fails(t, kube.Forbidden, c.namespace+"/other", "verb get")

	c.unbindRole(t)
	r := p.eventually(t, "forbidden", func(r result) bool { return r.err != nil })
	r.fails(t, kube.Forbidden, c.namespace+"/app", "allow the verb get on the ServiceAccount app by a Role in the namespace "+c.namespace, "WI_EXPECTED_EMAILS")
	c.bindRole(t, "app")
	p.eventually(t, "allowed again", func(r result) bool { return r.err == nil }).reads(t, app)
}

// toThePresent sleeps until now. The clock of a bubble starts in the year 2000,
// when no certificate was valid yet. It stands still while a request is on its
// way, because that waits for something outside of the bubble.
func toThePresent(now time.Time) { time.Sleep(time.Until(now.Round(0))) }

// tokenAge is the greatest age of client-go's copy of the token: it reads the
// file again when a request is made after that, and not when one was refused.
const tokenAge = time.Minute

func TestARefusedTokenIsReplacedByTheNextOneInTheFile(t *testing.T) {
	for _, tt := range []struct {
		name    string
		refused func(*testing.T, *namespaced) string
	}{
		{"its signature is wrong", func(t *testing.T, c *namespaced) string {
			t.Helper()
			parts := strings.Split(c.token(t, "app", nil), ".")
			parts[2] = strings.Split(c.token(t, "app", nil), ".")[2] // of another token
			return strings.Join(parts, ".")
		}},
		{"the object it was bound to is gone", func(t *testing.T, c *namespaced) string {
			t.Helper()
			secrets := c.CoreV1().Secrets(c.namespace)
			_, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bound"}}, metav1.CreateOptions{})
			must(t, err)
			token := c.token(t, "app", &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: "bound"})
			must(t, secrets.Delete(t.Context(), "bound", metav1.DeleteOptions{}))
			return token
		}},
		{"its ServiceAccount was deleted and made again", func(t *testing.T, c *namespaced) string {
			t.Helper()
			token := c.token(t, "app", nil)
			c.deleteAccount(t, "app")
			c.makeAccount(t, "app", bound(app))
			return token
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newNamespace(t)
			c.readablePod(t, bound(app))
			p := c.podWith(t, tt.refused(t, c))
			r := p.eventually(t, "refused", func(r result) bool { return r.err != nil })
			r.fails(t, kube.Forbidden, c.namespace+"/app", "refuses the token of this Pod")

			good, now := c.token(t, "app", nil), time.Now()
			synctest.Test(t, func(t *testing.T) {
				toThePresent(now)
				p.renew(t, good)
				p.usesWithin(t, good, tokenAge).reads(t, app)
			})
		})
	}
}

// The kubelet writes a new token while the old one is good for some time.
func TestARenewedTokenIsUsedInTime(t *testing.T) {
	c := newNamespace(t)
	p := c.readablePod(t, bound(app))
	next, now := c.token(t, "app", nil), time.Now()
	synctest.Test(t, func(t *testing.T) {
		toThePresent(now)
		p.read(t).reads(t, app)
		p.renew(t, next)
		p.usesWithin(t, next, tokenAge).reads(t, app)
	})
}

// usesWithin reads until the token is sent, in the time of a bubble.
func (p *pod) usesWithin(t *testing.T, token string, limit time.Duration) result {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Second) {
		r := p.read(t)
		switch {
		case r.request.token == token:
			t.Logf("the new token is used after %s", time.Since(begin))
			return r
		case time.Since(begin) >= limit:
			t.Fatalf("the old token is still used after %s", limit)
		}
	}
}
