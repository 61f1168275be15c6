package diagnose

import (
	"slices"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Gap is a fact that is not known and would have told more.
type Gap struct {
	// Fact says what is not known, and why if that is known.
	Fact   string
	Remedy Remedy
}

// missing lists the gaps that matter for the verdict.
func missing(f Facts) []Gap {
	switch {
	case f.Environment.MetadataHost != "":
		return nil // nothing else matters
	case f.Gate && f.in(identity.Match):
		return nil
	case f.Gate: // it has no permissions, and wants none
		return []Gap{{"The settings of the node and of the cluster are not known here.", Remedy{
			"The agent on the node may know them: ask it, where one runs.",
			[]string{f.askAgent()},
		}}}
	}
	var gaps []Gap
	gap := func(fact, text string, commands ...string) { gaps = append(gaps, Gap{fact, Remedy{text, commands}}) }
	match, c := f.in(identity.Match), f.cilium()

	if f.isTheNode() && f.HostNetwork == Unknown {
		gap("It is not known whether the agent's Pod is hostNetwork.",
			"Give the agent the address of its Pod and of its node from the downward API (status.podIP, status.hostIP).")
	}
	if f.podIsTheNode() && f.NodeLabels == nil && !f.OnlyWithServer {
		gaps = append(gaps, f.unread(ObjectNode,
			"The labels of the node are not known, which tell whether it runs GKE's metadata server.",
			"Allow the agent to read its Node.", f.grantNodes()...))
	}
	if f.podIsTheNode() && f.DataplaneV2 == Yes {
		gap("The node runs Dataplane V2, whose settings are Google's and were not judged.",
			"If nothing else explains it, change nothing there, and open a support case.")
	}
	if f.DataplaneV2 != Yes {
		if f.podIsTheNode() || match || f.in(identity.Unavailable) {
			gaps = append(gaps, f.unreadConfigMap("cilium-config", f.Cilium)...)
		}
		if f.Cilium.State == Absent && (f.podIsTheNode() || f.RunsCilium != "") {
			gap(f.whyNoCilium(), "If Cilium runs in another namespace, set WI_CILIUM_NAMESPACE to it, and allow the agent "+
				"to read cilium-config there.", append([]string{"kubectl get configmaps -A --field-selector metadata.name=cilium-config"},
				f.grant("CILIUM_NAMESPACE", "cilium-config", "get", "--resource=configmaps --resource-name=cilium-config")...)...)
		}
		routing, _ := c.hostRouting()
		conntrack, _ := c.noConntrack()
		decides := f.podIsTheNode() || match && (routing != No || conntrack == Yes)
		if decides && f.DataplaneV2 == Unknown && c.State == Read {
			gaps = append(gaps, f.unread(ObjectAnetd,
				"It is not known whether the node runs Dataplane V2, for which cilium-config means something else.",
				"Allow the agent to read the DaemonSet anetd.",
				f.grant("kube-system", "anetd", "get", "--resource=daemonsets.apps --resource-name=anetd")...))
		}
		if decides && c.State == Read {
			gaps = append(gaps, f.unreadOfNode(c)...)
		}
	}
	if f.podUnrecognised() || match {
		gaps = append(gaps, f.unreadConfigMap("ip-masq-agent", f.IPMasqAgent)...)
	}
	if f.Annotations == nil && (f.in(identity.UnknownExpectation) || f.Verdict.State.Accuses() && !f.vmAnswers()) {
		gaps = append(gaps, f.unread(ObjectServiceAccount, "The annotations of the agent's Kubernetes ServiceAccount are not known.",
			"Allow the agent to read it.",
			f.grantNamed(f.namespace(), "workload-identity-exporter", "get", "--resource=serviceaccounts --resource-name="+f.serviceAccount())...))
	}
	return gaps
}

// unreadOfNode are the gaps in what tells how Cilium's settings differ on this node,
// and whether they are in effect.
func (f Facts) unreadOfNode(c ciliumSettings) []Gap {
	var gaps []Gap
	namespace := arg(c.namespace(), "CILIUM_NAMESPACE")
	switch {
	case f.NodeConfigs.State == Forbidden || f.NodeConfigs.State == NotRead:
		gaps = append(gaps, f.unread(ObjectNodeConfigs, "Whether CiliumNodeConfigs change the settings for this node is not known.",
			"Allow the agent to list them.", f.grant(namespace, "cilium-node-configs", "list", "--resource=ciliumnodeconfigs.cilium.io")...))
	case !c.complete:
		gaps = append(gaps, f.unread(ObjectNode, "There are CiliumNodeConfigs, and whether they select this node is not known.",
			"Allow the agent to read the labels of its Node.", f.grantNodes()...))
	}
	if f.CiliumAgent.State != Read && f.podIsTheNode() {
		gaps = append(gaps, f.unread(ObjectCiliumPod, "When Cilium's agent on this node started is not known, and so whether it has read the settings.",
			"Allow the agent to list the Pods of Cilium's namespace.", f.grant(namespace, "cilium-pods", "list", "--resource=pods")...))
	}
	return gaps
}

// again is what becomes of what was not answered for.
const again = "The agent reads it again by itself, soon after a bad verdict."

// unread is the gap because the object was not read: it may not be, or there was no answer.
func (f Facts) unread(o Object, fact, allow string, commands ...string) Gap {
	const noAnswer = "The API server gave no answer in time. " + again
	switch {
	case !slices.Contains(f.Unanswered, o):
		return Gap{fact, Remedy{allow, commands}}
	case o == ObjectServiceAccount: // it is read often, so this is no mishap
		return Gap{fact, Remedy{
			noAnswer + " If that lasts, a NetworkPolicy may not let the agent to the API server: allow it egress to these addresses, " +
				"and with Cilium to the entities kube-apiserver, host and remote-node, since an ipBlock means no node there.",
			[]string{
				"kubectl get endpointslices -n default -l kubernetes.io/service-name=kubernetes",
				"kubectl -n " + f.namespace() + " get networkpolicies -o yaml",
			},
		}}
	}
	return Gap{fact, Remedy{noAnswer, nil}}
}

func (f Facts) unreadConfigMap(name string, c ConfigMap) []Gap {
	switch c.State {
	case Forbidden:
		return []Gap{{"The ConfigMap " + name + " may not be read.", Remedy{
			"Allow the agent to read it by its name. " + again,
			f.grant(arg(c.namespace(), "NAMESPACE"), name, "get", "--resource=configmaps --resource-name="+name),
		}}}
	case NotRead:
		return []Gap{{"The ConfigMap " + name + " was not read yet.", Remedy{again, nil}}}
	case Absent, Read:
	}
	return nil
}

// whyNoCilium says where Cilium's settings were not found.
func (f Facts) whyNoCilium() string {
	if f.Cilium.State != Absent {
		return "Its settings were not read."
	}
	says := "There is no ConfigMap cilium-config in the namespace " + quote(f.Cilium.namespace())
	if f.RunsCilium != "" {
		says += ", and Cilium runs on the node: " + quote(f.RunsCilium)
	}
	return says + "."
}

// grant are the commands that allow the agent's own ServiceAccount something.
func (f Facts) grant(namespace, suffix, verb, what string) []string {
	return f.grantNamed(namespace, "workload-identity-exporter-"+suffix, verb, what)
}

func (f Facts) grantNamed(namespace, name, verb, what string) []string {
	return []string{
		"kubectl -n " + namespace + " create role " + name + " --verb=" + verb + " " + what,
		"kubectl -n " + namespace + " create rolebinding " + name + " --role=" + name + f.account(),
	}
}

func (f Facts) grantNodes() []string {
	return []string{
		"kubectl create clusterrole workload-identity-exporter-node-labels --verb=get --resource=nodes",
		"kubectl create clusterrolebinding workload-identity-exporter-node-labels " +
			"--clusterrole=workload-identity-exporter-node-labels" + f.account(),
	}
}

func (f Facts) account() string {
	return " --serviceaccount=" + f.namespace() + ":" + f.serviceAccount()
}
