package simulator

import "cmp"

// Node is the machine that both metadata servers describe. They agree on every
// value that both of them serve, as on a real node: only the identity, the set
// of paths and the headers tell them apart.
type Node struct {
	// ProjectID and ProjectNumber name the project of the cluster.
	ProjectID, ProjectNumber string
	// WorkloadPool is the identity of a KSA without annotation. It is a field of
	// its own because its domain is not svc.id.goog in every Google cloud.
	WorkloadPool string
	// ServiceAccount is the email of the node: what a Pod must not get.
	ServiceAccount string
	// Name, InstanceID, Zone and MachineType describe the virtual machine. The
	// last two are short names: "europe-west1-b", "e2-standard-4".
	Name, InstanceID, Zone, MachineType string
	// ClusterName, ClusterLocation and ClusterUID are the three attributes that
	// the GKE metadata server serves.
	ClusterName, ClusterLocation, ClusterUID string
}

// DefaultNode is a node of the project, with the service account that Compute
// Engine gives to nodes when nobody chose one.
func DefaultNode(projectID string) Node {
	return Node{ProjectID: projectID}.withDefaults()
}

func (n Node) withDefaults() Node {
	n.ProjectID = cmp.Or(n.ProjectID, "demo-project")
	n.ProjectNumber = cmp.Or(n.ProjectNumber, "123456789012")
	n.WorkloadPool = cmp.Or(n.WorkloadPool, n.ProjectID+".svc.id.goog")
	n.ServiceAccount = cmp.Or(n.ServiceAccount, n.ProjectNumber+"-compute@developer.gserviceaccount.com")
	n.Name = cmp.Or(n.Name, "gke-demo-default-pool-1a2b3c4d-x7k9")
	n.InstanceID = cmp.Or(n.InstanceID, "4386175936122954212")
	n.Zone = cmp.Or(n.Zone, "europe-west1-b")
	n.MachineType = cmp.Or(n.MachineType, "e2-standard-4")
	n.ClusterName = cmp.Or(n.ClusterName, "demo")
	n.ClusterLocation = cmp.Or(n.ClusterLocation, "europe-west1")
	n.ClusterUID = cmp.Or(n.ClusterUID, "6f1d0c5a9be84c0f9d3d4f0a7c2b81e5")
	return n
}

// shared are the leaves that both servers serve with the same value.
func (n Node) shared() tree {
	return tree{
		"instance/hostname":                    n.Name + ".c." + n.ProjectID + ".internal",
		"instance/id":                          n.InstanceID,
		"instance/zone":                        "projects/" + n.ProjectNumber + "/zones/" + n.Zone,
		"instance/attributes/cluster-location": n.ClusterLocation,
		"instance/attributes/cluster-name":     n.ClusterName,
		"instance/attributes/cluster-uid":      n.ClusterUID,
		"project/project-id":                   n.ProjectID,
		"project/numeric-project-id":           n.ProjectNumber,
	}
}
