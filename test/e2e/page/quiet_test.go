package page

import (
	"testing"
	"time"
)

func TestARestartOfTheMetadataServerPagesNobody(t *testing.T) {
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
