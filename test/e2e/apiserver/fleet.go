package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// fleet is the agents of a cluster.
type fleet struct {
	cluster  *cluster
	defaults config.Config
	failing  atomic.Bool
	agents   []*agent.Agent

	began time.Time
	mu    sync.Mutex
	// requests counts them by the second since the beginning, and by how they ended.
	requests []map[kube.Reason]int
}

func newFleet(c *cluster) (*fleet, error) {
	defaults, err := config.Load()
	return &fleet{cluster: c, defaults: defaults, began: time.Now()}, err
}

func (f *fleet) fails(on bool) { f.failing.Store(on) }

func (f *fleet) observe(_ kube.Resource, r kube.Reason) {
	second := int(time.Since(f.began).Seconds())
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.requests) <= second {
		f.requests = append(f.requests, map[kube.Reason]int{})
	}
	f.requests[second][r]++
}

// Probe makes up what a metadata server would answer.
func (f *fleet) Probe(_ context.Context, withToken bool) identity.Observation {
	asked := identity.Request{Origin: identity.Asked, Took: time.Millisecond, Genuine: true}
	o := identity.Observation{Server: identity.Responder{Request: asked, Server: identity.ServerGKE}}
	o.Email.Request, o.Email.Identity = asked, email
	if f.failing.Load() {
		o.Server.Server, o.Email.Identity = identity.ServerVM, "nodes@demo-project.iam.gserviceaccount.com"
	}
	if withToken {
		o.Token = identity.Token{Request: asked, Type: "Bearer", Lifetime: time.Hour}
	}
	return o
}

// nobody counts probes: 15,000 histograms would take more memory than the agents.
type nobody struct{}

func (nobody) Probed(identity.Observation) {}
func (nobody) Judged(identity.State)       {}
func (nobody) Panicked()                   {}

// start starts so many agents, as many of them each second as a rolling update would.
func (f *fleet) start(ctx context.Context, agents int, starts float64) error {
	for i := range agents {
		if err := wait(ctx, time.Until(f.began.Add(time.Duration(float64(i)/starts*float64(time.Second))))); err != nil {
			return err
		}
		if err := f.startOne(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) startOne(ctx context.Context, i int) error {
	self := kube.Self{
		Namespace: f.cluster.namespace, ServiceAccount: account, Project: "demo-project",
		Node: fmt.Sprintf("node-%05d", i), Pod: fmt.Sprintf("exporter-%05d", i), PodUID: fmt.Sprintf("00000000-0000-0000-0000-%012d", i),
	}
	client, err := kube.NewClient(f.cluster.agents, "workload-identity-exporter/load", f.observe)
	if err != nil {
		return err
	}
	quiet, d := slog.New(slog.DiscardHandler), f.defaults
	var reporter *kube.Reporter
	a := agent.New(agent.Options{
		Prober: f, Recorder: nobody{}, Logger: quiet, Nodes: identity.DefaultNodeAccounts(),
		Expect:   func(ctx context.Context) (identity.Reading, error) { return client.Expectation(ctx, self) },
		Interval: d.ProbeInterval, Timeout: d.ProbeTimeout, TokenInterval: d.TokenInterval,
		ExpectationInterval: d.ExpectationInterval, AnnotationGrace: d.AnnotationGrace, StartupGrace: d.StartupGrace,
		ClusterSettings: func(ctx context.Context, scope diagnose.Scope, before diagnose.Settings) diagnose.Settings {
			return client.ClusterSettings(ctx, self, d.CiliumNamespace, scope, before)
		},
		Changed: func(identity.State, *agent.Snapshot) { reporter.Wake() },
	})
	reporter = kube.NewReporter(client, func() kube.Self { return self }, true, false, func() kube.Report {
		r := report.New(a.Snapshot(), report.About{})
		return kube.Report{State: r.State, Message: r.Summary()}
	}, quiet)
	f.mu.Lock()
	f.agents = append(f.agents, a)
	f.mu.Unlock()
	go a.Run(ctx)
	go reporter.Run(ctx)
	return nil
}

// states counts the agents by what they state.
func (f *fleet) states() map[identity.State]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := map[identity.State]int{}
	for _, a := range f.agents {
		n[a.Snapshot().Verdict.State]++
	}
	return n
}
