package cluster

import (
	"context"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// auditedObjects are a cluster with Cilium, as an API server with Cilium's own kinds takes it. Nothing runs in it. It is
// in the namespace default, whose Pods may be hostNetwork, and which stays.
const auditedObjects = `
{apiVersion: v1, kind: Node, metadata: {name: audit-a, labels: {kubernetes.io/os: linux, iam.gke.io/gke-metadata-server-enabled: "true"}}}
---
{apiVersion: v1, kind: Node, metadata: {name: audit-b, labels: {kubernetes.io/os: linux, iam.gke.io/gke-metadata-server-enabled: "true", audit: b}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: audit-agent, namespace: default}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: audit-app, namespace: default, annotations: {iam.gke.io/gcp-service-account: app@demo-project.iam.gserviceaccount.com}}
---
apiVersion: v1
kind: Pod
metadata: {name: audit-agent, namespace: default, labels: {k8s-app: cilium}}
spec: {nodeName: audit-a, hostNetwork: true, serviceAccountName: audit-agent, containers: [{name: cilium-agent, image: "cilium:v1.20.2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: audit-app, namespace: default, labels: {audit: app}}
spec: {nodeName: audit-a, serviceAccountName: audit-app, containers: [{name: main, image: app}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cilium-config, namespace: default}
data: {enable-bpf-masquerade: "false", kube-proxy-replacement: "true", enable-egress-gateway: "true", enable-local-redirect-policy: "true"}
---
apiVersion: cilium.io/v2
kind: CiliumNodeConfig
metadata: {name: audit-legacy, namespace: default}
spec: {nodeSelector: {matchLabels: {audit: b}}, defaults: {enable-host-legacy-routing: "true"}}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: audit-host, namespace: default}
spec: {endpointSelector: {matchLabels: {"k8s:audit": app}}, egress: [{toEntities: [host]}]}
---
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: audit-out}
spec: {selectors: [{podSelector: {matchLabels: {audit: app}}}], destinationCIDRs: [0.0.0.0/0], egressGateway: {nodeSelector: {}}}
`

const auditedRedirect = `
apiVersion: cilium.io/v2
kind: CiliumLocalRedirectPolicy
metadata: {name: audit-metadata, namespace: default}
spec:
  redirectFrontend: {addressMatcher: {ip: 169.254.169.254, toPorts: [{port: "80", protocol: TCP}]}}
  redirectBackend: {localEndpointSelector: {matchLabels: {k8s-app: gke-metadata-server}}, toPorts: [{port: "988", protocol: TCP}]}
`

// makes applies the objects until the end of the test.
func (c *cluster) makes(t *testing.T, text string) {
	t.Helper()
	all, err := objects([]byte(text))
	must(t, err)
	for _, o := range all {
		must(t, c.apply(t.Context(), o))
		r, err := c.resource(o)
		must(t, err)
		cleanup(t, func(ctx context.Context) error {
			now := int64(0) // no kubelet ends what does not run
			if err := r.Delete(ctx, o.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now}); !apierrors.IsNotFound(err) {
				return err
			}
			return nil
		})
	}
}

// What is set up wrongly in Cilium is found by its own kinds, and what a change does is told
// for each node.
func TestTheClusterIsAudited(t *testing.T) {
	audits := func() []string {
		var all struct {
			Findings []struct{ Code, Object string }
			Unread   []string
		}
		said(t, 1, &all, "audit")
		var found []string
		for _, f := range all.Findings {
			if strings.Contains(f.Object, "audit-") {
				found = append(found, f.Code+" "+f.Object)
			}
		}
		if len(all.Unread) > 0 {
			t.Errorf("unread: %q", all.Unread)
		}
		return found
	}
	shared.bare(t)
	shared.makes(t, auditedObjects)
	want := []string{"WI105 Pod default/audit-app", "WI308 CiliumEgressGatewayPolicy audit-out", "WI305 CiliumNodeConfig default/audit-legacy"}
	if got := audits(); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	outlook := func(wantExit int) map[string]string {
		var all struct {
			Nodes []struct {
				Nodes []string
				Then  string
			}
		}
		said(t, wantExit, &all, "what-if", "--set", "bpf.masquerade=true")
		then := map[string]string{}
		for _, g := range all.Nodes {
			for _, n := range g.Nodes {
				then[n] = g.Then
			}
		}
		return then
	}
	if then := outlook(1); then["audit-a"] != "node" || then["audit-b"] != "own" {
		t.Errorf("with BPF masquerading: %v, want node and own", then)
	}
	shared.makes(t, auditedRedirect)
	if then := outlook(3); then["audit-a"] != "policy" || then["audit-b"] != "own" {
		t.Errorf("behind a local redirect policy: %v, want policy and own", then)
	}
}
