package diagnose

import "github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"

// Gap is a fact that is not known and would have told more.
type Gap struct {
	// Fact says what is not known, and why if that is known.
	Fact   string
	Remedy Remedy
}

// missing lists the gaps that matter for the verdict.
func missing(f Facts) []Gap {
	var gaps []Gap
	gap := func(matters bool, fact, text string, commands ...string) {
		if matters {
			gaps = append(gaps, Gap{fact, Remedy{text, commands}})
		}
	}
	// Grants, for the agent's own ServiceAccount.
	account := " --serviceaccount=" + f.namespace() + ":" + f.serviceAccount()
	role := func(namespace, name, what string) []string {
		return []string{
			"kubectl -n " + namespace + " create role " + name + " --verb=get " + what,
			"kubectl -n " + namespace + " create rolebinding " + name + " --role=" + name + account,
		}
	}
	config := func(matters bool, name string, c ConfigMap) {
		const retry = "The agent reads it again by itself, soon after a bad verdict."
		switch c.State {
		case Forbidden:
			gap(matters, "The ConfigMap "+name+" may not be read.", "Allow the agent to read it by its name. "+retry,
				role(arg(c.namespace(), "NAMESPACE"), "workload-identity-exporter-"+name,
					"--resource=configmaps --resource-name="+name)...)
		case NotRead:
			gap(matters, "The ConfigMap "+name+" was not read yet.", retry)
		case Absent, Read:
		}
	}

	if f.Environment.MetadataHost != "" {
		return nil // nothing else matters
	}
	match := f.in(identity.Match)
	outage := f.in(identity.Unavailable)
	asked := f.in(identity.UnknownExpectation) || (f.Verdict.State.Accuses() && !f.vmAnswers())

	gap(f.isTheNode() && f.HostNetwork == Unknown, "It is not known whether the agent's Pod is hostNetwork.",
		"Give the agent the address of its Pod and of its node from the downward API (status.podIP, status.hostIP).")
	gap(f.podIsTheNode() && f.NodeLabels == nil,
		"The labels of the node are not known, which tell whether it runs GKE's metadata server.",
		"Allow the agent to read its Node.",
		"kubectl create clusterrole workload-identity-exporter-node --verb=get --resource=nodes",
		"kubectl create clusterrolebinding workload-identity-exporter-node "+
			"--clusterrole=workload-identity-exporter-node"+account)
	gap(f.podIsTheNode() && f.DataplaneV2 == Yes,
		"The node runs Dataplane V2, whose settings are Google's and say nothing here.",
		"If nothing else explains it, change nothing there, and open a support case.")
	if f.DataplaneV2 != Yes {
		config(f.podIsTheNode() || match || outage, "cilium-config", f.Cilium)
		gap((f.podIsTheNode() || match) && f.DataplaneV2 == Unknown && f.Cilium.State == Read,
			"It is not known whether the node runs Dataplane V2, for which cilium-config means something else.",
			"Allow the agent to read the DaemonSet anetd.",
			role("kube-system", "workload-identity-exporter-anetd",
				"--resource=daemonsets.apps --resource-name=anetd")...)
	}
	config(f.podUnrecognised() || match, "ip-masq-agent", f.IPMasqAgent)
	gap(asked && f.Annotations == nil, "The annotations of the agent's Kubernetes ServiceAccount are not known.",
		"Allow the agent to read it.",
		role(f.namespace(), "workload-identity-exporter",
			"--resource=serviceaccounts --resource-name="+f.serviceAccount())...)
	return gaps
}
