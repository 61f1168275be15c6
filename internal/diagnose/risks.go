package diagnose

import "github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"

// What threatens a match, or makes it worth less than it seems.

// nodeIdentityExpected: nothing is wrong with the identity, but it comes from a
// server that knows no Pods.
func nodeIdentityExpected(f Facts) opinion {
	switch {
	case !f.vmAnswers():
		return opinion{}
	case f.mixed():
		return suggests("The VM's metadata server answered one request and GKE's another: %s.",
			quote(string(f.Verdict.Identity)))
	case f.Claims.Server != identity.ServerVM || f.Claims.Identity != f.Verdict.Identity:
		return suggests("The VM's metadata server answers, and the identity is the expected one: %s. Either that is the "+
			"node's, or another server gave it.", quote(string(f.Verdict.Identity)))
	}
	return proves("The VM's metadata server answers, and the expected identity is the node's: %s. Every Pod of the "+
		"node gets it, and a Pod that expects another gets the wrong one.", quote(string(f.Verdict.Identity)))
}

// pooledConnections: after the repair, connections that were kept alive stayed with
// the VM's server in 9 of 10 cases, and tokens live for an hour.
func pooledConnections(f Facts) opinion {
	if !f.Recovered {
		return opinion{}
	}
	return suggests("A wrong identity was handed out until a while ago. New connections are right, but those that " +
		"clients keep alive stayed with the wrong server in 9 of 10 measured cases, and clients hold tokens for up " +
		"to an hour.")
}

// ifVM makes the suspicion about the VM's server a risk, where it answers with an
// identity that is right by chance.
func ifVM(suspect func(Facts) opinion) func(Facts) opinion {
	return func(f Facts) opinion {
		if !f.vmAnswers() {
			return opinion{}
		}
		return threat(suspect(f))
	}
}

// threat is the opinion if there is evidence for the cause: nothing has gone wrong yet.
func threat(o opinion) opinion {
	if o.confidence == RulesOut || o.confidence == Possible {
		return opinion{}
	}
	return o
}
