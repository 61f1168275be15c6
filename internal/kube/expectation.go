package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Expectation reads the ServiceAccount and returns the identity that GKE should
// give to its Pods, and since when. An annotation that is no email is returned as what
// is Invalid, beside the error.
func (c *Client) Expectation(ctx context.Context, self Self) (identity.Reading, error) {
	o, err := c.serviceAccount(ctx, self.Namespace, self.ServiceAccount)
	if err != nil {
		return identity.Reading{}, err
	}
	e, err := identity.FromAnnotations(o.Annotations, self.Namespace, self.ServiceAccount, self.Project)
	r := identity.Reading{Expectation: e}
	if changed := o.changed(); !changed.IsZero() {
		at := o.readAt
		if at.IsZero() {
			at = time.Now() // better than nothing: nodes keep their clocks
		}
		// Replicas of the API server need not agree about the time.
		r.Changed, r.Age = changed, max(0, at.Sub(changed))
	}
	return r, err
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
// API server; zero if the object does not tell. An annotation that was removed has no
// owner, and leaves no time.
func (o object) changed() time.Time {
	if o.Annotations[identity.AnnotationServiceAccount] == "" {
		return time.Time{}
	}
	return o.newest(func(fields json.RawMessage) bool {
		var f struct {
			Metadata struct {
				Annotations map[string]json.RawMessage `json:"f:annotations"`
			} `json:"f:metadata"`
		}
		// Fields of a form that is not known are nobody's.
		if json.Unmarshal(fields, &f) != nil {
			return false
		}
		annotations := f.Metadata.Annotations
		return annotations["f:"+identity.AnnotationServiceAccount] != nil || annotations["f:"+identity.AnnotationReturnPrincipal] != nil
	})
}

// maxManagers is many times the number of those who change one object.
const maxManagers = 100

// newest is when somebody who owns such fields changed the object last. Whoever changes
// a field of an object owns it, and the object knows when he did (Kubernetes
// documentation, "Field Management").
func (o object) newest(owns func(fields json.RawMessage) bool) time.Time {
	var newest time.Time
	list := json.NewDecoder(bytes.NewReader(o.ManagedFields))
	_, _ = list.Token() // the bracket; what is no list has no element that can be decoded
	for range maxManagers {
		var m struct {
			Time   string          `json:"time"`
			Fields json.RawMessage `json:"fieldsV1"`
		}
		if err := list.Decode(&m); err != nil && !errors.As(err, new(*json.UnmarshalTypeError)) {
			break
		}
		at, err := time.Parse(time.RFC3339, m.Time)
		if err == nil && at.After(newest) && owns(m.Fields) {
			newest = at
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
