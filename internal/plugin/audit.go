package plugin

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
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
	notAnnotated      = Check{"WI004", Info, "Pods ask for Google Cloud, and their ServiceAccount has no annotation", "Annotate it, unless its own principal has the rights."}
	hostNetwork       = Check{"WI101", Error, "the Pod is hostNetwork, so it gets the node's identity and not that of its annotated ServiceAccount", "Remove hostNetwork, or expect the node's identity."}
	credentialsFile   = Check{"WI102", Warning, "GOOGLE_APPLICATION_CREDENTIALS names a file, which goes before Workload Identity", "Remove the variable and the key, if Workload Identity is meant."}
	otherMetadata     = Check{"WI103", Warning, "a variable sends requests for metadata elsewhere", "Remove the variable."}
	proxied           = Check{"WI104", Warning, "HTTP_PROXY is set, and NO_PROXY has no exception for the metadata server", "Add 169.254.169.254 and metadata.google.internal to NO_PROXY."}
	policyDrops       = Check{"WI105", Error, "no network policy that selects the Pod lets it to the metadata server, or one denies it", "Allow egress to the address in one of them."}
	sidecarRace       = Check{"WI106", Info, "a sidecar of the mesh may not be ready when the Pod first asks for a token", "Set holdApplicationUntilProxyStarts, or exclude 169.254.169.254/32 from interception."}
	sandboxed         = Check{"WI107", Info, "the Pod runs in gVisor, whose way to the metadata server the agent does not watch", "Run check in the Pod itself."}
	onWindows         = Check{"WI108", Info, "the Pod runs on Windows, where no agent watches", "Ask the metadata server in the Pod itself."}
	mountedKey        = Check{"WI109", Warning, "a key from a Secret is mounted, which goes before Workload Identity", "Remove the variable and the Secret, and delete the key in IAM, if Workload Identity is meant."}
	noMetadataServer  = Check{"WI201", Error, "the node has no GKE metadata server, so its Pods get the node's identity", "Set the node pool to GKE_METADATA."}
	ciliumNotReady    = Check{"WI202", Info, "Cilium's agent is not ready on the node", "See why; its next start reads the settings as they are then."}

	hostRouting      = Check{"WI301", Error, "eBPF host routing bypasses the GKE metadata server, at the latest when Cilium's agents restart", "Set enable-host-legacy-routing to \"true\"."}
	noConntrack      = Check{"WI302", Error, "Cilium's no-conntrack rules bypass the GKE metadata server, at the latest when its agents restart", "Set install-no-conntrack-iptables-rules to \"false\"."}
	onlyRedirect     = Check{"WI303", Warning, "only a local redirect policy keeps Pods from the VM's metadata server", "Set enable-host-legacy-routing to \"true\"."}
	linkLocal        = Check{"WI304", Warning, "requests to the metadata server may be masqueraded", "Set masqLinkLocal to false, and add 169.254.0.0/16 to nonMasqueradeCIDRs."}
	perNode          = Check{"WI305", Info, "a CiliumNodeConfig decides for some nodes which metadata server answers", "See whether the nodes are meant to differ."}
	redirectNotReady = Check{"WI306", Error, "the backend of a local redirect policy is not ready, so Pods of the node get the node's identity", "Bring the backend back."}
	redirectAddress  = Check{"WI307", Error, "the backend of a local redirect policy listens on an address to which nothing is redirected", "Remove the policy, and set enable-host-legacy-routing to \"true\"."}
	gateway          = Check{"WI308", Warning, "an egress gateway policy takes requests to the metadata server to another node", "Add 169.254.0.0/16 to its excludedCIDRs."}
)

// Checks are all that an audit looks for, by their codes.
func Checks() []Check {
	return []Check{
		annotationInvalid, keyMisspelt, shared, notAnnotated,
		hostNetwork, credentialsFile, otherMetadata, proxied, policyDrops, sidecarRace, sandboxed, onWindows, mountedKey,
		noMetadataServer, ciliumNotReady,
		hostRouting, noConntrack, onlyRedirect, linkLocal, perNode, redirectNotReady, redirectAddress, gateway,
		accountMissing, accountDisabled, notBound, otherPool, conditional, denied, powerfulNode,
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
	// Link is a page about it.
	Link string `json:"link"`
}

// Link is what the documentation says about the check.
func (c Check) Link() string {
	return strings.Replace(diagnose.Runbooks, "alerts/runbooks/", "docs/kubectl.md", 1) + "#" + strings.ToLower(c.Code)
}

// Audit looks for all Checks. The worst come first.
func Audit(i Inventory) []Finding {
	a := audit{inventory: i, emails: i.emails(), datapath: i.datapath(), findings: map[Finding]bool{}, drops: map[dropped]string{}}
	a.accounts()
	nodes := map[string]Node{}
	for _, n := range i.Nodes {
		nodes[n.Metadata.Name] = n
	}
	a.compile()
	a.cilium()
	for _, p := range i.Pods {
		if !p.ended() {
			a.pod(p, nodes)
		}
	}
	return a.sorted()
}

// sorted are the findings, the worst first.
func (a *audit) sorted() []Finding {
	found := make([]Finding, 0, len(a.findings))
	for f := range a.findings {
		found = append(found, f)
	}
	SortFindings(found)
	return found
}

// SortFindings sorts the worst first.
func SortFindings(found []Finding) {
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(Severities(), a.Severity), slices.Index(Severities(), b.Severity)),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Evidence, b.Evidence))
	})
}

type audit struct {
	inventory Inventory
	// emails are the Google service accounts, by ServiceAccount.
	emails   map[string]string
	datapath datapath
	findings map[Finding]bool
	// egress are the policies for egress of each namespace, those of the empty one are for
	// all, and servers what they may see of a request to the metadata server.
	egress  map[string][]egressPolicy
	servers []destination
	// drops are the answers about policies, by what they are about.
	drops map[dropped]string
}

// dropped is what the answer of policies hangs on.
type dropped struct{ shape, account string }

func (a *audit) found(c Check, object, evidence string, args ...any) {
	a.add(Finding{c.Code, c.Severity, object, c.What, fmt.Sprintf(evidence, args...), c.Do, c.Link()})
}

func (a *audit) add(f Finding) {
	f.Object, f.Evidence = shown(f.Object), foreign.Text(f.Evidence, 2*longest)
	a.findings[f] = true
}

// accounts looks at the ServiceAccounts that Pods use.
func (a *audit) accounts() {
	used, project := map[string]bool{}, map[string]string{}
	for _, p := range a.inventory.Pods {
		account := p.account()
		used[account] = true
		for _, c := range p.containers() {
			for _, e := range c.Env {
				if slices.Contains(projects, e.Name) {
					project[account] = c.Name + " has " + e.Name
				}
			}
		}
		if audience := p.googleToken(); audience != "" {
			project[account] = fmt.Sprintf("a volume is a token for %q", audience)
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
	if a.emails[p.account()] == "" {
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
	a.policies(object, p)
}

func (a *audit) environment(object string, p Pod) {
	for _, c := range p.containers() {
		proxy, except := "", ""
		for _, e := range c.Env {
			switch strings.ToUpper(e.Name) {
			case credentials:
				if secret := p.secretOf(c, e.Value); secret != "" {
					a.found(mountedKey, object, "container %s: %q is from the Secret %s", c.Name, e.Value, secret)
				} else {
					a.found(credentialsFile, object, "container %s: %q", c.Name, e.Value)
				}
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

func (n NetworkPolicy) forEgress() bool {
	if len(n.Spec.PolicyTypes) == 0 {
		return len(n.Spec.Egress) > 0 // the default of the API server
	}
	return slices.Contains(n.Spec.PolicyTypes, "Egress")
}

func contains(cidr string, address netip.Addr) bool {
	prefix, err := netip.ParsePrefix(cidr)
	return err == nil && prefix.Contains(address)
}

func (p Pod) ended() bool { return p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" }

func (p Pod) account() string {
	return p.Metadata.Namespace + "/" + cmp.Or(p.Spec.ServiceAccountName, "default")
}

// googleToken is the audience of a projected token that STS takes, empty if there is none.
func (p Pod) googleToken() string {
	for _, v := range p.Spec.Volumes {
		if a := v.audience(); a != "" {
			return a
		}
	}
	return ""
}

// secretOf is the Secret that the file is from, empty if it is from something else.
func (p Pod) secretOf(c container, file string) string {
	for _, m := range c.Mounts {
		for _, v := range p.Spec.Volumes {
			if v.Name == m.Name && v.Secret != nil && strings.HasPrefix(file+"/", strings.TrimSuffix(m.Path, "/")+"/") {
				return v.Secret.Name
			}
		}
	}
	return ""
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
