package diagnose

import (
	"fmt"
	"slices"
	"strings"

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
}

// Settings are those of the cluster, as they were read from its API server.
type Settings struct {
	// Cilium is the ConfigMap cilium-config in the namespace of Cilium.
	Cilium ConfigMap
	// IPMasqAgent is the ConfigMap ip-masq-agent in kube-system or in that namespace.
	IPMasqAgent ConfigMap
	// DataplaneV2: the DaemonSet anetd runs, so that Google configures Cilium.
	DataplaneV2 Tristate
	// NodeLabels are those of the node, nil if they are not known.
	NodeLabels map[string]string
	// Annotations are those of the agent's Kubernetes ServiceAccount, nil if they are
	// not known.
	Annotations map[string]string
}

// Process is what the agent knows of itself from its start on.
type Process struct {
	// HostNetwork: the agent's Pod is in the node's network.
	HostNetwork Tristate
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
	State ConfigMapState
	// Namespace is where it was looked for, kube-system if empty.
	Namespace string
	Data      map[string]string
}

// ConfigMapState is what became of the attempt to read a ConfigMap.
type ConfigMapState int8

// The states of a ConfigMap.
const (
	// NotRead: not yet, or the API server did not answer.
	NotRead ConfigMapState = iota
	// Forbidden: no Role allows it.
	Forbidden
	// Absent: there is none.
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
		identity.Match:
		return true
	case identity.UnknownExpectation, identity.Stale, identity.Starting:
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
// answers to the client is not documented.
func (f Facts) podUnrecognised() bool {
	if f.in(identity.NodeFallback, identity.Mismatch) {
		return f.gkeAnswers()
	}
	endpoint, failure := f.failure()
	return f.gkeAnswers() && endpoint == identity.EndpointEmail && failure.Reason == identity.ServerError
}

// failure is the failed request that the verdict rests on, if the last probe had
// it too; nil otherwise.
func (f Facts) failure() (identity.Endpoint, *identity.Failure) {
	email, token := f.Observation.Email, f.Observation.Token
	switch {
	case f.in(identity.Unavailable) && email.Live() && email.Failure != nil:
		return identity.EndpointEmail, email.Failure
	case f.in(identity.Unavailable, identity.TokenDenied) && token.Live() && token.Failure != nil:
		return identity.EndpointToken, token.Failure
	}
	return "", nil
}

// annotated is the service account that the annotation names.
func (f Facts) annotated() string {
	return strings.ToLower(strings.TrimSpace(f.Annotations[identity.AnnotationServiceAccount]))
}

// quote shows a value from outside, as much of it as an email may have.
func quote(s string) string { return fmt.Sprintf("%q", foreign.Text(s, 128)) }
