package simulator

import (
	"fmt"
	"net/netip"
)

// Pod is the caller of a request, as the GKE metadata server sees it: the
// ServiceAccount it runs as, and what the annotations of that say.
type Pod struct {
	// Namespace and ServiceAccount name the Kubernetes ServiceAccount.
	Namespace, ServiceAccount string
	// GSA is the annotation iam.gke.io/gcp-service-account; empty means that
	// the KSA is not linked to a Google service account.
	GSA string
	// ReturnPrincipal is the annotation
	// iam.gke.io/return-principal-id-as-email: "true".
	ReturnPrincipal bool
}

// DefaultPods is a table for the loopback network, where a client chooses its
// source address and with it the Pod that it plays:
//
//	127.0.0.1  demo/app        linked to app@PROJECT.iam.gserviceaccount.com
//	127.0.0.2  demo/other      linked to other@PROJECT.iam.gserviceaccount.com
//	127.0.0.3  demo/unlinked   no annotation: the workload pool
//	127.0.0.4  demo/principal  no GSA, and the principal asked for as email
func DefaultPods(projectID string) map[netip.Addr]Pod {
	gsa := func(name string) string { return name + "@" + projectID + ".iam.gserviceaccount.com" }
	return map[netip.Addr]Pod{
		loopback(1): {Namespace: "demo", ServiceAccount: "app", GSA: gsa("app")},
		loopback(2): {Namespace: "demo", ServiceAccount: "other", GSA: gsa("other")},
		loopback(3): {Namespace: "demo", ServiceAccount: "unlinked"},
		loopback(4): {Namespace: "demo", ServiceAccount: "principal", ReturnPrincipal: true},
	}
}

func loopback(last byte) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, last}) }

// email is what the server answers at service-accounts/default/email. What it
// answers to both annotations at once is not documented; here the principal
// wins, because it was asked for by name.
func (p Pod) email(n Node) string {
	switch {
	case p.ReturnPrincipal:
		return fmt.Sprintf("principal://iam.googleapis.com/projects/%s/locations/global/workloadIdentityPools/%s/subject/ns/%s/sa/%s",
			n.ProjectNumber, n.WorkloadPool, p.Namespace, p.ServiceAccount)
	case p.GSA != "":
		return p.GSA
	default:
		return n.WorkloadPool
	}
}

// linked reports whether the Pod acts as a Google service account.
func (p Pod) linked() bool { return p.GSA != "" && !p.ReturnPrincipal }
