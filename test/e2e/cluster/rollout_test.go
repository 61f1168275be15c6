package cluster

import (
	"context"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// startsWithin bounds how long after its container an exporter has a verdict.
// The first probe is made at once, and again after 1 s and 2 s more if the
// metadata server does not know the Pod yet.
const startsWithin = 5 * time.Second

func TestARolloutIsClean(t *testing.T) {
	c := shared
	c.healthy(t)
	old := map[string]*corev1.Pod{}
	for _, n := range c.nodes {
		p, err := c.pod(t.Context(), namespace, exporter, n)
		must(t, err)
		old[n] = p
	}

	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	ends := c.watchEnds(ctx, t, &watching)
	seen := map[string]*answers{}
	for _, n := range c.nodes {
		seen[n] = &answers{}
		watching.Go(func() { seen[n].watch(ctx, c, n) })
	}
	change := map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]any{"rollout": time.Now().String()}}}}}
	err := c.patch(t.Context(), c.AppsV1().RESTClient(), "daemonsets", namespace, exporter, types.StrategicMergePatchType, change)
	if err == nil {
		err = c.rolledOut(t.Context(), namespace, exporter, 2)
	}
	if err == nil {
		c.healthy(t)
	}
	stop()
	watching.Wait()
	must(t, err)

	for _, n := range c.nodes {
		p, err := c.pod(t.Context(), namespace, exporter, n)
		must(t, err)
		if p.UID == old[n].UID {
			t.Fatalf("%s on %s was not replaced", p.Name, n)
		}
		if got := c.status(t, n).Stated(); len(got) != 1 || got[0] != "match" {
			t.Errorf("the new exporter on %s stated %v, want match alone", n, got)
		}
		for state := range seen[n].states {
			if state != "match" && state != "starting" {
				t.Errorf("an exporter on %s stated %s", n, state)
			}
		}
		end, ok := ends[old[n].UID]
		if !ok {
			t.Fatalf("nobody saw how %s ended", old[n].Name)
		}
		grace := time.Duration(*old[n].Spec.TerminationGracePeriodSeconds) * time.Second
		if end.state.ExitCode != 0 || end.took >= grace {
			t.Errorf("%s ended with %d after %s, want 0 within %s", old[n].Name, end.state.ExitCode, end.took, grace)
		}
		started := p.Status.ContainerStatuses[0].State.Running.StartedAt.Time
		podStart := started.Sub(end.state.FinishedAt.Time)
		if gap := seen[n].gap; gap > podStart+startsWithin {
			t.Errorf("nobody answered for %s on %s, and the Pod took %s to start: want at most %s more", gap, n, podStart, startsWithin)
		}
		t.Logf("%s: ended in at most %s; the next container started %s later; no verdict for %s", n, end.took, podStart, seen[n].gap.Round(10*time.Millisecond))
	}
	// One after the other: the next one goes when this one has its verdict.
	a, b := seen[c.nodes[0]], seen[c.nodes[1]]
	if a.lost.Before(b.still) && b.lost.Before(a.still) {
		t.Errorf("both nodes were without a verdict at once: %s to %s and %s to %s", a.lost, a.still, b.lost, b.still)
	}
}

// answers are what the exporters on a node say while one follows another.
type answers struct {
	states map[string]bool
	last   time.Time // of the last verdict
	// gap is the longest time without a verdict, in which lost was the first
	// request that got none, and still the last one.
	gap         time.Duration
	lost, still time.Time
}

func (a *answers) watch(ctx context.Context, c *cluster, node string) {
	a.states = map[string]bool{}
	var lost, still time.Time
	for ctx.Err() == nil {
		asked := time.Now()
		s, err := c.statusNow(ctx, node)
		if err == nil {
			a.states[s.State] = true
		}
		if now := time.Now(); err == nil && s.State == "match" {
			if gap := now.Sub(a.last); !a.last.IsZero() && gap > a.gap {
				a.gap, a.lost, a.still = gap, lost, still
			}
			a.last, lost = asked, time.Time{}
		} else {
			if still = asked; lost.IsZero() {
				lost = asked
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// end is how a Pod's container ended, and in at most which time after it was
// told to: the API server's times are in whole seconds.
type end struct {
	state *corev1.ContainerStateTerminated
	took  time.Duration
}

// watchEnds fills the map until the context ends.
func (c *cluster) watchEnds(ctx context.Context, t *testing.T, watching *sync.WaitGroup) map[types.UID]end {
	t.Helper()
	w, err := c.watcher.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: nameLabel + "=" + exporter})
	must(t, err)
	ends := map[types.UID]end{}
	told := map[types.UID]time.Time{} // as first seen: the kubelet's own deletion, at the end, has another grace
	watching.Go(func() {
		defer w.Stop()
		for e := range w.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok || p.DeletionTimestamp == nil || len(p.Status.ContainerStatuses) == 0 {
				continue
			}
			if told[p.UID].IsZero() {
				told[p.UID] = p.DeletionTimestamp.Add(-time.Duration(*p.DeletionGracePeriodSeconds) * time.Second)
			}
			if s := p.Status.ContainerStatuses[0].State.Terminated; s != nil {
				ends[p.UID] = end{state: s, took: max(s.FinishedAt.Sub(told[p.UID])+time.Second, 0)}
			}
		}
	})
	return ends
}
