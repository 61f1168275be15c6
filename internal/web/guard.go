package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// guard stands before everything, the passwords too: it bounds what those may cost who
// are not known yet, and reports a handler that panics.
type guard struct {
	next        http.Handler
	connections *connections
	passwords   *passwords
	panicked    func()
	log         *slog.Logger
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if cause := recover(); cause != nil {
			g.log.Error("A request made the handler panic", "path", r.URL.Path, "error", fmt.Sprint(cause))
			g.panicked()
			panic(http.ErrAbortHandler) // what was written of the answer is not to look whole
		}
	}()
	if g.connections.crowded() {
		w.Header().Set("Connection", "close")
	}
	if r.Header.Get("Authorization") == "" {
		g.next.ServeHTTP(w, r)
		return
	}
	credentials := g.passwords.sum(r.Header.Get("Authorization"))
	if !g.passwords.known(credentials) {
		if !g.passwords.attempt(r) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many passwords are tried from your address: wait a second", http.StatusTooManyRequests)
			return
		}
		defer g.passwords.done()
	}
	answer := &status{ResponseWriter: w}
	g.next.ServeHTTP(answer, r)
	switch {
	case answer.code == http.StatusUnauthorized:
		g.passwords.forget(credentials)
	case answer.code < 300: // a handler that says none says 200
		g.passwords.learn(credentials)
	}
}

// status notes the code of the answer.
type status struct {
	http.ResponseWriter
	code int
}

func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (s *status) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Bounds of passwords. To compare one with its bcrypt hash takes some 60 ms of a core.
const (
	attemptsPerSecond, attemptsAtOnce = 1, 5 // of an address
	addressesRemembered               = 1024
	credentialsRemembered             = 16
)

// passwords keeps those who try passwords from keeping out those who know one.
type passwords struct {
	salt  [32]byte
	turns chan struct{} // of the one that is compared

	mu       sync.Mutex
	good     [][sha256.Size]byte // the latest is the last
	attempts map[string]*rate.Limiter
}

func newPasswords() *passwords {
	p := &passwords{turns: make(chan struct{}, 1), attempts: map[string]*rate.Limiter{}}
	_, _ = rand.Read(p.salt[:]) // never fails
	return p
}

// sum stands for credentials, so that none are kept.
func (p *passwords) sum(authorization string) [sha256.Size]byte {
	return sha256.Sum256(append(p.salt[:], authorization...))
}

func (p *passwords) known(sum [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.good, sum)
}

func (p *passwords) learn(sum [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.good, sum) {
		p.good = append(p.good[max(0, len(p.good)-credentialsRemembered+1):], sum)
	}
}

// forget is for a password that was changed.
func (p *passwords) forget(sum [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.good = slices.DeleteFunc(p.good, func(s [sha256.Size]byte) bool { return s == sum })
}

// attempt waits for the turn to try a password, unless the address has tried too many.
// After it done must be called.
func (p *passwords) attempt(r *http.Request) bool {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	p.mu.Lock()
	limit := p.attempts[host]
	if limit == nil {
		if len(p.attempts) >= addressesRemembered {
			clear(p.attempts)
		}
		limit = rate.NewLimiter(attemptsPerSecond, attemptsAtOnce)
		p.attempts[host] = limit
	}
	p.mu.Unlock()
	if !limit.Allow() {
		return false
	}
	select {
	case p.turns <- struct{}{}:
		return true
	case <-r.Context().Done():
		return false
	}
}

func (p *passwords) done() { <-p.turns }

// ours lets pass what asks for the agent by an address, or by a name that is not of the
// public DNS: a page of somebody else's, whose name leads here, is not to read the status
// in the browser of somebody who can reach the agent (DNS rebinding).
func ours(hosts []string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
		_, err = netip.ParseAddr(host)
		private := !strings.Contains(host, ".") || slices.ContainsFunc([]string{".svc", ".local", ".internal", ".localhost"}, func(end string) bool { return strings.HasSuffix(host, end) })
		if err != nil && !private && !slices.Contains(hosts, host) {
			http.Error(w, "this host is not known here: ask by an address, or add the name to WI_WEB_HOSTS", http.StatusMisdirectedRequest)
			return
		}
		next(w, r)
	}
}

// seldom is a log handler for what others can bring about as often as they like: it takes
// some lines at once and one a second, and says how many it left out.
type seldom struct {
	slog.Handler
	limit   *rate.Limiter
	skipped *atomic.Int64
}

func newSeldom(l *slog.Logger) *slog.Logger {
	return slog.New(seldom{l.Handler(), rate.NewLimiter(rate.Every(time.Second), 10), &atomic.Int64{}})
}

func (s seldom) Handle(ctx context.Context, r slog.Record) error {
	if !s.limit.Allow() {
		s.skipped.Add(1)
		return nil
	}
	if skipped := s.skipped.Swap(0); skipped > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int64("lines_left_out_before", skipped))
	}
	return s.Handler.Handle(ctx, r)
}

func (s seldom) WithAttrs(attrs []slog.Attr) slog.Handler {
	s.Handler = s.Handler.WithAttrs(attrs)
	return s
}

func (s seldom) WithGroup(name string) slog.Handler {
	s.Handler = s.Handler.WithGroup(name)
	return s
}
