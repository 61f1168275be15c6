package page

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

func TestARedirectionThatComesAndGoesPagesOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, shared, "8 bypass for 20 s in 40", "flapping", 6)
	c.healthy(t)
	began := time.Now()
	if err := c.nodes[0].simulator.SetFault(simulator.Fault{Name: simulator.Flap, Every: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	c.awaits(t, "page "+nodeFallback+" firing", began)
	c.awaits(t, "ticket "+flapping+" firing", began)
	// It goes on for two more turns.
	c.quiet(t, promised+20*time.Second)
	c.awaits(t, "page "+nodeFallback+" resolved", suffer(t, "healthy", c.nodes[0]))
	c.heard(t, "page "+nodeFallback+" firing", "ticket "+flapping+" firing", "page "+nodeFallback+" resolved")
}

// A confirm probe follows 300 ms after one that finds a wrong identity, and a third one
// after it, so that a blip of half a second is never stated. It is not lost either. Ten
// seconds between probes are no multiple of the turns, or all would hit the same half.
func TestHalfOfTheAnswersWrongPagesOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, shared, "10 bypass for 0.47 s in 0.94", "half", 6)
	c.healthy(t)
	began := time.Now()
	ctx, end := context.WithCancel(t.Context())
	var blipping sync.WaitGroup
	defer blipping.Wait()
	defer end()
	blipping.Go(func() { c.nodes[0].blip(ctx, t, 470*time.Millisecond) })
	c.awaits(t, "ticket "+flapping+" firing", began)
	page := c.awaits(t, "page "+partlyWrong+" firing", began)
	if len(page.Alerts) != 1 || page.Alerts[0].Labels["node"] != c.nodes[0].name {
		t.Errorf("the page is about %v", page.Alerts)
	}
	end()
	blipping.Wait()
	c.awaits(t, "page "+partlyWrong+" resolved", suffer(t, "healthy", c.nodes[0]))
	c.heard(t, "ticket "+flapping+" firing", "page "+partlyWrong+" firing", "page "+partlyWrong+" resolved")
}

// blip lets the VM's server answer for so long, and GKE's as long, in turn.
func (n *node) blip(ctx context.Context, t *testing.T, lasts time.Duration) {
	for fault, next := "bypass", "healthy"; ; fault, next = next, fault {
		if err := n.simulator.SetFault(simulator.Fault{Name: fault}); err != nil {
			t.Error(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lasts):
		}
	}
}
