package simulator

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
)

// Options are what a simulator is made from. The zero value is a healthy GKE
// node on a free port of the loopback network, without switches.
type Options struct {
	// MetadataAddress is where Pods ask, host:port; 127.0.0.1:0 by default.
	MetadataAddress string
	// ControlAddress is where faults are switched; empty means nowhere.
	ControlAddress string
	// Serve chooses the servers behind the metadata address; both by default.
	Serve Serve
	// Node is what the servers describe. Fields that are empty have a default.
	Node Node
	// Pods are the callers by source address; nil means DefaultPods.
	Pods map[netip.Addr]Pod
	// Fallback is the Pod of every other source; nil means an error for them.
	Fallback *Pod
	// Lookup finds the Pod of a source, in place of Pods and Fallback, where
	// Pods come and go. It is called for each request, by many at a time.
	Lookup func(source netip.Addr) (Pod, bool)
	// Tokens makes the access tokens. A field that is zero has the value of
	// NewTokens.
	Tokens Tokens
	// Fault is what is wrong from the start; the zero value is healthy.
	Fault Fault
	// Log gets a line for each switch; nil means that nobody reads it.
	Log *slog.Logger
}

func (o Options) complete() (Options, error) {
	o.MetadataAddress = cmp.Or(o.MetadataAddress, "127.0.0.1:0")
	o.Node = o.Node.withDefaults()
	if o.Pods == nil {
		o.Pods = DefaultPods(o.Node.ProjectID)
	}
	standard := NewTokens()
	o.Tokens.Secret = cmp.Or(o.Tokens.Secret, standard.Secret)
	o.Tokens.Lifetime = cmp.Or(o.Tokens.Lifetime, standard.Lifetime)
	if err := o.Tokens.check(); err != nil {
		return o, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	serve, err := ParseServe(string(cmp.Or(o.Serve, ServeBoth)))
	o.Serve = serve
	return o, err
}

// servers are those that both may be made of; a fault that needs one that is not
// served is refused, so the other one is there but never asked.
func (o Options) servers() servers {
	s := servers{
		gke: &GKE{Node: o.Node, Pods: o.Pods, Fallback: o.Fallback, Tokens: o.Tokens, attribute: o.Lookup},
		vm:  &VM{Node: o.Node, Tokens: o.Tokens},
	}
	s.front = s.gke
	if o.Serve == ServeVM {
		s.front = s.vm
	}
	return s
}

// Serve says which of the two servers there are. One alone is for a test in
// which the kernel, not the simulator, decides who is reached.
type Serve string

// What may be served.
const (
	ServeBoth Serve = "both"
	ServeGKE  Serve = "gke"
	ServeVM   Serve = "vm"
)

// ParseServe reads "both", "gke" or "vm".
func ParseServe(text string) (Serve, error) {
	switch s := Serve(text); s {
	case ServeBoth, ServeGKE, ServeVM:
		return s, nil
	default:
		return "", fmt.Errorf("serve %q: want %s, %s or %s", text, ServeBoth, ServeGKE, ServeVM)
	}
}

// has reports whether what a fault needs is served. Nothing is always served.
func (s Serve) has(needed Serve) bool {
	return needed == "" || s == ServeBoth || s == needed
}
