package simulator

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// wait takes its time, and reports false when the request is over before that:
// because the client has gone, or because the simulator stops.
func wait(ctx context.Context, delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// hang holds a request until it is over, and then drops the connection: to
// return would be to answer.
func hang(r *http.Request) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// after answers when the delay has passed.
func after(delay time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !wait(r.Context(), delay) {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

func slow(s servers, f Fault) http.Handler { return after(f.Delay, s.front) }

// stsBlocked fails where STS is asked. The text is not recorded; it is the one
// of Go's context package, in which the server is written.
func stsBlocked(s servers, f Fault) http.Handler {
	blocked := saying(http.StatusGatewayTimeout, "Unable to generate access token; context deadline exceeded\n")
	return at(s.front, after(f.Delay, blocked), "token", "identity")
}

func silent(servers, Fault) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hang(r) })
}

// stall promises the whole answer and sends half of it, at least a byte.
func stall(s servers, _ Fault) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		right := captured(s.front, r)
		body := right.body.Bytes()
		right.header.Set("Content-Length", strconv.Itoa(len(body)))
		right.writeHeader(w)
		_, _ = w.Write(body[:(len(body)+1)/2]) // fails only when the client has gone
		_ = http.NewResponseController(w).Flush()
		hang(r)
	})
}

// dripping sends its headers at once, so that a client sees the status and its
// deadline strikes while it reads the body.
func dripping(status int) func(servers, Fault) http.Handler {
	return func(servers, Fault) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/text")
			w.WriteHeader(status)
			sent := http.NewResponseController(w)
			for sent.Flush() == nil && wait(r.Context(), 100*time.Millisecond) {
				if _, err := w.Write([]byte(".")); err != nil {
					break
				}
			}
			panic(http.ErrAbortHandler)
		})
	}
}

// reset makes the kernel send RST instead of FIN. It waits for the request, so
// that the client has always connected, and fails when it reads.
func reset(servers, Fault) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		connectionOf(r).abort()
		panic(http.ErrAbortHandler)
	})
}
