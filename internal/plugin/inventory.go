package plugin

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

// Inventory is what an audit looks at: of each object no more than it needs.
type Inventory struct {
	ServiceAccounts []ServiceAccount
	Pods            []Pod
	Nodes           []Node
	Policies        []NetworkPolicy
	// ConfigMaps are cilium-config and ip-masq-agent.
	ConfigMaps  []ConfigMap
	NodeConfigs []CiliumNodeConfig
	Redirects   []RedirectPolicy
	Gateways    []EgressGatewayPolicy
	// CiliumPolicies are CiliumNetworkPolicies and, without a namespace, clusterwide ones.
	CiliumPolicies []CiliumPolicy
	// OtherPods are those of Cilium's agents where Pods are those of one namespace.
	OtherPods []Pod
	// Namespace is the only one of which Pods are known, empty if they are all known.
	Namespace string
	// Dump: it is from a file, in which a kind of which there is no object leaves no trace.
	Dump bool
	// Unread are the kinds that may not be listed, so that nothing is said of them.
	Unread []string

	// sets are the sets of labels that Pods have, each once.
	sets map[string]map[string]string
}

// meta is what is read of the metadata of any object.
type meta struct {
	Name            string            `json:"name"`
	Namespace       string            `json:"namespace"`
	Labels          map[string]string `json:"labels"`
	Annotations     map[string]string `json:"annotations"`
	OwnerReferences []struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	} `json:"ownerReferences"`
}

// Node is what is read of one.
type Node struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		ProviderID string `json:"providerID"`
		Taints     []struct {
			Key    string `json:"key"`
			Effect string `json:"effect"`
		} `json:"taints"`
	} `json:"spec"`
	Status struct {
		Conditions []condition `json:"conditions"`
	} `json:"status"`
}

type condition struct {
	Type   string `json:"type"`
	Status string `json:"status"`
}

// ServiceAccount is what is read of one.
type ServiceAccount struct {
	Metadata meta `json:"metadata"`
}

// Pod is what is read of one.
type Pod struct {
	// shape is the same for Pods of one namespace with the same labels.
	shape    string
	Metadata meta `json:"metadata"`
	Spec     struct {
		NodeName           string      `json:"nodeName"`
		ServiceAccountName string      `json:"serviceAccountName"`
		HostNetwork        bool        `json:"hostNetwork"`
		RuntimeClassName   string      `json:"runtimeClassName"`
		Containers         []container `json:"containers"`
		InitContainers     []container `json:"initContainers"`
		Volumes            []volume    `json:"volumes"`
	} `json:"spec"`
	Status struct {
		Phase             string      `json:"phase"`
		Reason            string      `json:"reason"`
		Conditions        []condition `json:"conditions"`
		ContainerStatuses []struct {
			State struct {
				Waiting *struct {
					Reason string `json:"reason"`
				} `json:"waiting"`
			} `json:"state"`
		} `json:"containerStatuses"`
	} `json:"status"`
}

type container struct {
	Name  string     `json:"name"`
	Image string     `json:"image"`
	Env   []variable `json:"env"`
	// Command and Args are kept of hostNetwork Pods.
	Command []string `json:"command"`
	Args    []string `json:"args"`
	Mounts  []struct {
		Name string `json:"name"`
		Path string `json:"mountPath"`
	} `json:"volumeMounts"`
	Ports []struct {
		Name          string `json:"name"`
		ContainerPort int    `json:"containerPort"`
	} `json:"ports"`
}

type variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// volume is a Secret, or tokens for somebody.
type volume struct {
	Name   string `json:"name"`
	Secret *struct {
		Name string `json:"secretName"`
	} `json:"secret"`
	Projected *struct {
		Sources []struct {
			Token *struct {
				Audience string `json:"audience"`
			} `json:"serviceAccountToken"`
		} `json:"sources"`
	} `json:"projected"`
}

// NetworkPolicy is what is read of one.
type NetworkPolicy struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		PodSelector metav1.LabelSelector `json:"podSelector"`
		PolicyTypes []string             `json:"policyTypes"`
		Egress      []struct {
			To []struct {
				IPBlock *struct {
					CIDR   string   `json:"cidr"`
					Except []string `json:"except"`
				} `json:"ipBlock"`
			} `json:"to"`
			Ports []struct {
				Protocol string          `json:"protocol"`
				Port     json.RawMessage `json:"port"`
				EndPort  int             `json:"endPort"`
			} `json:"ports"`
		} `json:"egress"`
	} `json:"spec"`
}

// add keeps an object of a kind that is looked at.
func (i *Inventory) add(kind string, object json.RawMessage) error {
	var err error
	switch kind {
	case "ServiceAccount":
		err = appended(&i.ServiceAccounts, object)
	case "Pod":
		var p Pod
		if err = json.Unmarshal(object, &p); err == nil {
			i.addPod(p)
		}
	case "Node":
		err = appended(&i.Nodes, object)
	case "NetworkPolicy":
		err = appended(&i.Policies, object)
	case "CiliumNodeConfig":
		err = appended(&i.NodeConfigs, object)
	case "CiliumEgressGatewayPolicy":
		err = appended(&i.Gateways, object)
	case "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy":
		err = appended(&i.CiliumPolicies, object)
	case "CiliumLocalRedirectPolicy":
		err = appended(&i.Redirects, object)
	case "ConfigMap":
		var c ConfigMap
		if err = json.Unmarshal(object, &c); err == nil && (c.Metadata.Name == "cilium-config" || c.Metadata.Name == "ip-masq-agent") {
			i.ConfigMaps = append(i.ConfigMaps, c)
		}
	}
	return err
}

// addPod keeps of a Pod what an audit looks at: a cluster may have 150,000. Labels are kept
// once for all Pods that have the same.
func (i *Inventory) addPod(p Pod) {
	if i.sets == nil {
		i.sets = map[string]map[string]string{}
	}
	p.shape = p.Metadata.Namespace + " " + labels.Set(p.Metadata.Labels).String()
	if i.sets[p.shape] == nil {
		i.sets[strings.Clone(p.shape)] = p.Metadata.Labels
	}
	p.Metadata.Labels = i.sets[p.shape]
	maps.DeleteFunc(p.Metadata.Annotations, func(key, _ string) bool { return !strings.Contains(key, "istio.io/") })
	if len(p.Metadata.Annotations) == 0 {
		p.Metadata.Annotations = nil
	}
	key := false
	for _, containers := range []*[]container{&p.Spec.InitContainers, &p.Spec.Containers} {
		for n := range *containers {
			c := &(*containers)[n]
			c.Env = slices.DeleteFunc(c.Env, func(e variable) bool { return !e.matters() })
			key = key || slices.ContainsFunc(c.Env, func(e variable) bool { return strings.EqualFold(e.Name, credentials) })
			if !p.Spec.HostNetwork {
				c.Command, c.Args = nil, nil
			}
			c.Ports = nil
		}
		*containers = slices.Clip(slices.DeleteFunc(*containers, func(c container) bool {
			return len(c.Env) == 0 && c.Name != "istio-proxy" && !p.isCilium() && !p.Spec.HostNetwork
		}))
	}
	p.Spec.Volumes = slices.Clip(slices.DeleteFunc(p.Spec.Volumes, func(v volume) bool {
		return (v.Secret == nil || !key) && v.audience() == ""
	}))
	p.Status.Conditions = slices.Clip(slices.DeleteFunc(p.Status.Conditions, func(c condition) bool { return c.Type != "Ready" }))
	p.Status.ContainerStatuses = nil
	i.Pods = append(i.Pods, p)
}

const credentials = "GOOGLE_APPLICATION_CREDENTIALS"

// projects are variables by which clients learn which project of Google Cloud they are for.
var projects = []string{"GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "GCP_PROJECT", "CLOUDSDK_CORE_PROJECT"}

// matters reports whether an audit looks at the variable.
func (v variable) matters() bool {
	name := strings.ToUpper(v.Name)
	return name == credentials || strings.HasPrefix(name, "GCE_METADATA_") || name == "HTTP_PROXY" || name == "NO_PROXY" || slices.Contains(projects, v.Name)
}

// audience is that of a projected token which STS takes, empty if there is none.
func (v volume) audience() string {
	if v.Projected == nil {
		return ""
	}
	for _, s := range v.Projected.Sources {
		if s.Token != nil && (strings.HasSuffix(s.Token.Audience, ".svc.id.goog") || strings.Contains(s.Token.Audience, "iam.googleapis.com/")) {
			return s.Token.Audience
		}
	}
	return ""
}

// ciliumAgents is what Unread names where nobody tells whether and which Cilium runs.
const ciliumAgents = "Pod of Cilium"

// ciliumKinds are looked at where Cilium runs.
func ciliumKinds() []string {
	return []string{"ConfigMap", "CiliumNodeConfig", "CiliumLocalRedirectPolicy", "CiliumEgressGatewayPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"}
}

// emails are the Google service accounts that ServiceAccounts are, by NAMESPACE/NAME.
func (i Inventory) emails() map[string]string {
	all := map[string]string{}
	for _, s := range i.ServiceAccounts {
		e, err := identity.FromAnnotations(s.Metadata.Annotations, s.Metadata.Namespace, s.Metadata.Name, "")
		if err == nil && e.Source == identity.SourceAnnotation {
			all[s.Metadata.Namespace+"/"+s.Metadata.Name] = string(e.Accepted[0])
		}
	}
	return all
}

func appended[T any](list *[]T, object json.RawMessage) error {
	var item T
	if err := json.Unmarshal(object, &item); err != nil {
		return err
	}
	*list = append(*list, item)
	return nil
}

// projectOfNode is PROJECT in gce://PROJECT/ZONE/INSTANCE, and empty for any other ID.
func projectOfNode(providerID string) string {
	path, _ := strings.CutPrefix(providerID, "gce://")
	project, _, ok := strings.Cut(path, "/")
	if !ok || path == providerID {
		return ""
	}
	return project
}

// ReadCluster lists what an audit looks at. Nodes and policies may be forbidden to
// somebody who may list ServiceAccounts and Pods: the audit then says less.
func ReadCluster(ctx context.Context, c *Cluster, namespace string) (Inventory, error) {
	i := Inventory{Namespace: namespace}
	cilium := "/apis/cilium.io/v2"
	for _, of := range []struct {
		kind   string
		needed bool
		read   func() error
	}{
		{"ServiceAccount", true, all(ctx, c, inPath("/api/v1", namespace, "serviceaccounts"), metadataOnly, &i.ServiceAccounts)},
		{"Pod", true, func() error {
			for p, err := range list[Pod](ctx, c, inPath("/api/v1", namespace, "pods"), "", "") {
				if err != nil {
					return err
				}
				i.addPod(p)
			}
			return nil
		}},
		{"Node", false, all(ctx, c, "/api/v1/nodes", "", &i.Nodes)},
		{"NetworkPolicy", false, all(ctx, c, inPath("/apis/networking.k8s.io/v1", namespace, "networkpolicies"), "", &i.Policies)},
		{"CiliumNodeConfig", false, all(ctx, c, cilium+"/ciliumnodeconfigs", "", &i.NodeConfigs)},
		{"CiliumNodeConfig", false, func() error {
			if len(i.NodeConfigs) > 0 {
				return nil // the same objects in another version
			}
			return all(ctx, c, cilium+"alpha1/ciliumnodeconfigs", "", &i.NodeConfigs)() // until Cilium 1.15
		}},
		{"CiliumLocalRedirectPolicy", false, all(ctx, c, cilium+"/ciliumlocalredirectpolicies", "", &i.Redirects)},
		{"CiliumEgressGatewayPolicy", false, all(ctx, c, cilium+"/ciliumegressgatewaypolicies", "", &i.Gateways)},
		{"CiliumNetworkPolicy", false, all(ctx, c, inPath(cilium, namespace, "ciliumnetworkpolicies"), "", &i.CiliumPolicies)},
		{"CiliumClusterwideNetworkPolicy", false, all(ctx, c, cilium+"/ciliumclusterwidenetworkpolicies", "", &i.CiliumPolicies)},
	} {
		switch err := of.read(); {
		case err == nil:
		case of.needed || ctx.Err() != nil:
			return i, err
		case !apierrors.IsNotFound(err): // else nobody has installed the kind
			i.unread(of.kind)
		}
	}
	if namespace != "" {
		for p, err := range list[Pod](ctx, c, "/api/v1/pods", "k8s-app=cilium", "") {
			if err != nil {
				i.unread(ciliumAgents)
				break
			}
			i.OtherPods = append(i.OtherPods, p)
		}
	}
	for _, name := range []string{"cilium-config", "ip-masq-agent"} {
		for _, namespace := range slices.Concat(i.ciliumNamespaces(), kube.CiliumNamespaces()) {
			body, err := c.get(ctx, "/api/v1/namespaces/"+namespace+"/configmaps/"+name, nil, "", time.Minute)
			if apierrors.IsNotFound(err) {
				continue
			}
			if err == nil {
				err = i.add("ConfigMap", body)
			}
			if err != nil {
				i.unread("ConfigMap")
			}
			break
		}
	}
	return i, ctx.Err()
}

// all reads a list whole.
func all[T any](ctx context.Context, c *Cluster, path, accept string, into *[]T) func() error {
	return func() error {
		for item, err := range list[T](ctx, c, path, "", accept) {
			if err != nil {
				return err
			}
			*into = append(*into, item)
		}
		return nil
	}
}

func (i *Inventory) unread(kind string) {
	if !slices.Contains(i.Unread, kind) {
		i.Unread = append(i.Unread, kind)
	}
}
