package plugin_test

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Charts that many clusters have, set up with Workload Identity as their documentation says, are
// no finding, but for one that is true: cert-manager's optional policy lets to port 80 of everybody,
// and so not to 169.254.169.252:988, to which Dataplane V1 redirects.
func TestPublishedChartsAreNoFinding(t *testing.T) {
	charts, err := os.ReadFile("testdata/charts.json")
	if err != nil {
		t.Fatal(err)
	}
	annotated := func(namespace, name, email string) object {
		return object{"kind": "ServiceAccount", "metadata": object{"name": name, "namespace": namespace, "annotations": object{"iam.gke.io/gcp-service-account": email}}}
	}
	pod := func(namespace, name, account, owner string) object {
		return object{
			"kind": "Pod", "metadata": object{"name": name, "namespace": namespace, "ownerReferences": []object{{"kind": owner, "name": account}}},
			"spec":   object{"nodeName": "n1", "serviceAccountName": account, "containers": []object{{"name": "manager"}}},
			"status": object{"phase": "Running"},
		}
	}
	// Config Connector is no chart: the names are those of its bundle for Workload Identity.
	connector := []object{
		annotated("cnrm-system", "cnrm-controller-manager", "cnrm-system@demo-project.iam.gserviceaccount.com"),
		pod("cnrm-system", "cnrm-controller-manager-0", "cnrm-controller-manager", "StatefulSet"),
	}
	anetd := object{"kind": "Pod", "metadata": object{"name": "anetd-1", "namespace": "kube-system", "labels": object{"k8s-app": "cilium"}}, "status": object{"phase": "Running"}}
	const policy = "WI105 Deployment cert-manager/cert-manager: cert-manager-allow-egress select it for egress, and none allows TCP 169.254.169.252:988"
	for _, tt := range []struct {
		name string
		more []object
		want []string
	}{
		{"Dataplane V1", connector, []string{policy}},
		{"Dataplane V2", append(slices.Clone(connector), anetd), nil},
		{"self-managed Cilium", append(slices.Clone(connector), selfManaged(nil)...), nil},
	} {
		text := dump(t, healthy(), tt.more...)
		if got := audit(t, text+string(charts)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: found\n%s\nwant %q", tt.name, strings.Join(got, "\n"), tt.want)
		}
	}
	if !strings.Contains(string(charts), "argocd@") || strings.Count(string(charts), `"iam.gke.io/gcp-service-account"`) != 7 {
		t.Error("not all charts are annotated")
	}
}
