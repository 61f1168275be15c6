package page

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// Identities.
const (
	appEmail   = "app@demo-project.iam.gserviceaccount.com"
	otherEmail = "other@demo-project.iam.gserviceaccount.com"
	nodeEmail  = "123456789012-compute@developer.gserviceaccount.com"
)

// cluster is a scenario's own: its nodes differ from those of others by the
// label cluster, on everything that Prometheus sees.
type cluster struct {
	monitoring *monitoring
	name       string
	nodes      []*node
	outcome    *outcome
}

// newCluster starts the nodes of a cluster, and has them scraped. Its name must
// not be part of another's. By default agents expect app, without an API server.
func newCluster(t *testing.T, m *monitoring, scenario, name string, size int, settings ...string) *cluster {
	t.Helper()
	if len(settings) == 0 {
		settings = []string{"WI_EXPECTED_EMAILS=" + appEmail}
	}
	c := &cluster{monitoring: m, name: name, outcome: results.begin(scenario)}
	for i := range size {
		c.nodes = append(c.nodes, newNode(t, nodeName(name, i+1), settings))
	}
	t.Cleanup(func() {
		// Its agents end now, and nobody is to be told.
		if err := m.scrape(agentJob, name, nil); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("what came: %s", strings.Join(c.received(), "; "))
		}
	})
	c.scraped(t)
	return c
}

// nodeName is one of GKE's, as long as they get: people have to read it.
func nodeName(cluster string, number int) string {
	const longest = 63
	name := fmt.Sprintf("gke-%s-default-pool-1a2b3c4d-%04d", cluster, number)
	return "gke-" + strings.Repeat("x", longest-len(name)-1) + strings.TrimPrefix(name, "gke")
}

// scraped tells Prometheus where the agents are now. Nodes without one have no target.
func (c *cluster) scraped(t *testing.T) {
	t.Helper()
	var targets []target
	for _, n := range c.nodes {
		if n.agent != nil {
			targets = append(targets, target{Targets: []string{n.address}, Labels: map[string]string{
				"cluster": c.name, "node": n.name, "pod": n.pod, "namespace": "workload-identity-exporter",
			}})
		}
	}
	if err := c.monitoring.scrape(agentJob, c.name, targets); err != nil {
		t.Fatal(err)
	}
}

// healthy waits until the rules know all nodes of the cluster and find them well.
func (c *cluster) healthy(t *testing.T) {
	t.Helper()
	c.awaitsValue(t, fmt.Sprintf(`count(workload_identity:node:verdict{cluster=%q,state="match"})`, c.name), float64(len(c.nodes)))
}

func (c *cluster) awaitsValue(t *testing.T, expression string, want float64) {
	t.Helper()
	var got float64
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Second) { // another process
		if got, err = c.monitoring.query(t.Context(), expression); err == nil && got == want {
			return
		}
	}
	t.Fatalf("%s is %v (%v) after %s, want %v", expression, got, err, patience, want)
}

// atAnyMoment waits for a random part of all periods that there are, so that
// runs do not all begin at the same moment of them.
func atAnyMoment() { time.Sleep(rand.N(15 * time.Second)) }

// suffer sets the fault on the nodes, and returns when it began.
func suffer(t *testing.T, fault string, nodes ...*node) time.Time {
	t.Helper()
	began := time.Now()
	for _, n := range nodes {
		if err := n.simulator.SetFault(simulator.Fault{Name: fault}); err != nil {
			t.Fatal(err)
		}
	}
	return began
}

// apiServer is one that has the annotation, and the settings by which agents find it.
func apiServer(t *testing.T) (*kubetest.Server, []string) {
	t.Helper()
	s, err := kubetest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Answer(http.StatusServiceUnavailable, 0) // nobody new is kept waiting
		s.Close()
	})
	annotate(s, appEmail)
	return s, s.Environment()
}

func annotate(s *kubetest.Server, email string) {
	s.Annotate(map[string]string{"iam.gke.io/gcp-service-account": email})
}
