// Package web serves what the agent knows over HTTP: metrics, health, and a
// status page for people.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	toolkit "github.com/prometheus/exporter-toolkit/web"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/redact"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// stopTimeout is how long requests that are being answered may take after the
// stop. It is shorter than a second, so that the process is gone within one.
const stopTimeout = 700 * time.Millisecond

// maxConfigError is how much is said of what is wrong with the configuration file.
const maxConfigError = 512

// Options are the parts of a Server.
type Options struct {
	// Address to listen on, host:port.
	Address string
	// ConfigFile is that of the exporter-toolkit (TLS, basic authentication); empty for none.
	ConfigFile string
	Gatherer   prometheus.Gatherer
	Snapshot   func() *agent.Snapshot
	// Alive reports whether the probe loop turns.
	Alive func() bool
	// About is asked each time: a token that tells more may be mounted later.
	About func() report.About
	// Redactor hides identities; nil hides none.
	Redactor *redact.Redactor
	Logger   *slog.Logger
	// Hosts are names by which the status is asked for, beside those of ours.
	Hosts []string
	// Panicked is told of a handler that panicked.
	Panicked func()
}

// Server is the HTTP server. It listens from New on, and answers from Run on.
type Server struct {
	options  Options
	listener *connections
	http     *http.Server
}

// New checks the configuration file and binds the address.
func New(o Options) (*Server, error) {
	if err := toolkit.Validate(o.ConfigFile); err != nil {
		// Those of YAML have as many lines as there are errors.
		oneLine := strings.Join(strings.Fields(err.Error()), " ")
		if len(oneLine) > maxConfigError {
			oneLine = strings.ToValidUTF8(oneLine[:maxConfigError], "") + "..."
		}
		return nil, fmt.Errorf("set up TLS and authentication from WI_WEB_CONFIG_FILE=%q: %s", o.ConfigFile, oneLine)
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("WI_LISTEN_ADDRESS=%q: %w: want an address of this host and a free port", o.Address, err)
	}
	o.Logger = newSeldom(o.Logger)
	s := &Server{options: o, listener: &connections{Listener: listener, now: time.Now, open: map[*connection]bool{}}}
	s.http = &http.Server{
		Handler: s.routes(),
		// A client that sends nothing must not hold a connection for ever.
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       3 * time.Minute, // longer than a scrape interval
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		ConnState:         s.listener.changed,
		// Nobody needs HTTP/2 here, in which one connection is as dear as many.
		Protocols: new(http.Protocols),
	}
	s.http.Protocols.SetHTTP1(true)
	// The toolkit puts its passwords before the handler when it serves, and the guard
	// belongs before these.
	s.listener.ready = func() {
		s.http.Handler = &guard{s.http.Handler, s.listener, newPasswords(), o.Panicked, o.Logger}
	}
	return s, nil
}

// Addr is the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until the context ends, and then answers what it is answering.
func (s *Server) Run(ctx context.Context) error {
	serving := make(chan error, 1)
	noSocketActivation, file := false, s.options.ConfigFile
	go func() {
		serving <- toolkit.Serve(s.listener, s.http, &toolkit.FlagConfig{WebSystemdSocket: &noSocketActivation, WebConfigFile: &file}, s.options.Logger)
	}()
	select {
	case err := <-serving:
		return fmt.Errorf("serve HTTP on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	// The context of the requests in flight lives on: they are to be answered.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := s.http.Shutdown(limited); err != nil {
		err = errors.Join(err, s.http.Close())
		s.options.Logger.Debug("Requests were cut off at the stop", "error", err.Error())
	}
	if err := <-serving; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", s.Addr(), err)
	}
	return nil
}

func (s *Server) routes() http.Handler {
	m := http.NewServeMux()
	m.Handle("GET /metrics", newScrapes(promhttp.HandlerFor(s.options.Gatherer, promhttp.HandlerOpts{
		EnableOpenMetrics:  true,
		DisableCompression: true, // see compress
		ErrorLog:           slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelError),
	})))
	for _, path := range []string{"GET /healthz", "GET /-/healthy"} {
		m.HandleFunc(path, s.healthy)
	}
	for _, path := range []string{"GET /readyz", "GET /-/ready"} {
		m.HandleFunc(path, s.ready)
	}
	m.HandleFunc("GET /status.json", ours(s.options.Hosts, s.statusJSON))
	m.HandleFunc("GET /{$}", ours(s.options.Hosts, s.statusPage))
	return m
}

// healthy tells of the loop's heartbeat. The state of the metadata server has no
// part in it: a restart of the agent would not repair that.
func (s *Server) healthy(w http.ResponseWriter, _ *http.Request) {
	if !s.options.Alive() {
		http.Error(w, "the probe loop hangs", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// ready tells that there is a verdict, whatever it is: an agent on a broken node
// is ready to say so.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if now := s.options.Snapshot(); !now.Ready() {
		http.Error(w, "no verdict yet: "+s.report().Why, http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// statusJSON is the status page for programs.
func (s *Server) statusJSON(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(s.report()) // fails only if the client has gone
}

func (s *Server) report() report.Report {
	return redact.Value(s.options.Redactor, report.New(s.options.Snapshot(), s.options.About()))
}
