package plugin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Severity is how much a finding matters.
type Severity string

// The severities, the worst first.
const (
	Error   Severity = "error"   // Pods get a wrong identity, or none
	Warning Severity = "warning" // what the Pod uses may be another identity
	Info    Severity = "info"    // the agent does not watch this, or it is worth a look
)

// Severities are all of them, the worst first.
func Severities() []Severity { return []Severity{Error, Warning, Info} }

// Check is one thing that an audit looks for.
type Check struct {
	// Code is stable: it may be used to sort out findings.
	Code     string
	Severity Severity
	What, Do string
}

// The checks. What and Do are for people.
var (
	annotationInvalid = Check{"WI001", Error, "the annotation is not the email of a service account", "Set it to the full email, without quotes or a prefix."}
	keyMisspelt       = Check{"WI002", Error, "an annotation looks as if it was meant to be iam.gke.io/gcp-service-account", "Correct its key."}
	shared            = Check{"WI003", Info, "ServiceAccounts of several namespaces are one Google service account", "See whether each of them needs all of its rights."}
	notAnnotated      = Check{"WI004", Info, "Pods name a Google Cloud project and their ServiceAccount has no annotation", "Annotate it, unless its own principal has the rights."}
	hostNetwork       = Check{"WI101", Error, "the Pod is hostNetwork, so it gets the node's identity and not that of its annotated ServiceAccount", "Remove hostNetwork, or expect the node's identity."}
	credentialsFile   = Check{"WI102", Warning, "GOOGLE_APPLICATION_CREDENTIALS names a file, which goes before Workload Identity", "Remove the variable and the key, if Workload Identity is meant."}
	otherMetadata     = Check{"WI103", Warning, "a variable sends requests for metadata elsewhere", "Remove the variable."}
	proxied           = Check{"WI104", Warning, "HTTP_PROXY is set, and NO_PROXY has no exception for the metadata server", "Add 169.254.169.254 and metadata.google.internal to NO_PROXY."}
	policyDrops       = Check{"WI105", Error, "no NetworkPolicy that selects the Pod lets it to the metadata server", "Allow egress to the address in one of them."}
	sidecarRace       = Check{"WI106", Info, "a sidecar of the mesh may not be ready when the Pod first asks for a token", "Set holdApplicationUntilProxyStarts, or exclude 169.254.169.254/32 from interception."}
	sandboxed         = Check{"WI107", Info, "the Pod runs in gVisor, whose way to the metadata server the agent does not watch", "Run check in the Pod itself."}
	onWindows         = Check{"WI108", Info, "the Pod runs on Windows, where no agent watches", "Ask the metadata server in the Pod itself."}
	noMetadataServer  = Check{"WI201", Error, "the node has no GKE metadata server, so its Pods get the node's identity", "Set the node pool to GKE_METADATA."}
)

// Checks are all that an audit looks for, by their codes.
func Checks() []Check {
	return []Check{
		annotationInvalid, keyMisspelt, shared, notAnnotated,
		hostNetwork, credentialsFile, otherMetadata, proxied, policyDrops, sidecarRace, sandboxed, onWindows,
		noMetadataServer,
	}
}

// Finding is a check that an object fails.
type Finding struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	// Object is KIND NAMESPACE/NAME, without the namespace if it is in none. Pods of one
	// owner are one finding.
	Object string `json:"object"`
	What   string `json:"what"`
	// Evidence quotes what it rests on.
	Evidence string `json:"evidence"`
	Do       string `json:"do"`
}

// Audit looks for all Checks. The worst come first.
func Audit(i Inventory) []Finding {
	a := audit{inventory: i, annotated: map[string]bool{}, findings: map[Finding]bool{}}
	a.accounts()
	nodes := map[string]Node{}
	for _, n := range i.Nodes {
		nodes[n.Metadata.Name] = n
	}
	a.compile()
	for _, p := range i.Pods {
		if !p.ended() {
			a.pod(p, nodes)
		}
	}
	found := make([]Finding, 0, len(a.findings))
	for f := range a.findings {
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(Severities(), a.Severity), slices.Index(Severities(), b.Severity)),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Evidence, b.Evidence))
	})
	return found
}

type audit struct {
	inventory Inventory
	// annotated are the ServiceAccounts that are a Google service account.
	annotated map[string]bool
	findings  map[Finding]bool
	// egress are the policies for egress of each namespace, and server what they see of
	// a request to the metadata server.
	egress map[string][]egressPolicy
	server netip.AddrPort
}

// egressPolicy is a NetworkPolicy with its answer.
type egressPolicy struct {
	name    string
	selects labels.Selector
	allows  bool
}

func (a *audit) found(c Check, object, evidence string, args ...any) {
	a.findings[Finding{c.Code, c.Severity, shown(object), c.What, shown(fmt.Sprintf(evidence, args...)), c.Do}] = true
}

// accounts looks at the ServiceAccounts that Pods use.
func (a *audit) accounts() {
	used, project := map[string]bool{}, map[string]string{}
	for _, p := range a.inventory.Pods {
		account := p.account()
		used[account] = true
		for _, c := range p.containers() {
			for _, e := range c.Env {
				if e.Name == "GOOGLE_CLOUD_PROJECT" || e.Name == "GCP_PROJECT" {
					project[account] = c.Name + " has " + e.Name
				}
			}
		}
	}
	by := map[identity.Pattern][]string{}
	for _, s := range a.inventory.ServiceAccounts {
		name := s.Metadata.Namespace + "/" + s.Metadata.Name
		if !used[name] {
			continue
		}
		object := "ServiceAccount " + name
		switch e, err := identity.FromAnnotations(s.Metadata.Annotations, s.Metadata.Namespace, s.Metadata.Name, ""); {
		case err != nil:
			a.found(annotationInvalid, object, "%v", err)
		case e.Source == identity.SourceAnnotation:
			id := e.Accepted[0]
			a.annotated[name] = true
			by[id] = append(by[id], name)
		case identity.NearMiss(s.Metadata.Annotations) != "":
			a.found(keyMisspelt, object, "%q", identity.NearMiss(s.Metadata.Annotations))
		case project[name] != "":
			a.found(notAnnotated, object, "%s", project[name])
		}
	}
	for id, names := range by {
		namespaces := map[string]bool{}
		for _, n := range names {
			namespace, _, _ := strings.Cut(n, "/")
			namespaces[namespace] = true
		}
		if len(namespaces) > 1 {
			slices.Sort(names)
			a.found(shared, "Google service account "+string(id), "%s", strings.Join(names, ", "))
		}
	}
}

// pod looks at a Pod that is, or should be, a Google service account.
func (a *audit) pod(p Pod, nodes map[string]Node) {
	if !a.annotated[p.account()] {
		return
	}
	object, of := p.owner(), nodes[p.Spec.NodeName].Metadata.Labels
	if p.Spec.HostNetwork {
		a.found(hostNetwork, object, "spec.hostNetwork is true, and the ServiceAccount is %s", p.account())
		return // it asks as the node, by the node's way
	}
	a.environment(object, p)
	if p.Metadata.Annotations["sidecar.istio.io/status"] != "" && !strings.Contains(p.Metadata.Annotations["proxy.istio.io/config"], "holdApplicationUntilProxyStarts: true") &&
		!strings.Contains(p.Metadata.Annotations["traffic.sidecar.istio.io/excludeOutboundIPRanges"], "169.254.169.254") && !p.sidecarStartsFirst() {
		a.found(sidecarRace, object, "it has the sidecar istio-proxy, which is no init container, and neither of the two annotations")
	}
	if p.Spec.RuntimeClassName == "gvisor" {
		a.found(sandboxed, object, "spec.runtimeClassName is gvisor")
	}
	switch {
	case of["kubernetes.io/os"] == "windows":
		a.found(onWindows, object, "it runs on a node with kubernetes.io/os=windows")
	case of != nil && of["iam.gke.io/gke-metadata-server-enabled"] != "true":
		a.found(noMetadataServer, "Node "+p.Spec.NodeName, "it lacks the label iam.gke.io/gke-metadata-server-enabled=true, and Pods of annotated ServiceAccounts run there, such as %s", object)
	}
	if !slices.Contains(a.inventory.Unread, "NetworkPolicy") {
		a.policies(object, p)
	}
}

func (a *audit) environment(object string, p Pod) {
	for _, c := range p.containers() {
		proxy, except := "", ""
		for _, e := range c.Env {
			switch strings.ToUpper(e.Name) {
			case "GOOGLE_APPLICATION_CREDENTIALS":
				a.found(credentialsFile, object, "container %s: %q", c.Name, e.Value)
			case "GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT":
				a.found(otherMetadata, object, "container %s: %s is %q", c.Name, e.Name, e.Value)
			case "HTTP_PROXY":
				proxy = e.Name
			case "NO_PROXY":
				except = e.Value
			}
		}
		if proxy != "" && !strings.Contains(except, "169.254.") && !strings.Contains(except, "metadata.google.internal") && !strings.Contains(except, "*") {
			a.found(proxied, object, "container %s has %s, and NO_PROXY is %q", c.Name, proxy, except)
		}
	}
}

// compile asks each NetworkPolicy once whether it lets to the metadata server. Dataplane
// V2 and Cilium look at a request before the node's redirect, others behind it.
func (a *audit) compile() {
	a.server = netip.MustParseAddrPort("169.254.169.252:988")
	if slices.ContainsFunc(a.inventory.Pods, func(p Pod) bool { return p.Metadata.Labels["k8s-app"] == "cilium" }) {
		a.server = netip.MustParseAddrPort("169.254.169.254:80")
	}
	a.egress = map[string][]egressPolicy{}
	for _, n := range a.inventory.Policies {
		selector, err := metav1.LabelSelectorAsSelector(&n.Spec.PodSelector)
		if err == nil && n.forEgress() {
			in := n.Metadata.Namespace
			a.egress[in] = append(a.egress[in], egressPolicy{n.Metadata.Name, selector, n.allows(a.server)})
		}
	}
}

// policies evaluates the NetworkPolicies: a Pod that one selects for egress may do what
// any of them allows, and nothing else.
func (a *audit) policies(object string, p Pod) {
	var selecting []string
	for _, n := range a.egress[p.Metadata.Namespace] {
		if !n.selects.Matches(labels.Set(p.Metadata.Labels)) {
			continue
		}
		if n.allows {
			return
		}
		selecting = append(selecting, n.name)
	}
	if len(selecting) > 0 {
		slices.Sort(selecting)
		a.found(policyDrops, object, "%s select it for egress, and none allows TCP %s", strings.Join(selecting, ", "), a.server)
	}
}

func (n NetworkPolicy) forEgress() bool {
	if len(n.Spec.PolicyTypes) == 0 {
		return len(n.Spec.Egress) > 0 // the default of the API server
	}
	return slices.Contains(n.Spec.PolicyTypes, "Egress")
}

// allows tells whether a rule lets TCP to the address of the node. A peer that selects
// Pods or namespaces does not: what answers there is no Pod.
func (n NetworkPolicy) allows(server netip.AddrPort) bool {
	address, port := server.Addr(), int(server.Port())
	for _, rule := range n.Spec.Egress {
		to := len(rule.To) == 0
		for _, peer := range rule.To {
			if b := peer.IPBlock; b != nil && contains(b.CIDR, address) && !slices.ContainsFunc(b.Except, func(cidr string) bool { return contains(cidr, address) }) {
				to = true
			}
		}
		by := len(rule.Ports) == 0
		for _, q := range rule.Ports {
			if q.Protocol != "" && q.Protocol != "TCP" {
				continue
			}
			var number int
			switch err := json.Unmarshal(q.Port, &number); {
			case len(q.Port) == 0: // every port
				by = true
			case err != nil: // a name, which is that of a container's port
			case number == port, number <= port && port <= q.EndPort:
				by = true
			}
		}
		if to && by {
			return true
		}
	}
	return false
}

func contains(cidr string, address netip.Addr) bool {
	prefix, err := netip.ParsePrefix(cidr)
	return err == nil && prefix.Contains(address)
}

func (p Pod) ended() bool { return p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" }

func (p Pod) account() string {
	return p.Metadata.Namespace + "/" + cmp.Or(p.Spec.ServiceAccountName, "default")
}

func (p Pod) containers() []container { return slices.Concat(p.Spec.InitContainers, p.Spec.Containers) }

// sidecarStartsFirst: since Kubernetes 1.29 a sidecar may be an init container that
// goes on, which is ready before the others start.
func (p Pod) sidecarStartsFirst() bool {
	return slices.ContainsFunc(p.Spec.InitContainers, func(c container) bool { return c.Name == "istio-proxy" })
}

// owner names what Pods have in common, so that a Deployment of a hundred is one finding.
func (p Pod) owner() string {
	if owners := p.Metadata.OwnerReferences; len(owners) > 0 {
		o, name := owners[0], owners[0].Name
		if hash := p.Metadata.Labels["pod-template-hash"]; o.Kind == "ReplicaSet" && hash != "" && strings.HasSuffix(name, "-"+hash) {
			return "Deployment " + p.Metadata.Namespace + "/" + strings.TrimSuffix(name, "-"+hash)
		}
		return o.Kind + " " + p.Metadata.Namespace + "/" + name
	}
	return "Pod " + p.Metadata.Namespace + "/" + p.Metadata.Name
}
