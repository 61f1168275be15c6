package page

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

func TestAKilledAgentEndsNoPage(t *testing.T) {
	t.Parallel()
	c := newCluster(t, shared, "6 the agent of a paged node is killed", "killed", 6)
	broken := c.nodes[0]
	c.awaitsPage(t, nodeFallback, suffer(t, "bypass", broken), promised)
	broken.agent.Kill()
	broken.agent = nil
	c.scraped(t)
	time.Sleep(20 * time.Second) // until Kubernetes has another Pod
	broken.schedule(t)
	c.scraped(t)
	c.quiet(t, resolves)
	c.heard(t, "page "+nodeFallback+" firing")
	c.lasted(t, fmt.Sprintf(`count(workload_identity:node:verdict{cluster=%q,state="node_fallback"})`, c.name), 1, resolves)
	c.lasted(t, fmt.Sprintf(`count(ALERTS{cluster=%q,alertname=%q,alertstate="firing"})`, c.name, nodeFallback), 1, resolves)
}

func TestARestartOfPrometheusEndsNoPage(t *testing.T) {
	t.Parallel()
	m, err := startMonitoring(filepath.Join(t.TempDir(), "own"), shippedRules)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("Prometheus's log:\n%s\nAlertmanager's log:\n%s", &m.prometheus.Log, &m.alertmanager.Log)
		}
	})
	c := newCluster(t, m, "7 Prometheus restarts while a node is paged", "restarted", 6)
	broken := c.nodes[0]
	c.awaitsPage(t, nodeFallback, suffer(t, "bypass", broken), promised)
	if err := m.prometheus.Stop(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Second) // a new version is pulled
	if err := m.startPrometheus(); err != nil {
		t.Fatal(err)
	}
	c.quiet(t, resolves)
	c.awaits(t, "page "+nodeFallback+" resolved", suffer(t, "healthy", broken))
	c.heard(t, "page "+nodeFallback+" firing", "page "+nodeFallback+" resolved")
}
