package kube_test

import (
	"context"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
)

const (
	ciliumConfig = "/api/v1/namespaces/cilium/configmaps/cilium-config"
	ipMasqAgent  = "/api/v1/namespaces/kube-system/configmaps/ip-masq-agent"
	anetd        = "/apis/apps/v1/namespaces/kube-system/daemonsets/anetd"
	node         = "/api/v1/nodes/" + kubetest.Node
)

type config map[string]any

func configMap(key, value string) any { return config{"data": map[string]string{key: value}} }

func labelled(key, value string) any {
	return config{"metadata": config{"labels": map[string]string{key: value}}}
}

func (c *cluster) surroundings(t *testing.T) diagnose.Facts {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return c.client.Surroundings(ctx, c.self, "cilium")
}

func TestSurroundingsAreReadByName(t *testing.T) {
	c := newCluster(t)
	c.Annotate(map[string]string{identity.AnnotationServiceAccount: "app@demo-project.iam.gserviceaccount.com"})
	c.Put(ciliumConfig, configMap("enable-bpf-masquerade", "true"))
	c.Put(ipMasqAgent, configMap("config", "masqLinkLocal: true"))
	c.Put(anetd, labelled("k8s-app", "cilium"))
	c.Put(node, labelled("iam.gke.io/gke-metadata-server-enabled", "true"))
	f := c.surroundings(t)
	if f.Cilium.State != diagnose.Read || f.Cilium.Namespace != "cilium" || f.Cilium.Data["enable-bpf-masquerade"] != "true" {
		t.Errorf("cilium-config %+v, want what it holds", f.Cilium)
	}
	// It was looked for beside Cilium first.
	if f.IPMasqAgent.State != diagnose.Read || f.IPMasqAgent.Namespace != "kube-system" || f.IPMasqAgent.Data["config"] != "masqLinkLocal: true" {
		t.Errorf("ip-masq-agent %+v, want that of kube-system", f.IPMasqAgent)
	}
	if f.DataplaneV2 != diagnose.Yes {
		t.Error("Dataplane V2 was not seen")
	}
	if want := map[string]string{"iam.gke.io/gke-metadata-server-enabled": "true"}; !maps.Equal(f.NodeLabels, want) {
		t.Errorf("labels of the node %v, want %v", f.NodeLabels, want)
	}
	if got := f.Annotations[identity.AnnotationServiceAccount]; got != "app@demo-project.iam.gserviceaccount.com" {
		t.Errorf("annotation %q, want that of the ServiceAccount", got)
	}
	for _, r := range c.Requests() {
		if r.Method != http.MethodGet || r.URL.RawQuery != "resourceVersion=0" {
			t.Errorf("%s %s, want gets from the watch cache alone", r.Method, r.URL)
		}
	}
	if n := len(c.Requests()); n != 6 {
		t.Errorf("%d requests, want six", n)
	}
	c.leavesNothing(t)
}

func TestWhatIsNotThereIsAFact(t *testing.T) {
	c := newCluster(t)
	c.Put(node, config{"metadata": config{}})
	f := c.surroundings(t)
	if f.Cilium.State != diagnose.Absent || f.IPMasqAgent.State != diagnose.Absent || f.DataplaneV2 != diagnose.No {
		t.Errorf("got %v, %v and %v, want that there are none", f.Cilium.State, f.IPMasqAgent.State, f.DataplaneV2)
	}
	if f.NodeLabels == nil || f.Annotations == nil {
		t.Error("a node or ServiceAccount that is known to have nothing is not known at all")
	}
}

func TestWhatCannotBeReadIsNotKnown(t *testing.T) {
	for _, tt := range []struct {
		status int
		want   diagnose.ConfigState
		reason kube.Reason
	}{
		{http.StatusForbidden, diagnose.Forbidden, kube.Forbidden},
		{http.StatusInternalServerError, diagnose.NotRead, kube.Unavailable},
		{http.StatusTooManyRequests, diagnose.NotRead, kube.Throttled},
	} {
		c := newCluster(t)
		for _, path := range []string{ciliumConfig, "/api/v1/namespaces/cilium/configmaps/ip-masq-agent", anetd, node} {
			c.Put(path, tt.status)
		}
		f := c.surroundings(t)
		if f.Cilium.State != tt.want || f.IPMasqAgent.State != tt.want {
			t.Errorf("%d: %v and %v, want %v", tt.status, f.Cilium.State, f.IPMasqAgent.State, tt.want)
		}
		if f.DataplaneV2 != diagnose.Unknown || f.NodeLabels != nil {
			t.Errorf("%d: Dataplane V2 is %v and the node has %v, want that neither is known", tt.status, f.DataplaneV2, f.NodeLabels)
		}
		for _, r := range c.reasons[:4] {
			if r != tt.reason {
				t.Errorf("%d: counted as %q, want %q", tt.status, r, tt.reason)
			}
		}
	}
}

// An annotation that was read for something else is old by now.
func TestTheAnnotationsAreReadEachTime(t *testing.T) {
	c := newCluster(t)
	if _, err := c.read(t, time.Second); err != nil {
		t.Fatal(err)
	}
	c.Annotate(map[string]string{identity.AnnotationServiceAccount: "new@demo-project.iam.gserviceaccount.com"})
	if got := c.surroundings(t).Annotations[identity.AnnotationServiceAccount]; got != "new@demo-project.iam.gserviceaccount.com" {
		t.Errorf("annotation %q, want the one that it has now", got)
	}
}
