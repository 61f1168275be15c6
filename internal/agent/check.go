package agent

import "context"

// Check judges once, by the rules of the loop, and returns what it knows. Unlike
// the loop it confirms a first match too, since somebody acts on it at once. The
// state is Starting if the context has ended before.
func Check(ctx context.Context, o Options) *Snapshot {
	o.StartupGrace = 0
	a := New(o)
	a.confirmsFirst = true
	a.causes.nextRead = a.started.Add(settingsInterval) // only to explain what is bad
	a.cycle(ctx)
	return a.Snapshot()
}
