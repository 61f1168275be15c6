package page

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// received is what came about the cluster, in the order of time.
func (c *cluster) received() []string {
	var lines []string
	for _, n := range c.monitoring.receiver.of(c.name) {
		lines = append(lines, n.String())
	}
	return lines
}

// awaits waits for a notification, such as "page WorkloadIdentityNodeFallback
// firing", and returns it. For the table it notes how long after the moment it came.
func (c *cluster) awaits(t *testing.T, what string, since time.Time) notification {
	t.Helper()
	c.outcome.awaited = append(c.outcome.awaited, what)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) { // other processes
		for _, n := range c.monitoring.receiver.of(c.name) {
			if n.String() == what && n.at.After(since) {
				c.outcome.took(what, n.at.Sub(since))
				return n
			}
		}
	}
	c.outcome.judge(c.received(), c.outcome.awaited...)
	t.Fatalf("no %q after %s, but: %s", what, patience, strings.Join(c.received(), "; "))
	return notification{}
}

// awaitsPage is awaits for the page about the fault that began at the moment,
// which must keep the promise.
func (c *cluster) awaitsPage(t *testing.T, alertname string, began time.Time, atMost time.Duration) notification {
	t.Helper()
	n := c.awaits(t, "page "+alertname+" firing", began)
	took := n.at.Sub(began).Round(100 * time.Millisecond)
	if took > atMost {
		t.Errorf("the page came after %s, want at most %s", took, atMost)
	}
	t.Logf("paged after %s", took)
	return n
}

// quiet waits, and fails as soon as anything comes: for longer than it takes
// until what must not come would come.
func (c *cluster) quiet(t *testing.T, lasts time.Duration) {
	t.Helper()
	before := c.received()
	for deadline := time.Now().Add(lasts); time.Now().Before(deadline); time.Sleep(time.Second) {
		if now := c.received(); len(now) > len(before) {
			t.Errorf("%s came, want nothing after: %s", strings.Join(now[len(before):], "; "), strings.Join(before, "; "))
			return
		}
	}
}

// heard fails unless these notifications came about the cluster, and no others. A
// ticket that is sent again because it grows counts once.
func (c *cluster) heard(t *testing.T, want ...string) {
	t.Helper()
	c.outcome.judge(c.received(), want...)
	open := map[string]bool{}
	got := slices.DeleteFunc(c.received(), func(line string) bool {
		again := strings.HasPrefix(line, "ticket ") && strings.HasSuffix(line, " firing") && open[line]
		open[line] = true
		return again
	})
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("came: %s\nwant: %s", strings.Join(got, "; "), strings.Join(want, "; "))
	}
	// Each of them is also what a person reads, with its cluster in it.
	var texts, sent []string
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) { // they go out side by side
		texts, sent = nil, nil
		for _, n := range c.monitoring.receiver.of(c.name) {
			sent = append(sent, n.receiver+" "+n.Status)
		}
		for _, x := range c.monitoring.receiver.textsOf(c.name) {
			texts = append(texts, x.receiver+" "+x.status)
		}
		slices.Sort(texts)
		slices.Sort(sent)
		if slices.Equal(texts, sent) {
			return
		}
	}
	t.Errorf("texts about cluster %s: %v, want one for each of %v", c.name, texts, sent)
}

// names fails unless the title of each page names the node.
func (c *cluster) names(t *testing.T, n *node) {
	t.Helper()
	for _, x := range c.monitoring.receiver.textsOf(c.name) {
		if x.receiver == "page" && !strings.Contains(x.title, n.name) {
			t.Errorf("title %q does not name %s", x.title, n.name)
		}
	}
}

// lasted fails unless the expression had the value all the time. A page can stay
// by luck, when Alertmanager did not look while its alert was gone. It looks no further
// back than that: what came before, such as the first scrapes, is not asked about.
func (c *cluster) lasted(t *testing.T, expression string, want float64, since time.Duration) {
	t.Helper()
	window := fmt.Sprintf("[%ds:5s]", int(since.Seconds()))
	for _, worst := range []string{"min_over_time", "max_over_time"} {
		got, err := c.monitoring.query(t.Context(), worst+"(("+expression+" or vector(0))"+window+")")
		if err != nil || got != want {
			t.Errorf("%s of %s in the last %s is %v (%v), want %v", worst, expression, since, got, err, want)
		}
	}
}
