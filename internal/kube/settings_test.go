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

	serviceAccount = "/api/v1/namespaces/" + kubetest.Namespace + "/serviceaccounts/" + kubetest.ServiceAccount
)

type object map[string]any

func configMap(key, value string) any { return object{"data": map[string]string{key: value}} }

func labelled(key, value string) any {
	return object{"metadata": object{"labels": map[string]string{key: value}}}
}

func (c *cluster) settings(t *testing.T) diagnose.Settings {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return c.client.ClusterSettings(ctx, c.self, "cilium", diagnose.Everything, diagnose.Settings{})
}

func TestClusterSettingsAreReadByName(t *testing.T) {
	c := newCluster(t)
	c.Annotate(map[string]string{identity.AnnotationServiceAccount: "app@demo-project.iam.gserviceaccount.com"})
	c.Put(ciliumConfig, configMap("enable-bpf-masquerade", "true"))
	c.Put(ipMasqAgent, configMap("config", "masqLinkLocal: true"))
	c.Put(anetd, labelled("k8s-app", "cilium"))
	c.Put(node, labelled("iam.gke.io/gke-metadata-server-enabled", "true"))
	s := c.settings(t)
	cilium := s.Cilium
	if cilium.State != diagnose.Read || cilium.Namespace != "cilium" || cilium.Data["enable-bpf-masquerade"] != "true" {
		t.Errorf("cilium-config %+v, want what it holds", cilium)
	}
	// It was looked for beside Cilium first.
	m := s.IPMasqAgent
	if m.State != diagnose.Read || m.Namespace != "kube-system" || m.Data["config"] != "masqLinkLocal: true" {
		t.Errorf("ip-masq-agent %+v, want that of kube-system", m)
	}
	if s.DataplaneV2 != diagnose.Yes {
		t.Error("Dataplane V2 was not seen")
	}
	if want := map[string]string{"iam.gke.io/gke-metadata-server-enabled": "true"}; !maps.Equal(s.NodeLabels, want) {
		t.Errorf("labels of the node %v, want %v", s.NodeLabels, want)
	}
	if got := s.Annotations[identity.AnnotationServiceAccount]; got != "app@demo-project.iam.gserviceaccount.com" {
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
	c.Put(node, object{"metadata": object{}})
	s := c.settings(t)
	if s.Cilium.State != diagnose.Absent || s.IPMasqAgent.State != diagnose.Absent || s.DataplaneV2 != diagnose.No {
		t.Errorf("got %v, %v and %v, want that there are none", s.Cilium.State, s.IPMasqAgent.State, s.DataplaneV2)
	}
	if s.NodeLabels == nil || s.Annotations == nil {
		t.Error("a node or ServiceAccount that is known to have nothing is not known at all")
	}
}

func TestWhatCannotBeReadIsNotKnown(t *testing.T) {
	for _, tt := range []struct {
		status int
		want   diagnose.ReadState
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
		s := c.settings(t)
		if s.Cilium.State != tt.want || s.IPMasqAgent.State != tt.want {
			t.Errorf("%d: %v and %v, want %v", tt.status, s.Cilium.State, s.IPMasqAgent.State, tt.want)
		}
		if s.DataplaneV2 != diagnose.Unknown || s.NodeLabels != nil {
			t.Errorf("%d: Dataplane V2 is %v and the node has %v, want that neither is known",
				tt.status, s.DataplaneV2, s.NodeLabels)
		}
		for _, r := range c.reasons[1:5] {
			if r != tt.reason {
				t.Errorf("%d: counted as %q, want %q", tt.status, r, tt.reason)
			}
		}
	}
}

// A value of before would rule out what is the cause now.
func TestTheAnnotationsAreThoseOfNow(t *testing.T) {
	c := newCluster(t)
	c.Annotate(map[string]string{identity.AnnotationServiceAccount: "old@demo-project.iam.gserviceaccount.com"})
	if _, err := c.read(t, time.Second); err != nil {
		t.Fatal(err)
	}
	c.settings(t)
	const changed = "new@demo-project.iam.gserviceaccount.com"
	c.Annotate(map[string]string{identity.AnnotationServiceAccount: changed})
	before, accepted := len(c.Requests()), c.Accepted()
	s := c.settings(t)
	if got := s.Annotations[identity.AnnotationServiceAccount]; got != changed {
		t.Errorf("annotation %q, want %q", got, changed)
	}
	if n := len(c.Requests()) - before; n != 9 {
		t.Errorf("%d requests, want nine: Cilium is looked for in four namespaces", n)
	}
	if n := c.Accepted() - accepted; n != 1 {
		t.Errorf("%d connections for them, want one: a handshake costs the API server more than a read", n)
	}
	c.leavesNothing(t)
	c.Put(serviceAccount, http.StatusForbidden)
	if s := c.settings(t); s.Annotations != nil {
		t.Errorf("annotations %v, want that they are not known since they cannot be read", s.Annotations)
	}
}

// A busy API server may answer only the first requests in time.
func TestTheAnnotationsComeFirst(t *testing.T) {
	c := newCluster(t)
	c.Put(ciliumConfig, func() any { c.Answer(http.StatusOK, time.Minute); return nil })
	s := c.settings(t)
	if s.Annotations == nil || s.IPMasqAgent.State != diagnose.NotRead {
		t.Errorf("annotations %v and ip-masq-agent %v, want the former alone", s.Annotations, s.IPMasqAgent.State)
	}
}
