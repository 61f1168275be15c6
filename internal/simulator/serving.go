package simulator

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// grace is how long a stop waits for requests that are about to end. Those
	// that hang by design end at once, with their context.
	grace = 300 * time.Millisecond
	// headerTimeout keeps a client that never asks from staying forever.
	headerTimeout = 10 * time.Second
)

// serveHTTP answers on a listener until ctx ends or the listener breaks. When it
// returns, the listener, its connections and their goroutines are gone.
func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var connections sync.WaitGroup
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// A stop ends every request's context, and with it all waiting.
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, conn)
		},
		// The server itself does not wait for connections that it closes. Each
		// is new once, while Serve runs, and then ends in one of two ways.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				connections.Add(1)
			case http.StateClosed, http.StateHijacked:
				connections.Done()
			case http.StateActive, http.StateIdle:
			}
		},
	}

	var closing sync.WaitGroup
	closing.Go(func() {
		<-ctx.Done()
		bounded, done := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer done()
		if server.Shutdown(bounded) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(listener)
	cancel()
	closing.Wait()
	connections.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
