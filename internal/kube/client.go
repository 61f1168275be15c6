package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// Resource is a kind of object that is read.
type Resource string

// The resources, a closed set.
const (
	// ServiceAccounts are the core/v1 ServiceAccounts.
	ServiceAccounts Resource = "serviceaccounts"
	// ConfigMaps are the core/v1 ConfigMaps.
	ConfigMaps Resource = "configmaps"
	// Nodes are the core/v1 Nodes.
	Nodes Resource = "nodes"
	// DaemonSets are the apps/v1 DaemonSets.
	DaemonSets Resource = "daemonsets"
	// Events are the core/v1 Events.
	Events Resource = "events"
)

// Resources lists all resources.
func Resources() []Resource {
	return []Resource{ServiceAccounts, ConfigMaps, Nodes, DaemonSets, Events}
}

// Reason is why a request to the API server failed.
type Reason string

// The reasons, a closed set.
const (
	// Forbidden: RBAC does not allow it, or the token is not accepted.
	Forbidden Reason = "forbidden"
	// NotFound: there is no such object.
	NotFound Reason = "not_found"
	// Throttled: the API server has too much to do (429).
	Throttled Reason = "throttled"
	// Timeout: no answer by the deadline.
	Timeout Reason = "timeout"
	// Unavailable: everything else, such as an API server that is not reached.
	Unavailable Reason = "unavailable"
)

// Reasons lists all reasons.
func Reasons() []Reason { return []Reason{Forbidden, NotFound, Throttled, Timeout, Unavailable} }

// Client reads and writes single objects. Each request has a connection of its own,
// which is closed afterwards, because requests are minutes apart: an idle connection
// of each node would cost the API server more than a handshake now and then.
type Client struct {
	rest *rest.RESTClient
	// observe is called with each request; the reason is empty if it succeeded.
	observe func(Resource, Reason)
}

// NewClient returns a client that calls observe with each request.
func NewClient(c *rest.Config, userAgent string, observe func(Resource, Reason)) (*Client, error) {
	c = metadata.ConfigFor(c) // a copy
	c.APIPath = "/api"
	c.GroupVersion = &schema.GroupVersion{Version: "v1"}
	c.UserAgent = userAgent
	c.WarningHandler = rest.NoWarnings{} // they would go to standard error, past the log
	// A connection of HTTP/2 outlives a request that gets no answer, and the next
	// read would hang on it as well.
	c.NextProtos = []string{"http/1.1"}
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("set up the client of the API server: %w", err)
	}
	return &Client{rest: client, observe: observe}, nil
}

// object is what is read of an object.
type object struct {
	Annotations map[string]string `json:"annotations"`
	Labels      map[string]string `json:"labels"`
}

// metadata reads what every object has, without the rest of it.
func (c *Client) metadata(ctx context.Context, of Resource, path string) (object, error) {
	var o struct {
		Metadata *object `json:"metadata"`
	}
	err := c.get(ctx, of, path, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", &o)
	if err == nil && o.Metadata == nil {
		err = errors.New("the answer has no metadata")
	}
	if err != nil {
		return object{}, err
	}
	for _, m := range []*map[string]string{&o.Metadata.Annotations, &o.Metadata.Labels} {
		if *m == nil {
			*m = map[string]string{} // known to have none
		}
	}
	return *o.Metadata, nil
}

// get reads one object from the API server's watch cache (resourceVersion=0),
// which costs etcd nothing.
func (c *Client) get(ctx context.Context, of Resource, path, accept string, into any) error {
	// http.Client.CloseIdleConnections does not reach through client-go's wrappers.
	defer utilnet.CloseIdleConnectionsFor(c.rest.Client.Transport)
	ctx = klog.NewContext(ctx, klog.Logger{}) // client-go would also log errors, past the log
	body, err := c.rest.Get().AbsPath(path).
		Param("resourceVersion", "0").
		SetHeader("Accept", accept).
		// By default client-go sends a GET up to ten more times, a second apart, when
		// the answer has a Retry-After, as that of an API server which rejects
		// requests because it is overloaded, or when the connection breaks.
		// 15,000 agents must not do that; each tries again later by itself.
		MaxRetries(0).
		Do(ctx).Raw()
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	c.observe(of, reasonOf(err))
	return err
}

// send writes one object, and returns no answer.
func (c *Client) send(ctx context.Context, method string, of Resource, path, contentType string, body []byte) error {
	defer utilnet.CloseIdleConnectionsFor(c.rest.Client.Transport)
	ctx, cancel := context.WithTimeout(klog.NewContext(ctx, klog.Logger{}), writeTimeout)
	defer cancel()
	// Not by Post and Patch, of which the latter wants client-go's types of patches.
	request := rest.NewRequest(c.rest).Verb(method)
	err := request.AbsPath(path).SetHeader("Content-Type", contentType).Body(body).MaxRetries(0).Do(ctx).Error()
	c.observe(of, reasonOf(err))
	return err
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
	case apierrors.IsTooManyRequests(err):
		return Throttled
	case errors.Is(err, context.DeadlineExceeded), apierrors.IsTimeout(err), errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	}
	return Unavailable
}
