package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Expectation reads the ServiceAccount and returns the identity that GKE should
// give to its Pods.
func (c *Client) Expectation(ctx context.Context, self Self) (identity.Expectation, error) {
	annotations, err := c.annotations(ctx, self.Namespace, self.ServiceAccount)
	if err != nil {
		return identity.Expectation{}, err
	}
	return identity.FromAnnotations(annotations, self.Namespace, self.ServiceAccount, self.Project)
}

// annotations reads those of one ServiceAccount.
func (c *Client) annotations(ctx context.Context, namespace, name string) (map[string]string, error) {
	o, err := c.metadata(ctx, ServiceAccounts, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name)
	if err != nil {
		return nil, fmt.Errorf("read ServiceAccount %s/%s: %s%w", namespace, name, hint(err, namespace, name), err)
	}
	return o.Annotations, nil
}

// hint is what to do about a failure that does not pass by itself.
func hint(err error, namespace, name string) string {
	switch {
	case apierrors.IsUnauthorized(err):
		return "the API server refuses the token of this Pod, start the Pod again if its ServiceAccount was deleted meanwhile: "
	case apierrors.IsForbidden(err):
		return fmt.Sprintf("allow the verb get on the ServiceAccount %s by a Role in the namespace %s, or set WI_EXPECTED_EMAILS: ", name, namespace)
	case apierrors.IsNotFound(err):
		return "set WI_POD_NAMESPACE and WI_SERVICE_ACCOUNT to those of this Pod: "
	}
	return ""
}
