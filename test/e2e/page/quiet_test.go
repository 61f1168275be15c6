package page

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
)

func TestARestartOfTheMetadataServerPagesNobody(t *testing.T) {
	t.Parallel()
	const lasts = 20 * time.Second
	t.Run("on one node after the other", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, shared, "3 gke-metadata-server is rolled", "rolledservers", 6)
		c.healthy(t)
		for _, n := range c.nodes {
			suffer(t, "refused", n)
			time.Sleep(lasts)
			suffer(t, "healthy", n)
		}
		c.quiet(t, promised)
		c.heard(t)
	})
	t.Run("on all nodes at once", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, shared, "3 gke-metadata-server restarts everywhere", "restartedservers", 6)
		c.healthy(t)
		atAnyMoment()
		suffer(t, "refused", c.nodes...)
		time.Sleep(lasts)
		suffer(t, "healthy", c.nodes...)
		c.quiet(t, promised)
		c.heard(t)
	})
}

func TestAClusterWithoutMetadataServersPagesOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, shared, "3 gke-metadata-server is gone everywhere", "goneservers", 6)
	c.healthy(t)
	// It is not taken for a restart for two minutes (clusterUnavailableFor).
	c.awaitsPage(t, "WorkloadIdentityMetadataUnavailableClusterWide", suffer(t, "refused", c.nodes...), promised+2*time.Minute)
	c.quiet(t, 20*time.Second)
	c.heard(t, "page WorkloadIdentityMetadataUnavailableClusterWide firing")
}

func TestAChangedAnnotationPagesNobody(t *testing.T) {
	t.Parallel()
	// So many nodes that some probe in the time between.
	for name, skew := range map[string]struct{ agents, server time.Duration }{
		"the metadata server sees it first": {agents: time.Second},
		"agents see it first":               {server: 50 * time.Second},
		"at the same moment":                {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api, settings := apiServer(t)
			settings = append(settings, "WI_EXPECTATION_INTERVAL=1m") // so that all of them read it before the server knows
			c := newCluster(t, shared, "4 annotation changed, "+name, fmt.Sprintf("annotated%.0f%.0f", skew.agents.Seconds(), skew.server.Seconds()), 20, settings...)
			c.healthy(t)
			atAnyMoment()
			var seen sync.WaitGroup
			seen.Go(func() {
				time.Sleep(skew.agents)
				annotate(api, otherEmail)
			})
			seen.Go(func() {
				time.Sleep(skew.server)
				for _, n := range c.nodes {
					n.link(otherEmail)
				}
			})
			seen.Wait()
			c.quiet(t, 2*promised) // until agents that accuse would have looked again
			c.heard(t)
		})
	}
}

func TestARolledDaemonSetPagesNobody(t *testing.T) {
	t.Parallel()
	c := newCluster(t, shared, "5 the agents are rolled", "rolled", 6)
	c.healthy(t)
	began := time.Now()
	for _, n := range c.nodes {
		if err := n.agent.Stop(); err != nil {
			t.Error(err)
		}
		n.agent = nil
		c.scraped(t)
		time.Sleep(3 * time.Second) // until Kubernetes has the next Pod
		n.schedule(t)
		c.scraped(t)
		time.Sleep(3 * time.Second) // until it is ready
	}
	c.quiet(t, promised)
	c.heard(t)
	c.lasted(t, fmt.Sprintf(`count(workload_identity:node:verdict{cluster=%q,state="match"})`, c.name), float64(len(c.nodes)), time.Since(began))
}

func TestWithoutTheAPIServerPagesStillCome(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(*kubetest.Server){
		"refuses": func(s *kubetest.Server) { s.Close() },
		"fails":   func(s *kubetest.Server) { s.Answer(http.StatusServiceUnavailable, 0) },
		"hangs":   func(s *kubetest.Server) { s.Answer(http.StatusOK, time.Hour) },
	} {
		t.Run("it "+name, func(t *testing.T) {
			t.Parallel()
			api, settings := apiServer(t)
			c := newCluster(t, shared, "9 the API server "+name+", a node falls back", "alone-"+name, 6, settings...)
			c.healthy(t)
			away(api)
			c.quiet(t, 20*time.Second)
			// A read that gets no answer takes two seconds, once or twice.
			page := c.awaitsPage(t, nodeFallback, suffer(t, "bypass", c.nodes[0]), promised+5*time.Second)
			if got := page.Alerts[0].Labels["expected"]; got != appEmail {
				t.Errorf("expected=%q in the page, want %q", got, appEmail)
			}
			c.quiet(t, promised)
			c.heard(t, "page "+nodeFallback+" firing")
		})
	}
}
