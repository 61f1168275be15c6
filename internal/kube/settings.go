package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// ciliumNamespaces are those in which Cilium is installed most often, tried where it
// is not in the one that is configured. The last one is Deckhouse's.
var ciliumNamespaces = [...]string{"kube-system", "cilium", "cilium-system", "d8-cni-cilium"}

// CiliumNamespaces are those in which Cilium is looked for.
func CiliumNamespaces() []string { return ciliumNamespaces[:] }

// ClusterSettings reads what may explain a wrong identity: how the node masquerades
// and routes, how it is labelled, and what the ServiceAccount asks for. What is not
// allowed, not there, or not answered is a fact as well, and no error. Nothing that
// was read before is taken for what the scope asks for: it would rule out what is the
// cause now. What it does not ask for is as before.
func (c *Client) ClusterSettings(ctx context.Context, self Self, ciliumNamespace string, scope diagnose.Scope, before diagnose.Settings) diagnose.Settings {
	client, end := c.session(ctx)
	defer end()
	r := settingsReader{client: client, self: self, Settings: before}
	if scope != diagnose.Refresh {
		r.Unanswered = nil
		// First, in case that the time is up before the end: without one of the others a
		// cause is less certain, and without these it has no name.
		r.readAccount(ctx)
	}
	namespaces := []string{cmp.Or(before.Cilium.Namespace, ciliumNamespace)}
	if scope == diagnose.Everything {
		namespaces = append([]string{ciliumNamespace}, ciliumNamespaces[:]...)
	}
	if r.Cilium = r.configMap(ctx, "cilium-config", namespaces...); scope != diagnose.Everything && r.Cilium.State == diagnose.NotRead {
		r.Cilium = before.Cilium // rather than an end of what is shown, for want of an answer
	}
	if scope != diagnose.Refresh {
		r.IPMasqAgent = r.configMap(ctx, "ip-masq-agent", r.Cilium.Namespace, "kube-system")
		r.readAnetd(ctx)
	}
	if scope == diagnose.Everything {
		r.readNode(ctx)
	}
	if r.Cilium.State != diagnose.Read || r.DataplaneV2 == diagnose.Yes {
		r.NodeConfigs, r.CiliumAgent = diagnose.NodeConfigs{}, diagnose.CiliumAgent{}
		return r.Settings
	}
	if scope != diagnose.Refresh || before.NodeConfigs.State == diagnose.Read {
		r.readNodeConfigs(ctx)
	}
	if scope == diagnose.Everything {
		r.readCiliumPod(ctx)
	}
	// It may be another since the last time.
	if (r.CiliumAgent.Version == "" || scope == diagnose.Routine) && diagnose.WantsVersion(r.Settings) {
		r.readCiliumVersion(ctx)
	}
	return r.Settings
}

// settingsReader fills in settings.
type settingsReader struct {
	client *Client
	self   Self
	diagnose.Settings
}

// failed says what became of a read that failed, and remembers what was not answered.
func (r *settingsReader) failed(o diagnose.Object, err error) diagnose.ReadState {
	switch reasonOf(err) {
	case Forbidden:
		return diagnose.Forbidden
	case NotFound:
		return diagnose.Absent
	case Throttled, Timeout, Unavailable:
	}
	if !slices.Contains(r.Unanswered, o) {
		r.Unanswered = append(r.Unanswered, o)
	}
	return diagnose.NotRead
}

func (r *settingsReader) readAccount(ctx context.Context) {
	r.Annotations = nil
	if r.self.Namespace == "" || r.self.ServiceAccount == "" {
		return
	}
	account, err := r.client.serviceAccount(ctx, r.self.Namespace, r.self.ServiceAccount)
	if err != nil {
		r.failed(diagnose.ObjectServiceAccount, err)
		return
	}
	r.Annotations = account.Annotations
}

// readAnetd looks for the DaemonSet of GKE Dataplane V2.
func (r *settingsReader) readAnetd(ctx context.Context) {
	r.DataplaneV2 = diagnose.Unknown
	_, err := r.client.metadata(ctx, DaemonSets, "/apis/apps/v1/namespaces/kube-system/daemonsets/anetd")
	switch {
	case err == nil:
		r.DataplaneV2 = diagnose.Yes
	case r.failed(diagnose.ObjectAnetd, err) == diagnose.Absent:
		r.DataplaneV2 = diagnose.No
	}
}

// readNode reads the whole Node: its conditions and taints are no metadata.
func (r *settingsReader) readNode(ctx context.Context) {
	r.NodeLabels, r.RunsCilium = nil, ""
	if r.self.Node == "" {
		return
	}
	var node struct {
		Metadata object `json:"metadata"`
		Spec     struct {
			Taints []struct {
				Key string `json:"key"`
			} `json:"taints"`
		} `json:"spec"`
		Status struct {
			Conditions []struct {
				Reason string `json:"reason"`
			} `json:"conditions"`
		} `json:"status"`
	}
	if _, err := r.client.get(ctx, Nodes, "/api/v1/nodes/"+r.self.Node, nil, &node); err != nil {
		r.failed(diagnose.ObjectNode, err)
		return
	}
	if r.NodeLabels = node.Metadata.Labels; r.NodeLabels == nil {
		r.NodeLabels = map[string]string{} // known to have none
	}
	// Cilium's operator sets the condition, and removes the taint when the agent is ready.
	for _, c := range node.Status.Conditions {
		if c.Reason == "CiliumIsUp" {
			r.RunsCilium = "a condition with the reason CiliumIsUp"
		}
	}
	for _, t := range node.Spec.Taints {
		if strings.HasPrefix(t.Key, "node.cilium.io/") {
			r.RunsCilium = "the taint " + t.Key
		}
	}
	for key := range node.Metadata.Annotations {
		if strings.HasPrefix(key, "network.cilium.io/") {
			r.RunsCilium = "annotations of network.cilium.io"
		}
	}
}

// configMap reads a ConfigMap from the first of the namespaces that has it. Where none
// is known to have it, it is about the first one.
func (r *settingsReader) configMap(ctx context.Context, name string, namespaces ...string) diagnose.ConfigMap {
	var first diagnose.ConfigMap
	var tried []string
	for _, namespace := range namespaces {
		if slices.Contains(tried, namespace) {
			continue
		}
		tried = append(tried, namespace)
		var o struct {
			Metadata object            `json:"metadata"`
			Data     map[string]string `json:"data"`
		}
		_, err := r.client.get(ctx, ConfigMaps, "/api/v1/namespaces/"+namespace+"/configmaps/"+name, nil, &o)
		if err == nil {
			return diagnose.ConfigMap{State: diagnose.Read, Namespace: namespace, Data: o.Data, Changed: o.Metadata.changedBelow("f:data")}
		}
		now := diagnose.ConfigMap{Namespace: namespace}
		switch reasonOf(err) {
		case NotFound:
			now.State = diagnose.Absent
		case Forbidden:
			now.State = diagnose.Forbidden
		case Throttled, Timeout, Unavailable:
		}
		if len(tried) == 1 {
			first = now
		}
		if now.State == diagnose.NotRead || first.State != diagnose.Absent {
			break
		}
	}
	return first
}

// changedBelow is when somebody changed a field below the one of that name last, by the
// clock of the API server; zero if the object does not tell. What was removed leaves no time.
func (o object) changedBelow(field string) time.Time {
	return o.newest(func(fields json.RawMessage) bool {
		var below map[string]json.RawMessage
		return json.Unmarshal(fields, &below) == nil && below[field] != nil
	})
}
