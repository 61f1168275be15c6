package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/web"
)

// serve wires the parts and runs them until the context ends.
func serve(ctx context.Context, c config.Config, logs io.Writer) error {
	build := buildInfo()
	log := newLogger(logs, c.LogFormat, c.LogLevel)
	counters := exporter.NewCounters()
	p, err := assemble(c, counters, log)
	if err != nil {
		return err
	}
	self := p.self
	for _, w := range p.warnings {
		log.Warn("The configuration is doubtful", "warning", w)
	}
	var reporter *kube.Reporter
	var loop *agent.Agent
	if p.reader != nil && (c.Events || c.NodeCondition) {
		reporter = kube.NewReporter(p.reader, self, c.Events, c.NodeCondition, func() kube.Report {
			r := report.New(loop.Snapshot(), report.About{})
			return kube.Report{State: r.State, Message: r.Summary()}
		}, log)
	}
	p.options.Changed = func(previous identity.State, s *agent.Snapshot) {
		r := report.New(s, report.About{})
		logChange(log, previous, s.Verdict.State, r)
		if reporter != nil {
			reporter.Wake()
		}
	}
	loop = agent.New(p.options)

	registry := prometheus.NewRegistry()
	registry.MustRegister(counters, exporter.NewGauges(loop.Snapshot, build, c.MetadataHost))
	if c.RuntimeMetrics {
		// Without go_memstats_*: two dozen series on every node, for what
		// process_resident_memory_bytes and go_goroutines tell.
		registry.MustRegister(collectors.NewGoCollector(collectors.WithGoCollectorMemStatsMetricsDisabled()), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	server, err := web.New(web.Options{
		Address: c.ListenAddress, ConfigFile: c.WebConfigFile, Gatherer: registry, Snapshot: loop.Snapshot, Alive: loop.Alive, Logger: log,
		About: aboutOf(c, p),
	})
	if err != nil {
		return err
	}

	log.Info("Started", "version", build.Version, "address", server.Addr().String(), "metadata_host", c.MetadataHost, "interval", c.ProbeInterval.String(),
		"node", self.Node, "namespace", self.Namespace, "service_account", self.ServiceAccount)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { loop.Run(ctx); return nil })
	if reporter != nil {
		group.Go(func() error { reporter.Run(ctx); return nil })
	}
	err = group.Wait()
	log.Info("Stopped")
	return err
}

// logChange writes the line about a change of state, in the words of the Event.
func logChange(log *slog.Logger, previous, now identity.State, r report.Report) {
	level := slog.LevelWarn
	if now == identity.Match {
		level = slog.LevelInfo
	}
	log.Log(context.Background(), level, "State changed", "state", now, "observed", r.Observed, "metadata_server", r.MetadataServer, "why", r.Why,
		"previous_state", previous, "expected", r.Expected, "summary", r.Summary())
}

// parts are what the loop and a single check have in common.
type parts struct {
	options  agent.Options
	self     kube.Self
	reader   *kube.Client // nil where there is no API server
	warnings []string
}

func assemble(c config.Config, counters *exporter.Counters, log *slog.Logger) (parts, error) {
	userAgent := "workload-identity-exporter/" + version
	mounted, tokenErr := kube.SelfFromToken(c.ServiceAccountDirectory)
	self := kube.Self{Namespace: c.PodNamespace, ServiceAccount: c.ServiceAccount, Node: c.NodeName, Pod: c.PodName}.Or(mounted)
	var warnings []string
	if tokenErr != nil {
		warnings = append(warnings, tokenErr.Error())
	}
	environment := surroundingVariables(c)
	warnings = append(warnings, distrust(c)...)
	nodes, err := c.NodeAccounts()
	if err != nil {
		return parts{}, err
	}
	prober := metadata.New(c.MetadataHost, c.ProbeTimeout, userAgent)
	o := agent.Options{
		Prober: prober, Recorder: counters, Logger: log, Nodes: nodes,
		Interval: c.ProbeInterval, Timeout: c.ProbeTimeout, TokenInterval: c.TokenInterval,
		ExpectationInterval: c.ExpectationInterval, StartupGrace: c.StartupGrace,
		Claims: prober.Claims,
		Process: diagnose.Process{
			HostNetwork: hostNetwork(c), Environment: environment,
			Self: diagnose.Self{Namespace: self.Namespace, ServiceAccount: self.ServiceAccount, Node: self.Node, Pod: self.Pod, Project: self.Project},
		},
	}
	reader, readerErr := newReader(c, userAgent, counters.KubernetesRequest)
	if readerErr == nil {
		o.ClusterSettings = func(ctx context.Context) diagnose.Settings {
			return reader.ClusterSettings(ctx, self, c.CiliumNamespace)
		}
	}
	if o.Expect, err = expecter(c, self, reader, readerErr); err != nil {
		return parts{}, err
	}
	return parts{self: self, reader: reader, warnings: warnings, options: o}, nil
}

func newReader(c config.Config, userAgent string, observe func(kube.Resource, kube.Reason)) (*kube.Client, error) {
	cluster, err := kube.Config(c.ServiceAccountDirectory)
	if err != nil {
		return nil, err
	}
	return kube.NewClient(cluster, userAgent, observe)
}

// expecter is where the expected identity comes from: the configuration, or the
// annotations of the Pod's own ServiceAccount.
func expecter(c config.Config, self kube.Self, reader *kube.Client, readerErr error) (func(context.Context) (identity.Expectation, error), error) {
	configured, err := c.Expectation()
	if err != nil || configured.Known() {
		return func(context.Context) (identity.Expectation, error) { return configured, nil }, err
	}
	// Without the API server the agent still runs: it recognises a node's
	// account, and says itself what is missing.
	fail := func(err error) (func(context.Context) (identity.Expectation, error), error) {
		return func(context.Context) (identity.Expectation, error) { return identity.Expectation{}, err }, nil
	}
	if readerErr != nil {
		return fail(fmt.Errorf("%w: set WI_EXPECTED_EMAILS", readerErr))
	}
	if self.Namespace == "" || self.ServiceAccount == "" {
		return fail(errors.New("the Pod's ServiceAccount is not known: set WI_POD_NAMESPACE and WI_SERVICE_ACCOUNT from the downward API, or WI_EXPECTED_EMAILS"))
	}
	return func(ctx context.Context) (identity.Expectation, error) { return reader.Expectation(ctx, self) }, nil
}

// hostNetwork tells by the two addresses whether the Pod is in the node's network.
func hostNetwork(c config.Config) diagnose.Tristate {
	switch {
	case c.PodAddress == "" || c.NodeAddress == "":
		return diagnose.Unknown
	case c.PodAddress == c.NodeAddress:
		return diagnose.Yes
	}
	return diagnose.No
}

// surroundingVariables are those that send other clients than the prober elsewhere.
func surroundingVariables(c config.Config) diagnose.Environment {
	var e diagnose.Environment
	if c.MetadataHost != metadata.DefaultHost {
		e.MetadataHost = c.MetadataHost
	}
	for _, name := range []string{"GCE_METADATA_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"} {
		if os.Getenv(name) != "" {
			e.Variables = append(e.Variables, name)
		}
	}
	return e
}

// distrust lists what in the environment could make people believe something
// untrue, and takes GCE_METADATA_HOST out of it: the client library builds every
// request with it, and fails where it is not a host name, although the prober
// replaces it.
func distrust(c config.Config) []string {
	var warnings []string
	if c.MetadataHost != metadata.DefaultHost {
		warnings = append(warnings, fmt.Sprintf("WI_METADATA_HOST=%q: this server is probed instead of %s, which says nothing about the identity that Pods get", c.MetadataHost, metadata.DefaultHost))
	}
	if host := os.Getenv("GCE_METADATA_HOST"); host != "" && host != c.MetadataHost {
		warnings = append(warnings, fmt.Sprintf("GCE_METADATA_HOST=%q is ignored: remove it, or set WI_METADATA_HOST to the same if this server is to be probed", host))
	}
	_ = os.Unsetenv("GCE_METADATA_HOST") // cannot fail: the name is valid
	for _, typo := range config.Typos() {
		warnings = append(warnings, "Unknown variable "+typo+": it has no effect")
	}
	return warnings
}

// aboutOf has the configuration in effect. None of it is secret.
func aboutOf(c config.Config, p parts) report.About {
	a := report.About{
		Version: version, Node: p.self.Node, Pod: p.self.Pod, Namespace: p.self.Namespace, ServiceAccount: p.self.ServiceAccount,
		MetadataHost: c.MetadataHost, Warnings: p.warnings,
	}
	for _, v := range c.Values() {
		a.Settings = append(a.Settings, report.Setting(v))
	}
	return a
}

// newLogger writes lines as Cloud Logging reads them: severity, message, time.
func newLogger(w io.Writer, format string, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		switch {
		case len(groups) > 0:
		case a.Key == slog.LevelKey && a.Value.Any() == slog.LevelWarn:
			return slog.String("severity", "WARNING")
		case a.Key == slog.LevelKey:
			a.Key = "severity"
		case a.Key == slog.MessageKey:
			a.Key = "message"
		}
		return a
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
