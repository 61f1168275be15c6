package diagnose

import "github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"

// Causes by which requests reach the right server from the wrong address.

const vmIgnoresAddress = "The VM's metadata server answers, which gives the node's identity to every source " +
	"address: masqLinkLocal changes nothing about that."

// ciliumLinkLocal is a suspicion at most: whatever was set, GKE's server saw the
// Pod's address if it was asked at all.
func ciliumLinkLocal(f Facts) opinion {
	masquerade, q1 := f.cilium().flag("enable-bpf-masquerade", No)
	agent, q2 := f.cilium().flag("enable-ip-masq-agent", No)
	switch {
	case f.onlyVMAnswers():
		return rulesOut(vmIgnoresAddress)
	case !f.podUnrecognised() || masquerade != Yes || agent != Yes:
		return opinion{}
	}
	if linkLocal, quoted := f.masqueradesLinkLocal(); linkLocal {
		return suggests("GKE's metadata server does not recognise the Pod by its address, and %s; %s and %s. Cilium "+
			"was never measured to hide it, so look further if the remedy does not help.", quoted, q1, q2)
	}
	return opinion{}
}

// agentLinkLocal is a suspicion at most: iptables translates source addresses in
// nat POSTROUTING, which packets to GKE's server on the node do not pass. Where Cilium
// reads the ConfigMap, the ip-masq-agent does not run.
func agentLinkLocal(f Facts) opinion {
	agent, _ := f.cilium().flag("enable-ip-masq-agent", No)
	switch {
	case f.onlyVMAnswers():
		return rulesOut(vmIgnoresAddress)
	case !f.podUnrecognised() || agent == Yes:
		return opinion{}
	}
	if linkLocal, quoted := f.masqueradesLinkLocal(); linkLocal {
		return suggests("GKE's metadata server does not recognise the Pod by its address, and %s. That is a known "+
			"report; which path of the node it takes is not.", quoted)
	}
	return opinion{}
}

// ciliumLinkLocalRisk and the next one are weak: ip-masq-agent acts without a
// restart, so that a good verdict speaks against them. But a change of the path to
// the server could expose the setting.
func ciliumLinkLocalRisk(f Facts) opinion {
	masquerade, _ := f.cilium().flag("enable-bpf-masquerade", No)
	agent, _ := f.cilium().flag("enable-ip-masq-agent", No)
	return linkLocalRisk(f, agent == Yes && masquerade == Yes)
}

func agentLinkLocalRisk(f Facts) opinion {
	agent, _ := f.cilium().flag("enable-ip-masq-agent", No)
	return linkLocalRisk(f, agent != Yes)
}

func linkLocalRisk(f Facts, obeyed bool) opinion {
	if !obeyed {
		return opinion{}
	}
	linkLocal, quoted := f.masqueradesLinkLocal()
	if !linkLocal {
		return opinion{}
	}
	return suggests("Pods get the right identity now, but by the settings requests to the metadata server may leave "+
		"with the node's address, by which GKE's server cannot tell the Pod: %s.", quoted)
}

// sourceNAT: GKE's server tells Pods by their source address. It is left to the causes
// that are told from settings, where one of them is suspected.
func sourceNAT(f Facts) opinion {
	_, failure := f.failure()
	switch {
	case f.onlyVMAnswers():
		return rulesOut("The VM's metadata server answers, which gives the node's identity to every source address.")
	case f.passed() != "" && f.gkeAnswers() && f.in(identity.Unbound, identity.Mismatch, identity.NodeFallback):
		return suggests("The answer with the identity has passed a proxy, as it has %s. GKE's metadata server tells Pods by "+
			"their source address, and takes a proxy that asks in its own name for the Pod.", f.passed()).first()
	case !f.podUnrecognised() || ciliumLinkLocal(f).confidence == Suggests || agentLinkLocal(f).confidence == Suggests:
	case failure != nil && failure.Reason == identity.PodUnknown:
		return suggests("The metadata server says that it does not know the Pod that asks (%s). It tells Pods by their "+
			"source address, so something may hide that.", quote(failure.Error()))
	case f.in(identity.Unavailable):
		return suggests("GKE's metadata server answers what it knows without a Pod, and fails when it is asked who " +
			"the Pod is: something may hide the Pod's address from it.")
	default:
		return suggests("GKE's metadata server answers, and takes the Pod for %s. It tells Pods by their source "+
			"address, so something may hide that.", quote(string(f.Verdict.Identity)))
	}
	return opinion{}
}
