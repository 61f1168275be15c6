package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Expectation reads the ServiceAccount and returns the identity that GKE should
// give to its Pods, and since when.
func (c *Client) Expectation(ctx context.Context, self Self) (identity.Reading, error) {
	o, err := c.serviceAccount(ctx, self.Namespace, self.ServiceAccount)
	if err != nil {
		return identity.Reading{}, err
	}
	e, err := identity.FromAnnotations(o.Annotations, self.Namespace, self.ServiceAccount, self.Project)
	if err != nil {
		return identity.Reading{}, err
	}
	r := identity.Reading{Expectation: e}
	if changed := o.changed(); !changed.IsZero() && !o.readAt.IsZero() {
		// Replicas of the API server need not agree about the time.
		r.Changed, r.Age = changed, max(0, o.readAt.Sub(changed))
	}
	return r, nil
}

// serviceAccount reads the metadata of one ServiceAccount.
func (c *Client) serviceAccount(ctx context.Context, namespace, name string) (object, error) {
	o, err := c.metadata(ctx, ServiceAccounts, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name)
	if err != nil {
		return object{}, fmt.Errorf("read ServiceAccount %s/%s: %s%w", namespace, name, hint(err, namespace, name), err)
	}
	return o, nil
}

// changed is when the annotations that decide were changed last, by the clock of the
// API server; zero if the object does not tell. Whoever changes a field of an object
// owns it, and the object knows when he did (Kubernetes documentation, "Field
// Management"). An annotation that was removed has no owner, and leaves no time.
func (o object) changed() time.Time {
	var newest time.Time
	if o.Annotations[identity.AnnotationServiceAccount] == "" {
		return newest
	}
	for _, m := range o.ManagedFields {
		var fields struct {
			Metadata struct {
				Annotations map[string]json.RawMessage `json:"f:annotations"`
			} `json:"f:metadata"`
		}
		_ = json.Unmarshal(m.Fields, &fields) // fields of a form that is not known are nobody's
		for _, key := range []string{identity.AnnotationServiceAccount, identity.AnnotationReturnPrincipal} {
			if _, ok := fields.Metadata.Annotations["f:"+key]; ok && m.Time.After(newest) {
				newest = m.Time
			}
		}
	}
	return newest
}

// hint is what to do about a failure that does not pass by itself.
func hint(err error, namespace, name string) string {
	switch {
	case errors.Is(err, ErrNotInCluster):
		return "mount the token of the ServiceAccount, or set WI_EXPECTED_EMAILS: "
	case apierrors.IsUnauthorized(err):
		return "the API server refuses the token of this Pod, start the Pod again if its ServiceAccount was deleted meanwhile: "
	case apierrors.IsForbidden(err):
		return fmt.Sprintf("allow the verb get on the ServiceAccount %s by a Role in the namespace %s, or set WI_EXPECTED_EMAILS: ", name, namespace)
	case apierrors.IsNotFound(err):
		return "set WI_POD_NAMESPACE and WI_SERVICE_ACCOUNT to those of this Pod: "
	}
	return ""
}
