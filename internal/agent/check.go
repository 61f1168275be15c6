package agent

import (
	"context"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// maxChecks bounds the cycles of one check while nothing may be stated, and
// checkGap is the time between them.
const (
	maxChecks = 3
	checkGap  = time.Second
)

// Check judges once, by the rules of the loop, and returns what it knows. Unlike
// the loop it confirms a first match too, since somebody acts on it at once. The
// state is Starting if nothing could be stated: an annotation that was changed
// this moment may explain what it saw, or the context has ended.
func Check(ctx context.Context, o Options) *Snapshot {
	o.StartupGrace = 0
	a := New(o)
	a.confirmsFirst = true
	a.causes.nextRead = a.started.Add(settingsInterval) // only to explain what is bad
	for i := range maxChecks {
		if i > 0 && !sleep(ctx, checkGap) {
			break
		}
		a.cycle(ctx)
		if a.stated().State != identity.Starting {
			break
		}
	}
	return a.Snapshot()
}
