package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
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
	Name  string `json:"name"`
	Image string `json:"image"`
	Env   []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"env"`
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
		err = appended(&i.Pods, object)
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

// ReadDump reads what `kubectl get serviceaccounts,pods,nodes,networkpolicies -A -o json`
// has written; several outputs may follow one another. Without ServiceAccounts or Pods it is an error;
// without another kind that is taken for unread.
func ReadDump(r io.Reader) (Inventory, error) {
	i := Inventory{Dump: true}
	decoder := json.NewDecoder(r)
	seen := map[string]bool{}
	for {
		var list struct {
			Kind  string            `json:"kind"`
			Items []json.RawMessage `json:"items"`
		}
		var whole json.RawMessage
		err := decoder.Decode(&whole)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = json.Unmarshal(whole, &list)
		}
		if err != nil {
			return i, fmt.Errorf("it is not the JSON of kubectl get -o json: %w", err)
		}
		kind, items := strings.TrimSuffix(list.Kind, "List"), list.Items
		if items == nil {
			items = []json.RawMessage{whole}
		}
		seen[kind] = true
		for _, item := range items {
			of := struct {
				Kind string `json:"kind"`
			}{kind}
			err := json.Unmarshal(item, &of)
			if err == nil {
				err = i.add(of.Kind, item)
			}
			if err != nil {
				return i, fmt.Errorf("an object of the kind %q cannot be read: %w", shown(of.Kind), err)
			}
			seen[of.Kind] = true
		}
	}
	for _, kind := range []string{"ServiceAccount", "Pod"} {
		if !seen[kind] {
			return i, fmt.Errorf("there is no %s in it: want the output of kubectl get serviceaccounts,pods,nodes,networkpolicies -A -o json", kind)
		}
	}
	wanted := []string{"Node", "NetworkPolicy"}
	if i.datapath().runs == diagnose.Yes {
		wanted = append(wanted, ciliumKinds()...)
	}
	for _, kind := range wanted {
		if !seen[kind] {
			i.Unread = append(i.Unread, kind)
		}
	}
	return i, nil
}

// ReadCluster lists what an audit looks at. Nodes and policies may be forbidden to
// somebody who may list ServiceAccounts and Pods: the audit then says less.
func ReadCluster(ctx context.Context, c *Cluster, namespace string) (Inventory, error) {
	i := Inventory{Namespace: namespace}
	in := func(group, resource string) string {
		if namespace != "" {
			return group + "/namespaces/" + namespace + "/" + resource
		}
		return group + "/" + resource
	}
	for _, of := range []struct {
		kind, path string
		needed     bool
	}{
		{"ServiceAccount", in("/api/v1", "serviceaccounts"), true},
		{"Pod", in("/api/v1", "pods"), true},
		{"Node", "/api/v1/nodes", false},
		{"NetworkPolicy", in("/apis/networking.k8s.io/v1", "networkpolicies"), false},
		{"CiliumNodeConfig", "/apis/cilium.io/v2/ciliumnodeconfigs", false},
		{"CiliumNodeConfig", "/apis/cilium.io/v2alpha1/ciliumnodeconfigs", false}, // until Cilium 1.15
		{"CiliumLocalRedirectPolicy", "/apis/cilium.io/v2/ciliumlocalredirectpolicies", false},
		{"CiliumEgressGatewayPolicy", "/apis/cilium.io/v2/ciliumegressgatewaypolicies", false},
		{"CiliumNetworkPolicy", in("/apis/cilium.io/v2", "ciliumnetworkpolicies"), false},
		{"CiliumClusterwideNetworkPolicy", "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies", false},
	} {
		if of.kind == "CiliumNodeConfig" && len(i.NodeConfigs) > 0 {
			continue // the same objects in another version
		}
		for object, err := range list[json.RawMessage](ctx, c, of.path, "") {
			if err == nil {
				err = i.add(of.kind, object)
			}
			if err != nil && (of.needed || ctx.Err() != nil) {
				return i, err
			}
			if apierrors.IsNotFound(err) {
				break // nobody has installed the kind
			}
			if err != nil {
				i.unread(of.kind)
				break
			}
		}
	}
	if namespace != "" {
		for p, err := range list[Pod](ctx, c, "/api/v1/pods", "k8s-app=cilium") {
			if err != nil {
				i.unread(ciliumAgents)
				break
			}
			i.OtherPods = append(i.OtherPods, p)
		}
	}
	for _, name := range []string{"cilium-config", "ip-masq-agent"} {
		for _, namespace := range slices.Concat(i.ciliumNamespaces(), kube.CiliumNamespaces()) {
			body, err := c.get(ctx, "/api/v1/namespaces/"+namespace+"/configmaps/"+name, nil, time.Minute)
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

func (i *Inventory) unread(kind string) {
	if !slices.Contains(i.Unread, kind) {
		i.Unread = append(i.Unread, kind)
	}
}
