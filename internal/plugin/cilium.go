package plugin

import (
	"cmp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
)

// ConfigMap is what is read of cilium-config and ip-masq-agent, and of no other one.
type ConfigMap struct {
	Metadata meta              `json:"metadata"`
	Data     map[string]string `json:"data"`
}

// CiliumNodeConfig is what is read of one.
type CiliumNodeConfig struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		NodeSelector *metav1.LabelSelector `json:"nodeSelector"`
		Defaults     map[string]string     `json:"defaults"`
	} `json:"spec"`
}

// selects reports whether the object is for the node. Without a selector it is for none.
func (c CiliumNodeConfig) selects(n Node) bool {
	selector, err := metav1.LabelSelectorAsSelector(c.Spec.NodeSelector)
	return err == nil && selector.Matches(labels.Set(n.Metadata.Labels))
}

// isCilium goes by the label that Cilium's agents have, Google's as well.
func (p Pod) isCilium() bool { return p.Metadata.Labels["k8s-app"] == "cilium" }

func (p Pod) isAnetd() bool {
	return p.Metadata.Namespace == "kube-system" && strings.HasPrefix(p.Metadata.Name, "anetd-")
}

// version is the tag of the agent's image, such as v1.20.2.
func (p Pod) version() string {
	for _, c := range p.Spec.Containers {
		if c.Name != "cilium-agent" {
			continue
		}
		image, _, _ := strings.Cut(c.Image, "@")
		if i := strings.LastIndexByte(image, ':'); i >= 0 && !strings.Contains(image[i:], "/") {
			return image[i+1:]
		}
	}
	return ""
}

// ciliumNamespaces are those in which Cilium runs, empty if that is not known.
func (i Inventory) ciliumNamespaces() []string {
	var all []string
	for _, p := range i.ciliumPods() {
		if !slices.Contains(all, p.Metadata.Namespace) {
			all = append(all, p.Metadata.Namespace)
		}
	}
	return all
}

// ciliumPods are those of Cilium's agents.
func (i Inventory) ciliumPods() []Pod {
	var all []Pod
	for _, p := range i.Pods {
		if p.isCilium() {
			all = append(all, p)
		}
	}
	return append(all, i.OtherPods...)
}

// datapath is what an inventory says of Cilium, for all nodes.
type datapath struct {
	settings diagnose.Settings
	configs  []CiliumNodeConfig
	versions map[string]string // by node
	runs     diagnose.Tristate // Cilium, Google's or another
}

// datapath looks for Cilium as the agent does.
func (i Inventory) datapath() datapath {
	d := datapath{versions: map[string]string{}, runs: diagnose.No}
	d.settings.DataplaneV2 = diagnose.No
	if slices.Contains(i.Unread, ciliumAgents) {
		d.runs, d.settings.DataplaneV2 = diagnose.Unknown, diagnose.Unknown
	}
	for _, p := range i.ciliumPods() {
		d.runs = diagnose.Yes
		d.versions[p.Spec.NodeName] = p.version()
		if p.isAnetd() {
			d.settings.DataplaneV2 = diagnose.Yes
		}
	}
	find := func(name string) diagnose.ConfigMap {
		found := diagnose.ConfigMap{State: diagnose.Absent}
		if slices.Contains(i.Unread, "ConfigMap") {
			found.State = diagnose.NotRead
		}
		for _, c := range i.ConfigMaps {
			if c.Metadata.Name == name && (found.State != diagnose.Read || slices.Contains(i.ciliumNamespaces(), c.Metadata.Namespace)) {
				found = diagnose.ConfigMap{State: diagnose.Read, Namespace: c.Metadata.Namespace, Data: c.Data}
			}
		}
		return found
	}
	d.settings.Cilium, d.settings.IPMasqAgent = find("cilium-config"), find("ip-masq-agent")
	if d.settings.Cilium.State == diagnose.Read && d.runs == diagnose.No {
		d.runs = diagnose.Yes // or did, which is as good a reason to be careful
	}
	d.settings.NodeConfigs.State = diagnose.Read
	if slices.Contains(i.Unread, "CiliumNodeConfig") && !i.Dump {
		d.settings.NodeConfigs.State = diagnose.Forbidden
	}
	for _, c := range i.NodeConfigs {
		if c.Metadata.Namespace == d.settings.Cilium.Namespace {
			d.configs = append(d.configs, c)
		}
	}
	slices.SortFunc(d.configs, func(a, b CiliumNodeConfig) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	return d
}

// on is what the settings are on the node, and by which CiliumNodeConfigs.
func (d datapath) on(n Node) (diagnose.Settings, []string) {
	s, names := d.settings, []string(nil)
	s.NodeLabels = n.Metadata.Labels
	s.CiliumAgent.Version = d.versions[n.Metadata.Name]
	for _, c := range d.configs {
		if c.selects(n) {
			names = append(names, c.Metadata.Name)
			s.NodeConfigs.Items = append(s.NodeConfigs.Items, diagnose.NodeConfig{Name: c.Metadata.Name, Selects: diagnose.Yes, Defaults: c.Spec.Defaults})
		}
	}
	return s, names
}

// nodeGroup are nodes for which the settings are the same.
type nodeGroup struct {
	nodes    []string
	configs  []string
	settings diagnose.Settings
	// server: they have GKE's metadata server, by their label.
	server bool
}

// groups are the Linux nodes, by what Cilium does there.
func (d datapath) groups(nodes []Node) []*nodeGroup {
	by := map[string]*nodeGroup{}
	var all []*nodeGroup
	for _, n := range nodes {
		if n.Metadata.Labels["kubernetes.io/os"] == "windows" {
			continue
		}
		s, configs := d.on(n)
		server := n.Metadata.Labels[diagnose.LabelMetadataServer]
		key := strings.Join(append(configs, s.CiliumAgent.Version, server), "\x00")
		if by[key] == nil {
			by[key] = &nodeGroup{configs: configs, settings: s, server: server == "true"}
			all = append(all, by[key])
		}
		by[key].nodes = append(by[key].nodes, n.Metadata.Name)
	}
	for _, g := range all {
		slices.Sort(g.nodes)
	}
	slices.SortFunc(all, func(a, b *nodeGroup) int {
		return cmp.Or(cmp.Compare(len(b.nodes), len(a.nodes)), cmp.Compare(a.nodes[0], b.nodes[0]))
	})
	return all
}

// RedirectPolicy is what is read of a CiliumLocalRedirectPolicy.
type RedirectPolicy struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Frontend struct {
			Address *struct {
				IP    string         `json:"ip"`
				Ports []redirectPort `json:"toPorts"`
			} `json:"addressMatcher"`
		} `json:"redirectFrontend"`
		Backend struct {
			Selector metav1.LabelSelector `json:"localEndpointSelector"`
			Ports    []redirectPort       `json:"toPorts"`
		} `json:"redirectBackend"`
	} `json:"spec"`
}

type redirectPort struct {
	Port     string `json:"port"`
	Protocol string `json:"protocol"`
}

// forMetadata reports whether it takes requests to the metadata server.
func (r RedirectPolicy) forMetadata() bool {
	a := r.Spec.Frontend.Address
	return a != nil && a.IP == metadataIPv4 && slices.ContainsFunc(a.Ports, func(p redirectPort) bool { return p.Port == "80" })
}

const metadataIPv4 = "169.254.169.254"

// redirects names the local redirect policies for the metadata server.
func (i Inventory) redirects() []string {
	var names []string
	for _, r := range i.Redirects {
		if r.forMetadata() {
			names = append(names, shown(r.Metadata.Namespace+"/"+r.Metadata.Name))
		}
	}
	slices.Sort(names)
	return names
}
