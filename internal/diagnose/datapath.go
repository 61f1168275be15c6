package diagnose

import "slices"

// Causes by which requests reach the wrong server.

const gkeAnswers = "GKE's metadata server answers, so requests still pass the node's rule."

// hostNetwork: GKE's rule is for packets that come from Pods (nat PREROUTING), so a
// hostNetwork Pod always reaches the VM's server.
func hostNetwork(f Facts) opinion {
	switch {
	case f.gkeAnswers():
		return rulesOut("GKE's metadata server answers, which a hostNetwork Pod never reaches.")
	case !f.isTheNode():
	case f.HostNetwork == No:
		return rulesOut("%s has an address of its own.", f.thePod())
	case f.HostNetwork == Yes && f.vmAnswers():
		return proves("%s has the address of its node, so it is hostNetwork, and the VM's metadata server answers it "+
			"as it should. This says nothing about other Pods.", f.thePod())
	case f.HostNetwork == Yes:
		return suggests("%s has the address of its node, so it is hostNetwork, and gets the node's identity.", f.thePod())
	default:
		return possible("It is this if %s has hostNetwork: true in its spec: such a Pod is the node.", f.pronoun())
	}
	return opinion{}
}

// nodePool: nodes whose pool is not in the mode GKE_METADATA lack the label and the
// server.
func nodePool(f Facts) opinion {
	value, labelled := f.NodeLabels[LabelMetadataServer]
	switch {
	case f.gkeAnswers():
		return rulesOut("GKE's metadata server answers, so the node has one.")
	case !f.podIsTheNode():
	case f.NodeLabels == nil && f.OnlyWithServer:
		return rulesOut("The DaemonSet keeps the agent on nodes with the label %s=true.", LabelMetadataServer)
	case f.NodeLabels == nil:
		return possible("It is this if the node lacks the label %s=true: its pool has no GKE metadata server then.",
			LabelMetadataServer)
	case value == "true":
		return rulesOut("The node has the label %s=true.", LabelMetadataServer)
	case f.poolWithoutServer():
		return proves("%s, and %s: the node has no GKE metadata server.", f.theVM(), label(value, labelled))
	default:
		return suggests("The identity is the node's, and %s.", label(value, labelled))
	}
	return opinion{}
}

func label(value string, ok bool) string {
	if !ok {
		return "the node lacks the label " + LabelMetadataServer + "=true"
	}
	return "the node's label " + LabelMetadataServer + " is " + quote(value)
}

// poolWithoutServer reports whether nothing in the cluster's network is needed to
// explain why the VM's server answers.
func (f Facts) poolWithoutServer() bool {
	return f.vmAnswers() && f.HostNetwork == No && f.NodeLabels != nil && f.NodeLabels[LabelMetadataServer] != "true"
}

// poolWithServer reports whether the node is known to have GKE's metadata server.
func (f Facts) poolWithServer() bool {
	if f.NodeLabels == nil {
		return f.OnlyWithServer
	}
	return f.NodeLabels[LabelMetadataServer] == "true"
}

// onlyDatapath reports whether all but the way from the Pod to GKE's server is known
// to be well, so that this is what makes the VM's server answer.
func (f Facts) onlyDatapath() bool {
	return f.vmAnswers() && f.HostNetwork == No && f.DataplaneV2 == No && f.poolWithServer()
}

const skipsRule = "it skips the node's rule for metadata requests."

// hostRouting proves something only where all else that makes the VM's server
// answer is known to be out, and the settings to be those that run. Settings that are
// right rule nothing out: what runs may have read others.
func hostRouting(f Facts) opinion {
	c := f.cilium()
	routing, quoted := c.hostRouting()
	replacement, _ := c.kubeProxyReplacement()
	switch {
	case f.onlyGKEAnswers() && routing == Yes:
		return rulesOut("%s But %s, which will end that when Cilium's agents restart.", gkeAnswers, quoted)
	case f.onlyGKEAnswers():
		return rulesOut(gkeAnswers)
	case !f.podIsTheNode():
	case routing == Yes && c.runs() == Yes && f.onlyDatapath():
		return proves("%s on a node that runs GKE's, and %s, which turns on eBPF host routing: %s Cilium's agent on "+
			"this node started after that was set.", f.theVM(), quoted, skipsRule)
	case routing == Yes:
		return suggests("The identity is the node's, and %s, which turns on eBPF host routing: %s%s",
			quoted, skipsRule, c.doubt())
	case routing == Unknown && c.State == Read:
		return suggests("The identity is the node's, and it cannot be excluded that the settings turn on eBPF host "+
			"routing: %s.%s", quoted, c.doubt())
	case routing == No && replacement == Yes && c.runs() != Yes && f.vmAnswers() && !f.poolWithoutServer():
		return suggests("The VM's metadata server answers although %s, with which Cilium does not route by eBPF. Its "+
			"agents read that only when they start: it may have been corrected, and they not restarted.%s",
			quoted, c.doubt())
	case f.unreadCilium():
		return possible("It is this if the status of Cilium's agent on this node says that host routing is BPF. %s",
			f.whyNoCilium())
	}
	return opinion{}
}

// unreadCilium reports whether there may be a Cilium of whose settings nothing is known.
func (f Facts) unreadCilium() bool {
	return f.DataplaneV2 != Yes && f.Cilium.State != Read && !f.poolWithoutServer()
}

// hostRoutingRisk: editing the ConfigMap does nothing until Cilium's agents
// restart. Then running Pods become the node within 5 seconds. Where it is not
// known that Google does not configure Cilium, nothing is foretold.
func hostRoutingRisk(f Facts) opinion {
	routing, quoted := f.cilium().hostRouting()
	switch {
	case f.vmAnswers():
		return threat(hostRouting(f))
	case routing == Yes && f.DataplaneV2 == No:
		return suggests("Pods still get the right identity, and %s, which turns on eBPF host routing when Cilium's "+
			"agents restart: %s", quoted, skipsRule)
	}
	return opinion{}
}

// noConntrack: rules of Cilium's in the raw table keep packets of Pods from connection
// tracking, and so from NAT, which the node's rule for metadata requests is. They do
// so under legacy routing, too, with which that rule would work (measured: Pods became
// the node while Cilium's agent started, and were themselves again without the rules).
func noConntrack(f Facts) opinion {
	c := f.cilium()
	on, quoted := c.noConntrack()
	routing, _ := c.hostRouting()
	switch {
	case f.onlyGKEAnswers():
		return rulesOut(gkeAnswers)
	case f.podIsTheNode() && f.unreadCilium():
		return possible("It is this if Cilium has rules with notrack in the raw table of the node.")
	case !f.podIsTheNode() || on != Yes || routing == Yes || f.poolWithoutServer():
	case routing == No && c.runs() == Yes && f.onlyDatapath():
		return proves("%s on a node that runs GKE's, and %s: by that packets of Pods are not tracked, and what is not "+
			"tracked passes no NAT, so %s Cilium's agent on this node started after that was set.", f.theVM(), quoted, skipsRule)
	default:
		o := suggests("The identity is the node's, and %s: by that packets of Pods are not tracked, and what is not "+
			"tracked passes no NAT, so %s%s", quoted, skipsRule, c.doubt())
		if routing == No && c.runs() == Unknown {
			return o.first() // what is set explains it; host routing would have to be left over from before
		}
		return o
	}
	return opinion{}
}

func noConntrackRisk(f Facts) opinion {
	c := f.cilium()
	on, quoted := c.noConntrack()
	routing, _ := c.hostRouting()
	switch {
	case f.vmAnswers():
		return threat(noConntrack(f))
	case on == Yes && routing != Yes && f.DataplaneV2 == No:
		return suggests("Pods still get the right identity, and %s: when Cilium's agents restart, packets of Pods are not "+
			"tracked, and what is not tracked passes no NAT, so %s", quoted, skipsRule)
	}
	return opinion{}
}

// localRedirect: while the backend of a policy is deleted or not ready, requests
// silently reach the VM's server. Whether there is a policy is not known, only
// whether Cilium would obey one. If the match of a moment ago hung on a policy alone,
// it is the first suspect.
func localRedirect(f Facts) opinion {
	on, quoted := f.cilium().flag(localRedirectPolicy, No)
	switch {
	case f.onlyGKEAnswers():
		return rulesOut(gkeAnswers)
	case f.podIsTheNode() && f.unreadCilium():
		return possible("It is this if there is a local redirect policy for 169.254.169.254 whose backend on the node is " +
			"not ready.")
	case !f.podIsTheNode() || f.poolWithoutServer():
	case on == Yes && slices.Contains(f.Threatened, LocalRedirectDormant):
		return suggests("The identity is the node's, and was right until a moment ago with the same settings: %s, and "+
			"a policy for the metadata server lets requests through to the VM's while its backend is not ready.",
			quoted).first()
	case on == Yes:
		return suggests("The identity is the node's, and %s: a policy for the metadata server lets requests through "+
			"to the VM's while its backend is not ready.", quoted)
	}
	return opinion{}
}

// localRedirectRisk: without eBPF host routing GKE's own rule is behind the policy.
func localRedirectRisk(f Facts) opinion {
	c := f.cilium()
	on, q1 := c.flag(localRedirectPolicy, No)
	routing, q2 := c.hostRouting()
	switch {
	case f.vmAnswers():
		return threat(localRedirect(f))
	case on == Yes && routing == Yes && f.DataplaneV2 == No:
		return suggests("Pods get the right identity, and %s while %s: if the node runs with eBPF host routing "+
			"already, only a local redirect policy keeps requests from the VM's metadata server, and none does "+
			"while the backend is not ready.", q1, q2)
	}
	return opinion{}
}

// redirectMissing: that the node's rule is there cannot be seen from a Pod. It is
// suspected where nothing is known by which requests would miss it.
func redirectMissing(f Facts) opinion {
	c := f.cilium()
	routing, _ := c.hostRouting()
	conntrack, _ := c.noConntrack()
	policies, _ := c.flag(localRedirectPolicy, No)
	switch {
	case f.onlyGKEAnswers():
		return rulesOut(gkeAnswers)
	case !f.podIsTheNode() || !f.vmAnswers() || f.poolWithoutServer() || f.DataplaneV2 == Yes:
	case f.onlyDatapath() && routing == No && conntrack == No && policies == No && c.runs() == Yes:
		return suggests("%s on a node that runs GKE's, and by its settings Cilium leaves the way to it alone: the "+
			"node's rule for metadata requests may be missing.", f.theVM())
	default:
		return possible("It is this if nat PREROUTING of the node has no rule for 169.254.169.254.")
	}
	return opinion{}
}
