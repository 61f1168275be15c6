package agent

import (
	"context"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Check judges once, by the rules of the loop, and returns what it knows; the settings
// of the cluster are read to explain what is bad, and with risks for what threatens a
// match, too. Unlike the loop it confirms a first match, since somebody acts on it at
// once. The state is Starting if the context has ended before.
func Check(ctx context.Context, o Options, risks bool) *Snapshot {
	o.StartupGrace = 0
	a := New(o)
	a.confirmsFirst = true
	a.causes.nextRead = a.started
	if !risks {
		a.causes.nextRead = a.started.Add(settingsInterval)
	}
	a.cycle(ctx)
	if v := a.stated(); v.State == identity.Match && v.Server == identity.ServerVM && ctx.Err() == nil {
		a.hearWitness(ctx)
	}
	return a.Snapshot()
}

// hearWitness asks who signs, where the VM's server is there and the identity is the
// expected one all the same. If GKE's server signs, some of the Pod's requests go to
// the one and some to the other, and a Pod that starts now gets either identity.
func (a *Agent) hearWitness(ctx context.Context) {
	c := &a.causes
	c.claims, c.readAt = a.readClaims(ctx), time.Now()
	next := *a.Snapshot()
	if c.claims.Server == identity.ServerGKE {
		next.Verdict.State = identity.Unavailable
		next.Verdict.Why = "the answers contradict each other: the VM's metadata server gives the machine type, and GKE's signs the identity"
	}
	next.Diagnosis = a.diagnose(next.Observation, next.Verdict)
	a.snapshot.Store(&next)
}
