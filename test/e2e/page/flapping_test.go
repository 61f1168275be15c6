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

// A confirm probe follows 300 ms after one that finds a wrong identity, so that
// a shorter blip is never stated, and is not lost either.
func TestBlipsGiveATicketAndNoPage(t *testing.T) {
	t.Parallel()
	c := newCluster(t, shared, "8 bypass for 0.3 s in 0.7", "blips", 8)
	c.healthy(t)
	began := time.Now()
	ctx, end := context.WithCancel(t.Context())
	var blipping sync.WaitGroup
	defer blipping.Wait()
	defer end()
	for _, n := range c.nodes {
		blipping.Go(func() { n.blip(ctx, t) })
	}
	// A ticket needs as many wrong verdicts as come in a minute at least, and by
	// chance in two.
	c.quiet(t, 30*time.Second)
	c.awaits(t, "ticket "+flapping+" firing", began)
	c.quiet(t, promised)
	c.heard(t, "ticket "+flapping+" firing")
}

// blip lets the VM's server answer for 0.3 s, every 0.7 s.
func (n *node) blip(ctx context.Context, t *testing.T) {
	for fault, lasts := "bypass", 300*time.Millisecond; ; {
		if err := n.simulator.SetFault(simulator.Fault{Name: fault}); err != nil {
			t.Error(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lasts):
		}
		if fault == "bypass" {
			fault, lasts = "healthy", 400*time.Millisecond
		} else {
			fault, lasts = "bypass", 300*time.Millisecond
		}
	}
}
