package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Resource is a kind of object that is read.
type Resource string

// ServiceAccounts are the core/v1 ServiceAccounts.
const ServiceAccounts Resource = "serviceaccounts"

// Resources lists all resources.
func Resources() []Resource { return []Resource{ServiceAccounts} }

// Reason is why a request to the API server failed.
type Reason string

// The reasons, a closed set.
const (
	// Forbidden: RBAC does not allow it, or the token is not accepted.
	Forbidden Reason = "forbidden"
	// NotFound: there is no such object.
	NotFound Reason = "not_found"
	// Timeout: no answer by the deadline.
	Timeout Reason = "timeout"
	// Unavailable: everything else, such as an API server that is not reached.
	Unavailable Reason = "unavailable"
)

// Reasons lists all reasons.
func Reasons() []Reason { return []Reason{Forbidden, NotFound, Timeout, Unavailable} }

// Reader reads single objects. Each read is a request on a connection that is
// closed afterwards, because reads are minutes apart: an idle connection of
// each node would cost the API server more than a handshake now and then.
type Reader struct {
	client    metadata.Interface
	transport http.RoundTripper
	// observe is told of each request; the reason is empty if it succeeded.
	observe func(Resource, Reason)
}

// NewReader returns a reader that tells observe of each request.
func NewReader(c *rest.Config, userAgent string, observe func(Resource, Reason)) (*Reader, error) {
	c = rest.CopyConfig(c)
	c.UserAgent = userAgent
	c.WarningHandler = rest.NoWarnings{} // they would go to standard error, past the log
	h, err := rest.HTTPClientFor(metadata.ConfigFor(c))
	if err != nil {
		return nil, fmt.Errorf("set up the client of the API server: %w", err)
	}
	client, err := metadata.NewForConfigAndClient(c, h)
	if err != nil {
		return nil, fmt.Errorf("set up the client of the API server: %w", err)
	}
	return &Reader{client: client, transport: h.Transport, observe: observe}, nil
}

// Expectation reads the ServiceAccount and returns the identity that GKE should
// give to its Pods.
func (r *Reader) Expectation(ctx context.Context, self Self) (identity.Expectation, error) {
	annotations, err := r.annotations(ctx, self.Namespace, self.ServiceAccount)
	if err != nil {
		return identity.Expectation{}, err
	}
	return identity.FromAnnotations(annotations, self.Namespace, self.ServiceAccount, self.Project)
}

// annotations reads the metadata of one ServiceAccount from the API server's
// watch cache (resourceVersion=0), which costs etcd nothing.
func (r *Reader) annotations(ctx context.Context, namespace, name string) (map[string]string, error) {
	// http.Client.CloseIdleConnections does not reach through client-go's wrappers.
	defer utilnet.CloseIdleConnectionsFor(r.transport)
	accounts := schema.GroupVersionResource{Version: "v1", Resource: string(ServiceAccounts)}
	o, err := r.client.Resource(accounts).Namespace(namespace).Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	reason := reasonOf(err)
	r.observe(ServiceAccounts, reason)
	if err != nil {
		return nil, fmt.Errorf("read ServiceAccount %s/%s: %s%w", namespace, name, hint(reason, namespace, name), err)
	}
	return o.Annotations, nil
}

func reasonOf(err error) Reason {
	var timeout net.Error
	switch {
	case err == nil:
		return ""
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return Forbidden
	case apierrors.IsNotFound(err):
		return NotFound
	case errors.Is(err, context.DeadlineExceeded), apierrors.IsTimeout(err), errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	}
	return Unavailable
}

// hint is what to do about a failure that does not pass by itself.
func hint(r Reason, namespace, name string) string {
	switch r {
	case Forbidden:
		return fmt.Sprintf("allow the verb get on the ServiceAccount %s by a Role in the namespace %s, or set WI_EXPECTED_EMAILS: ", name, namespace)
	case NotFound:
		return "set WI_POD_NAMESPACE and WI_SERVICE_ACCOUNT to those of this Pod: "
	case Timeout, Unavailable:
	}
	return ""
}
