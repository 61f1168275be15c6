package diagnose

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Facts are what is known at one moment, by who knows it: each owner fills in one
// value. They are embedded, so that a rule reads as if the facts were one. The zero
// value of each field means that it is not known, which is never taken for a no.
type Facts struct {
	Loop
	Settings
	Process
	// Claims are those of an identity token that came with this verdict, as the
	// metadata server signed it.
	Claims identity.Claims
}

// Loop is what the loop has found out.
type Loop struct {
	// Verdict is what is stated. State, identity and server are taken from it.
	Verdict identity.Verdict
	// Observation is that of the last probe, which may be younger than the verdict.
	// Only live answers are taken from it, and reasons of failures that fit the state.
	Observation identity.Observation
	Expectation identity.Expectation
	// Replaced is what was expected until an annotation was changed a while ago.
	Replaced identity.Expectation
	// OldSettings: the settings were read before the verdict was stated, so that they
	// may have changed with it.
	OldSettings bool
	// Recovered: a wrong identity was stated and has ended, not longer ago than
	// connections and tokens of that time may live on.
	Recovered bool
	// Threatened are the risks of the last match, if it was right before the verdict.
	Threatened []Cause
}

// Settings are those of the cluster, as they were read from its API server.
type Settings struct {
	// Cilium is the ConfigMap cilium-config in the namespace of Cilium.
	Cilium ConfigMap
	// NodeConfigs are the objects that change it for single nodes.
	NodeConfigs NodeConfigs
	// CiliumAgent is the one on this node.
	CiliumAgent CiliumAgent
	// IPMasqAgent is the ConfigMap ip-masq-agent in kube-system or in that namespace.
	IPMasqAgent ConfigMap
	// DataplaneV2: the DaemonSet anetd runs, so that Google configures Cilium.
	DataplaneV2 Tristate
	// NodeLabels are those of the node, nil if they are not known.
	NodeLabels map[string]string
	// RunsCilium is what of the Node says that Cilium runs on it, empty if nothing does.
	RunsCilium string
	// Annotations are those of the agent's Kubernetes ServiceAccount, nil if they are
	// not known.
	Annotations map[string]string
	// Unanswered are the objects that may be read, as far as is known, and of which
	// the API server gave no answer in time: no Role is missing.
	Unanswered []Object
}

// Scope is how much of the settings is read.
type Scope int8

// The scopes.
const (
	// Everything: all that can explain a verdict.
	Everything Scope = iota
	// Routine is what may bring risks: without what a bad verdict alone needs, or what
	// does not change while the Pod lives.
	Routine
	// Refresh: the settings of Cilium alone, on which what is shown may rest.
	Refresh
)

// Object is one that is read beside the ConfigMaps.
type Object string

// The objects.
const (
	ObjectAnetd          Object = "anetd"
	ObjectNode           Object = "node"
	ObjectServiceAccount Object = "serviceaccount"
	ObjectNodeConfigs    Object = "ciliumnodeconfigs"
	ObjectCiliumPod      Object = "ciliumpod"
)

// NodeConfigs are the CiliumNodeConfigs in the namespace of Cilium.
type NodeConfigs struct {
	State ReadState
	// Items are those that select the node or may do so, by name.
	Items []NodeConfig
}

// NodeConfig is a CiliumNodeConfig: on the nodes that it selects, its values win over
// those of cilium-config.
type NodeConfig struct {
	Name string
	// Selects is Unknown where the labels of the node are.
	Selects  Tristate
	Defaults map[string]string
	// Changed is when it was changed last, zero if not known.
	Changed time.Time
}

// CiliumAgent is the Pod of Cilium on this node.
type CiliumAgent struct {
	State ReadState
	// Started is when it was started: it reads its settings then, and not again.
	Started time.Time
	// Version is the tag of its image, or that of its DaemonSet; empty if not known.
	Version string
}

// Process is what the agent knows of itself from its start on.
type Process struct {
	// HostNetwork: the agent's Pod is in the node's network.
	HostNetwork Tristate
	// OnlyWithServer: the DaemonSet's nodeSelector keeps it on nodes with the label of
	// GKE's metadata server.
	OnlyWithServer bool
	// Gate: it is no agent, and asks for the Pod of a workload that it runs in, about
	// which somebody has said on the command line what is right.
	Gate        bool
	Environment Environment
	Self        Self
}

// Tristate is a yes or no that may not be known.
type Tristate int8

// The three states.
const (
	Unknown Tristate = iota
	No
	Yes
)

// is turns what is known for certain into a Tristate.
func is(b bool) Tristate {
	if b {
		return Yes
	}
	return No
}

// ConfigMap is one ConfigMap.
type ConfigMap struct {
	State ReadState
	// Namespace is where it was looked for, kube-system if empty.
	Namespace string
	Data      map[string]string
	// Changed is when a value of it was changed last, zero if not known.
	Changed time.Time
}

// ReadState is what became of the attempt to read something.
type ReadState int8

// The states.
const (
	// NotRead: not yet, or the API server did not answer.
	NotRead ReadState = iota
	// Forbidden: no Role allows it.
	Forbidden
	// Absent: there is none, where it was looked for.
	Absent
	// Read: Data is what it holds.
	Read
)

// Environment is what the agent's own variables say.
type Environment struct {
	// MetadataHost is what is probed instead of 169.254.169.254, else empty.
	MetadataHost string
	// Variables are the names of variables that are set. Their values are not
	// wanted: the address of a proxy may hold a password.
	Variables []string
}

// Self is where the agent runs. It fills in commands and is no evidence.
type Self struct {
	Namespace      string
	ServiceAccount string
	Node           string
	Pod            string
	Project        string
}

// LabelMetadataServer marks the nodes that run GKE's metadata server
// (GKE documentation, "Use Workload Identity Federation for GKE").
const LabelMetadataServer = "iam.gke.io/gke-metadata-server-enabled"

// labelNodePool names the node pool.
const labelNodePool = "cloud.google.com/gke-nodepool"

// judged reports whether there is a verdict that can be explained.
func (f Facts) judged() bool {
	switch f.Verdict.State {
	case identity.NodeFallback, identity.Mismatch, identity.Unbound, identity.TokenDenied, identity.Unavailable,
		identity.UnknownExpectation, identity.Match:
		return true
	case identity.Stale, identity.Starting:
	}
	return false
}

func (f Facts) in(states ...identity.State) bool {
	return slices.Contains(states, f.Verdict.State)
}

// vmAnswers goes by the machine type. Where that could not be asked, an identity
// token which names a VM says the same.
func (f Facts) vmAnswers() bool {
	return f.Verdict.Server == identity.ServerVM ||
		f.Verdict.Server == identity.ServerUnknown && f.Claims.Server == identity.ServerVM
}

func (f Facts) gkeAnswers() bool { return f.Verdict.Server == identity.ServerGKE }

// onlyGKEAnswers and onlyVMAnswers: and no witness says that the other one does, too.
func (f Facts) onlyGKEAnswers() bool { return f.gkeAnswers() && !f.mixed() }
func (f Facts) onlyVMAnswers() bool  { return f.vmAnswers() && !f.mixed() }

// theVM is who answers, by name if it has told it.
func (f Facts) theVM() string {
	if f.Claims.Machine == "" {
		return "The VM's metadata server answers"
	}
	return "The metadata server of the VM " + quote(f.Claims.Machine) + " answers"
}

// isTheNode reports whether the VM's server answered the agent, or may have.
func (f Facts) isTheNode() bool {
	return f.vmAnswers() || (f.in(identity.NodeFallback) && !f.gkeAnswers())
}

// podIsTheNode is the same, unless it is explained by the agent's own hostNetwork,
// which makes its answers say nothing about how Pods are routed.
func (f Facts) podIsTheNode() bool { return f.isTheNode() && f.HostNetwork != Yes }

// mixed reports whether the evidence is that of two servers, or of an outage
// beside it: too little to prove anything about the one that answers.
func (f Facts) mixed() bool {
	if f.vmAnswers() && f.Claims.Server == identity.ServerGKE ||
		f.gkeAnswers() && f.Claims.Server == identity.ServerVM {
		return true
	}
	kind := f.Verdict.Identity.Kind()
	return f.vmAnswers() && (f.in(identity.Unavailable, identity.TokenDenied) ||
		kind == identity.WorkloadPool || kind == identity.Principal)
}

// podUnrecognised reports whether GKE's server seems not to recognise the Pod by its
// address: it takes it for the node or for another one, or fails when asked about
// the Pod and not when asked about itself (gcpdiag rule gke/ERR/2023_011). What it
// answers to the client is not documented. A server that says so is believed, whoever
// it is.
func (f Facts) podUnrecognised() bool {
	if f.in(identity.NodeFallback, identity.Mismatch) {
		return f.gkeAnswers()
	}
	endpoint, failure := f.failure()
	if failure != nil && failure.Reason == identity.PodUnknown {
		return !f.vmAnswers()
	}
	// The verdict may rest on an earlier probe of the same change, in the midst of which the
	// server failed. It has to have answered beside the failure.
	return f.Observation.Server.Server == identity.ServerGKE && f.gkeAnswers() &&
		endpoint == identity.EndpointEmail && failure.Reason == identity.ServerError && f.Observation.Email.Proxy == ""
}

// failure is the failed request that the verdict rests on, if the last probe had it too,
// or did not ask since there are too many requests for tokens; nil otherwise.
func (f Facts) failure() (identity.Endpoint, *identity.Failure) {
	email, token := f.Observation.Email, f.Observation.Token
	switch {
	case f.in(identity.Unavailable) && email.Live() && email.Failure != nil:
		return identity.EndpointEmail, email.Failure
	case f.in(identity.Unavailable, identity.TokenDenied) && token.Failure != nil && (token.Live() || token.Failure.Reason == identity.Throttled):
		return identity.EndpointToken, token.Failure
	}
	return "", nil
}

// annotated is the service account that the annotation names.
func (f Facts) annotated() string {
	return strings.ToLower(strings.TrimSpace(f.Annotations[identity.AnnotationServiceAccount]))
}

// thePod and pronoun are who asks, at the beginning of a sentence and in it.
func (f Facts) thePod() string {
	if f.Gate {
		return "This Pod"
	}
	return "The agent's Pod"
}

func (f Facts) pronoun() string { return strings.ToLower(f.thePod()[:1]) + f.thePod()[1:] }

// configuredBy is where somebody has said what is right.
func (f Facts) configuredBy() string {
	if f.Gate {
		return "-expect"
	}
	return "WI_EXPECTED_EMAILS"
}

// quote shows a value from outside, as much of it as an email may have.
func quote(s string) string {
	const most = 128
	for limit := most; ; limit -= 8 {
		// Quotation marks in it are escaped, which makes it up to twice as long.
		if quoted := strconv.Quote(foreign.Text(s, limit)); len(quoted) <= most+2 {
			return quoted
		}
	}
}
