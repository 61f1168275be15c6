// Package plugin is what `kubectl workload-identity` does: it asks the agents of a
// cluster, by the rights of whoever calls it, and says it in their words. It
// never sees a token of a Pod, and reads only, but that check adds a container to one.
package plugin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// pageSize is how many objects are asked for at once.
const pageSize = 500

// Cluster is the API server that a kubeconfig names.
type Cluster struct{ api rest.Interface }

// codecs read the errors of an API server. Objects are read as JSON.
var codecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return serializer.NewCodecFactory(scheme)
}()

// NewCluster makes the client. It asks for nothing yet.
func NewCluster(config *rest.Config) (*Cluster, error) {
	c := rest.CopyConfig(config)
	c.UserAgent = "kubectl-workload-identity"
	c.WarningHandler = rest.NoWarnings{} // what is wrong comes as an error
	c.QPS = -1                           // the API server bounds by itself who asks much, and the calls at once are few
	c.NegotiatedSerializer = codecs.WithoutConversion()
	api, err := rest.UnversionedRESTClientFor(c)
	if err != nil {
		return nil, err
	}
	return &Cluster{api}, nil
}

// metadataOnly asks for lists without what is below the metadata.
const metadataOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

// get reads what is at the path, within the time.
func (c *Cluster) get(ctx context.Context, path string, query map[string]string, accept string, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request := c.api.Verb(http.MethodGet).AbsPath(path).SetHeader("Accept", cmp.Or(accept, "application/json")).MaxRetries(2)
	for name, value := range query {
		request.Param(name, value)
	}
	result := request.Do(ctx)
	body, err := result.Raw()
	if err != nil {
		return nil, result.Error() // in the server's words
	}
	return body, nil
}

// list reads a list in pages. It ends with the first error.
func list[T any](ctx context.Context, c *Cluster, path, selector, accept string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		query := map[string]string{"limit": strconv.Itoa(pageSize)}
		if selector != "" {
			query["labelSelector"] = selector
		}
		for {
			var page struct {
				Metadata struct {
					Continue string `json:"continue"`
				} `json:"metadata"`
				Items []T `json:"items"`
			}
			body, err := c.get(ctx, path, query, accept, time.Minute)
			if err == nil {
				err = json.Unmarshal(body, &page)
			}
			if err != nil {
				yield(*new(T), fmt.Errorf("list %s: %w", path, err))
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.Metadata.Continue == "" {
				return
			}
			query["continue"] = page.Metadata.Continue
		}
	}
}

// inPath is where a list of a namespace is, or without one that of all.
func inPath(group, namespace, resource string) string {
	if namespace != "" {
		return group + "/namespaces/" + namespace + "/" + resource
	}
	return group + "/" + resource
}

func is(conditions []condition, kind string) bool {
	for _, c := range conditions {
		if c.Type == kind {
			return c.Status == "True"
		}
	}
	return false
}

// Names are those of the objects in the list at the path.
func (c *Cluster) Names(ctx context.Context, path string) ([]string, error) {
	var names []string
	for o, err := range list[struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}](ctx, c, path, "", metadataOnly) {
		if err != nil {
			return names, err
		}
		names = append(names, o.Metadata.Name)
	}
	return names, nil
}
