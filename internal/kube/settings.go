package kube

import (
	"context"
	"slices"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// anetd is the DaemonSet of GKE Dataplane V2.
const anetd = "/apis/apps/v1/namespaces/kube-system/daemonsets/anetd"

// ClusterSettings reads what may explain a wrong identity: how the node masquerades
// and routes, how it is labelled, and what the ServiceAccount asks for. What is not
// allowed, not there, or not answered is a fact as well, and no error. Nothing that
// was read before is taken for it: it would rule out what is the cause now.
func (c *Client) ClusterSettings(ctx context.Context, self Self, ciliumNamespace string) diagnose.Settings {
	var s diagnose.Settings
	// First, in case that the time is up before the end: without one of the others a
	// cause is less certain, and without these it has no name.
	if self.Namespace != "" && self.ServiceAccount != "" {
		if account, err := c.serviceAccount(ctx, self.Namespace, self.ServiceAccount); err == nil {
			s.Annotations = account.Annotations
		}
	}
	s.Cilium = c.configMap(ctx, "cilium-config", ciliumNamespace)
	s.IPMasqAgent = c.configMap(ctx, "ip-masq-agent", ciliumNamespace, "kube-system")
	_, err := c.metadata(ctx, DaemonSets, anetd)
	switch reasonOf(err) {
	case "":
		s.DataplaneV2 = diagnose.Yes
	case NotFound:
		s.DataplaneV2 = diagnose.No
	case Forbidden, Throttled, Timeout, Unavailable:
	}
	if self.Node != "" {
		if node, err := c.metadata(ctx, Nodes, "/api/v1/nodes/"+self.Node); err == nil {
			s.NodeLabels = node.Labels
		}
	}
	return s
}

// configMap reads a ConfigMap from the first of the namespaces that has it.
func (c *Client) configMap(ctx context.Context, name string, namespaces ...string) diagnose.ConfigMap {
	var last diagnose.ConfigMap
	for _, namespace := range slices.Compact(namespaces) {
		last = diagnose.ConfigMap{Namespace: namespace}
		var o struct {
			Data map[string]string `json:"data"`
		}
		_, err := c.get(ctx, ConfigMaps, "/api/v1/namespaces/"+namespace+"/configmaps/"+name, "application/json", &o)
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
