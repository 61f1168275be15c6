// Package simulator plays the two metadata servers that a Pod on a GKE node may
// reach, the GKE metadata server and the Compute Engine one of the node, with
// faults that are switched while it runs.
//
// The faults are what a detector must tell apart: the wrong server, the wrong
// identity, no token, a server in trouble, a broken transport, and nonsense. See
// Faults for the list.
package simulator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Simulator serves metadata as Pods see it at 169.254.169.254, and the switches
// of its faults on an address of their own. New binds both addresses, and Run
// must follow to serve and to release them.
type Simulator struct {
	serve   Serve
	servers servers
	log     *slog.Logger
	gate    *gate
	control net.Listener // nil without switches
	ran     atomic.Bool

	requests requests
	handler  atomic.Pointer[http.Handler]
	switched chan struct{} // wakes the loop that turns flap

	mu      sync.Mutex // held while the listener is shut or opened, too
	fault   Fault
	playing Fault // differs from fault for flap only
}

// New binds the addresses and sets the first fault. Its error is a *ListenError
// when an address cannot be had; otherwise the options are wrong.
func New(options Options) (*Simulator, error) {
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	fault, err := options.Fault.completeFor(options.Serve)
	if err != nil {
		return nil, err
	}
	metadata, err := newGate(options.MetadataAddress)
	if err != nil {
		return nil, &ListenError{Listener: "metadata", Address: options.MetadataAddress, Err: err}
	}
	s := &Simulator{
		serve:    options.Serve,
		servers:  options.servers(),
		log:      options.Log,
		gate:     metadata,
		switched: make(chan struct{}, 1),
	}
	if options.ControlAddress != "" {
		if s.control, err = listen(options.ControlAddress); err != nil {
			_ = metadata.Close()
			return nil, &ListenError{Listener: "control", Address: options.ControlAddress, Err: err}
		}
	}
	if err := s.set(fault); err != nil {
		return nil, err // cannot happen: it was checked, and the listener is open
	}
	return s, nil
}

// ListenError tells which of the two listeners could not be had.
type ListenError struct {
	Listener string // "metadata" or "control"
	Address  string
	Err      error
}

func (e *ListenError) Error() string {
	return fmt.Sprintf("listen for %s on %s: %v", e.Listener, e.Address, e.Err)
}

func (e *ListenError) Unwrap() error { return e.Err }

// MetadataAddr is where Pods ask, also while connections are refused.
func (s *Simulator) MetadataAddr() net.Addr { return s.gate.Addr() }

// ControlAddr is where faults are switched; nil without switches.
func (s *Simulator) ControlAddr() net.Addr {
	if s.control == nil {
		return nil
	}
	return s.control.Addr()
}

// Run serves until ctx ends, which is no error, or until a listener breaks. It
// returns within a second, however clients hang, and leaves nothing behind. A
// simulator runs once.
func (s *Simulator) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("a simulator runs once")
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	var tasks sync.WaitGroup
	var metadataErr, controlErr error
	tasks.Go(func() {
		defer stop()
		metadataErr = serveHTTP(ctx, s.gate, http.HandlerFunc(s.metadata), s.log)
	})
	if s.control != nil {
		tasks.Go(func() {
			defer stop()
			controlErr = serveHTTP(ctx, s.control, s.switches(), s.log)
		})
	}
	tasks.Go(func() { s.flap(ctx) })
	tasks.Wait()
	return errors.Join(metadataErr, controlErr)
}

// metadata answers with the fault of this moment.
func (s *Simulator) metadata(w http.ResponseWriter, r *http.Request) {
	s.requests.count(r.URL.Path)
	(*s.handler.Load()).ServeHTTP(w, r)
}

// SetFault switches to a fault. When it returns, the next request meets it; for
// refused, the kernel refuses the next connection. Requests that are on their way
// end as they began.
//
// Its error is ErrUnknownFault, ErrParameter or ErrNotServed, or tells why the
// port could not be opened again.
func (s *Simulator) SetFault(f Fault) error {
	f, err := f.completeFor(s.serve)
	if err != nil {
		return err
	}
	if err := s.set(f); err != nil {
		return err
	}
	s.log.Info("fault switched", "fault", f.String())
	return nil
}

func (s *Simulator) set(f Fault) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.play(f.first()); err != nil {
		return err
	}
	s.fault = f
	select {
	case s.switched <- struct{}{}:
	default: // the loop has not looked yet, and will see this one
	}
	return nil
}

// Fault is what was set last, with the defaults of its parameters.
func (s *Simulator) Fault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// play makes a fault other than flap effective. The caller holds the lock.
func (s *Simulator) play(f Fault) error {
	k, err := lookup(f.Name)
	if err != nil {
		return err
	}
	if f.Name == refused {
		s.gate.shut()
	}
	handler := k.play(s.servers, f)
	s.handler.Store(&handler)
	if f.Name != refused {
		if err := s.gate.reopen(); err != nil {
			return err
		}
	}
	s.playing = f
	return nil
}

// flap turns a fault on and off while that is the one that is set.
func (s *Simulator) flap(ctx context.Context) {
	for {
		var tick <-chan time.Time
		set := s.Fault()
		if set.Name == Flap {
			tick = time.After(set.Every)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.switched:
		case <-tick:
			s.turn(set)
		}
	}
}

func (s *Simulator) turn(set Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != set {
		return // switched in the meantime
	}
	next := set.first()
	if s.playing == next {
		next = Fault{Name: Healthy}
	}
	if err := s.play(next); err != nil {
		s.log.Error("flap cannot switch, and tries again", "to", next.String(), "err", err)
		return
	}
	s.log.Info("flap switched", "now", next.String())
}
