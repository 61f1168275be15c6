// Package app is the process as a value: it wires the parts, and runs them. The
// commands parse, call and exit.
package app

import (
	"context"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/redact"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/web"
)

// Options are what a process is made from. All must be set, unless it says otherwise.
type Options struct {
	Config config.Config
	// Environment is that of the process, before GCE_METADATA_HOST was unset.
	Environment config.Environment
	Build       exporter.Build
	// Redactor hides identities in all but the log; nil hides none.
	Redactor *redact.Redactor
	Logger   *slog.Logger
	// Registry is where the metrics are served from. A Check has none.
	Registry *prometheus.Registry
	// WithoutKubernetes: the API server is not asked. What is expected must be
	// configured then.
	WithoutKubernetes bool
	// Gate: a Check is for the Pod of a workload that it runs in, of which somebody has
	// said on the command line what is right.
	Gate bool
	// Risks: a Check shows what threatens a match, too.
	Risks bool
}

// App is the agent with all that it serves. It listens from New on, and must Run.
type App struct {
	log      *slog.Logger
	redactor *redact.Redactor
	config   config.Config
	version  string
	self     kube.Self
	loop     *agent.Agent
	reporter *kube.Reporter // nil: nobody is told
	server   *web.Server
}

// New wires the parts and binds the address.
func New(o Options) (*App, error) {
	p, err := assemble(o)
	if err != nil {
		return nil, err
	}
	for _, w := range p.about().Warnings {
		o.Logger.Warn("Suspicious setting", "warning", w)
	}
	c := o.Config
	a := &App{log: o.Logger, redactor: o.Redactor, config: c, version: o.Build.Version, self: p.self()}
	if p.client != nil && (c.Events || c.NodeCondition) {
		a.reporter = kube.NewReporter(p.client, p.self, c.Events, c.NodeCondition, a.report, o.Logger)
	}
	p.agent.Changed = a.changed
	a.loop = agent.New(p.agent)

	o.Registry.MustRegister(p.counters, exporter.NewGauges(a.loop.Snapshot, o.Build, c.MetadataHost, o.Redactor))
	if c.RuntimeMetrics {
		// Without go_memstats_*: two dozen series on every node, for what
		// process_resident_memory_bytes and go_goroutines tell.
		o.Registry.MustRegister(collectors.NewGoCollector(collectors.WithGoCollectorMemStatsMetricsDisabled()), exporter.NewProcess())
	}
	a.server, err = web.New(web.Options{
		Address: c.ListenAddress, ConfigFile: c.WebConfigFile, Gatherer: o.Registry,
		Snapshot: a.loop.Snapshot, Alive: a.loop.Alive, About: p.about, Logger: o.Logger,
		Hosts: c.WebHosts, Panicked: p.counters.PanickedServing, Redactor: o.Redactor,
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Addr is the address that it listens on.
func (a *App) Addr() net.Addr { return a.server.Addr() }

// Run probes and serves until the context ends.
func (a *App) Run(ctx context.Context) error {
	a.log.Info("Started", "version", a.version, "address", a.Addr().String(), "metadata_host", a.config.MetadataHost, "interval", a.config.ProbeInterval.String(),
		"node", a.self.Node, "namespace", a.self.Namespace, "service_account", a.self.ServiceAccount)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.server.Run(ctx) })
	group.Go(func() error { a.loop.Run(ctx); return nil })
	if a.reporter != nil {
		group.Go(func() error { a.reporter.Run(ctx); return nil })
	}
	err := group.Wait()
	a.log.Info("Stopped")
	return err
}
