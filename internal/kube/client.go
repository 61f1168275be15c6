package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
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
	// CiliumNodeConfigs are those of cilium.io, v2 or v2alpha1.
	CiliumNodeConfigs Resource = "ciliumnodeconfigs"
	// Pods are the core/v1 Pods.
	Pods Resource = "pods"
	// Events are the core/v1 Events.
	Events Resource = "events"
)

// Resources lists all resources.
func Resources() []Resource {
	return []Resource{ServiceAccounts, ConfigMaps, Nodes, DaemonSets, CiliumNodeConfigs, Pods, Events}
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
// of each node would cost the API server more than a handshake now and then. Requests
// that follow one another have one in common, see session.
type Client struct {
	target  *rest.Config
	shared  http.RoundTripper // of a session; nil outside of one
	base    *url.URL
	content rest.ClientContentConfig
	// observe is called with each request; the reason is empty if it succeeded.
	observe func(Resource, Reason)
}

// NewClient returns a client that calls observe with each request.
func NewClient(config *rest.Config, userAgent string, observe func(Resource, Reason)) (*Client, error) {
	config = metadata.ConfigFor(config) // a copy
	config.UserAgent = userAgent
	// A connection of HTTP/2 would outlive a request that gets no answer.
	config.NextProtos = []string{"http/1.1"}
	base, err := url.Parse(config.Host)
	if err != nil {
		return nil, fmt.Errorf("the address of the API server is wrong: %w", err)
	}
	v1 := schema.GroupVersion{Version: "v1"}
	content := rest.ClientContentConfig{ContentType: "application/json", GroupVersion: v1, Negotiator: runtime.NewClientNegotiator(config.NegotiatedSerializer, v1)}
	return &Client{target: config, base: base, content: content, observe: observe}, nil
}

// session returns a client whose requests have one connection in common, with the
// credentials that were in the files at the beginning. The connection ends with the
// context, or with the function that is returned: a handshake costs the API server more
// than a read.
func (c *Client) session(ctx context.Context) (*Client, func()) {
	ctx, end := context.WithCancel(ctx)
	shared, err := transport(ctx, c.target, true)
	if err != nil {
		return c, end // each request says what is wrong
	}
	of := *c
	of.shared = shared
	return &of, end
}

// object is what is read of an object.
type object struct {
	Name        string            `json:"name"`
	Annotations map[string]string `json:"annotations"`
	Labels      map[string]string `json:"labels"`
	// ManagedFields tell who changed what, and when. They are decoded one by one: a
	// hostile list of many would take fifty times its size.
	ManagedFields json.RawMessage `json:"managedFields"`

	// readAt is when it was read, by the clock of the API server; zero if not known.
	readAt time.Time
}

// metadata reads what every object has, without the rest of it.
func (c *Client) metadata(ctx context.Context, of Resource, path string) (object, error) {
	var o struct {
		Metadata *object `json:"metadata"`
	}
	at, err := c.do(ctx, of, http.MethodGet, path, func(r *rest.Request) {
		r.Param("resourceVersion", "0").SetHeader("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	}, &o)
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
	o.Metadata.readAt = at
	return *o.Metadata, nil
}

// get reads from the API server's watch cache (resourceVersion=0), which costs etcd
// nothing. It returns when the server answered, by its own clock.
func (c *Client) get(ctx context.Context, of Resource, path string, query url.Values, into any) (time.Time, error) {
	return c.do(ctx, of, http.MethodGet, path, func(r *rest.Request) {
		r.Param("resourceVersion", "0").SetHeader("Accept", "application/json")
		for name := range query {
			r.Param(name, query.Get(name))
		}
	}, into)
}

// send writes one object, and returns no answer.
func (c *Client) send(ctx context.Context, of Resource, method, path, contentType string, body []byte) error {
	_, err := c.do(ctx, of, method, path, func(r *rest.Request) { r.SetHeader("Content-Type", contentType).Body(body) }, nil)
	return err
}

// do makes one request, and decodes the answer unless into is nil.
func (c *Client) do(ctx context.Context, of Resource, method, path string, prepare func(*rest.Request), into any) (time.Time, error) {
	ctx, cancel := context.WithTimeout(klog.NewContext(ctx, klog.Logger{}), maxRequest) // client-go would also log errors, past the log
	defer cancel()
	x := &exchange{target: c.target, shared: c.shared}
	client := &http.Client{
		Transport: x,
		// The token is for one server. A redirect is an answer that is no object.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	// Not by Get, Post and Patch, of which the last wants client-go's types of patches.
	request := rest.NewRequestWithClient(c.base, "", c.content, client).Verb(method).AbsPath(path).
		SetHeader("User-Agent", c.target.UserAgent).
		WarningHandler(rest.NoWarnings{}). // they would go to standard error, past the log
		// By default client-go sends a GET up to ten more times, a second apart, when
		// the answer has a Retry-After, as that of an API server which rejects
		// requests because it is overloaded, or when the connection breaks.
		// 15,000 agents must not do that; each tries again later by itself.
		MaxRetries(0)
	prepare(request)
	result := request.Do(ctx)
	body, err := result.Raw()
	if err != nil {
		err = result.Error() // the same in the server's words
	}
	switch {
	case err == nil && x.cut:
		err = fmt.Errorf("the answer is larger than %d bytes", maxBody)
	case err == nil && into != nil:
		err = unmarshal(body, into)
	case err != nil && ctx.Err() != nil:
		err = ctx.Err() // the connection was closed because of it
	}
	if errors.Is(err, ErrNotInCluster) {
		return time.Time{}, ErrNotInCluster // nothing was sent
	}
	c.observe(of, reasonOf(err))
	return x.date, bound(err)
}

// unmarshal reads the JSON of an object. The error does not quote it.
func unmarshal(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return errors.New("the answer is not the JSON of such an object")
	}
	return nil
}

// maxErrorText is as much of an error as is shown. Parts of it are in the words of
// whoever answers.
const maxErrorText = 512

// boundedError is an error in one line that is not too long.
type boundedError struct{ error }

func (e boundedError) Error() string {
	return foreign.Text(e.error.Error(), maxErrorText)
}

func (e boundedError) Unwrap() error { return e.error }

func bound(err error) error {
	if err == nil {
		return nil
	}
	return boundedError{err}
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
