package kube

import (
	"context"
	"slices"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// anetd is the DaemonSet of GKE Dataplane V2.
const anetd = "/apis/apps/v1/namespaces/kube-system/daemonsets/anetd"

// Surroundings reads what may explain a wrong identity: how the node masquerades
// and routes, and how it is labelled. What is not allowed, not there, or not
// answered is a fact as well, and no error.
func (c *Client) Surroundings(ctx context.Context, self Self, ciliumNamespace string) diagnose.Facts {
	f := diagnose.Facts{
		Cilium:      c.config(ctx, "cilium-config", ciliumNamespace),
		IPMasqAgent: c.config(ctx, "ip-masq-agent", ciliumNamespace, "kube-system"),
	}
	_, err := c.metadata(ctx, DaemonSets, anetd)
	switch reasonOf(err) {
	case "":
		f.DataplaneV2 = diagnose.Yes
	case NotFound:
		f.DataplaneV2 = diagnose.No
	case Forbidden, Throttled, Timeout, Unavailable:
	}
	if self.Node != "" {
		if node, err := c.metadata(ctx, Nodes, "/api/v1/nodes/"+self.Node); err == nil {
			f.NodeLabels = node.Labels
		}
	}
	if self.Namespace != "" && self.ServiceAccount != "" {
		f.Annotations, _ = c.annotations(ctx, self.Namespace, self.ServiceAccount)
	}
	return f
}

// config reads a ConfigMap from the first of the namespaces that has it.
func (c *Client) config(ctx context.Context, name string, namespaces ...string) diagnose.Config {
	var last diagnose.Config
	for _, namespace := range slices.Compact(namespaces) {
		last = diagnose.Config{Namespace: namespace}
		var o struct {
			Data map[string]string `json:"data"`
		}
		err := c.get(ctx, ConfigMaps, "/api/v1/namespaces/"+namespace+"/configmaps/"+name, "application/json", &o)
		switch reasonOf(err) {
		case "":
			last.State, last.Data = diagnose.Read, o.Data
		case NotFound:
			last.State = diagnose.Absent
			continue
		case Forbidden:
			last.State = diagnose.Forbidden
		case Throttled, Timeout, Unavailable:
		}
		break
	}
	return last
}
