package app

import (
	"context"
	"log/slog"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/redact"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// changed logs a change of state, and wakes who writes it to Kubernetes.
func (a *App) changed(previous identity.State, s *agent.Snapshot) {
	now, level := s.Verdict.State, slog.LevelWarn
	if now == identity.Match {
		level = slog.LevelInfo
	}
	r := report.New(s, report.About{})
	a.log.Log(context.Background(), level, "State changed", "state", now, "observed", r.Observed, "metadata_server", r.MetadataServer, "why", r.Why,
		"previous_state", previous, "expected", s.Expectation.String(), "summary", r.Summary())
	if a.reporter != nil {
		a.reporter.Wake()
	}
}

// report is the state at this moment, in the words of the log.
func (a *App) report() kube.Report {
	r := redact.Value(a.redactor, report.New(a.loop.Snapshot(), report.About{}))
	return kube.Report{State: r.State, Message: r.Summary()}
}
