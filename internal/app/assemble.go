package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/metadata"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// parts are what an App and a Check have in common.
type parts struct {
	agent    agent.Options
	counters *exporter.Counters
	self     func() kube.Self
	client   *kube.Client // nil where there is no API server to ask
	about    func() report.About
}

func assemble(o Options) (parts, error) {
	c := o.Config
	userAgent := "workload-identity-exporter/" + o.Build.Version
	// A token that is not there at the start may be mounted later.
	self := func() kube.Self {
		mounted, _ := kube.SelfFromToken(c.ServiceAccountDirectory)
		return kube.Self{Namespace: c.PodNamespace, ServiceAccount: c.ServiceAccount, Node: c.NodeName, Pod: c.PodName}.Or(mounted)
	}
	nodes, err := c.NodeAccounts()
	if err != nil {
		return parts{}, err
	}
	counters := exporter.NewCounters()
	var client *kube.Client
	clientErr := kube.ErrNotInCluster
	if !o.WithoutKubernetes {
		client, clientErr = newClient(o, userAgent, counters.KubernetesRequest)
	}
	expect, err := expecter(c, self, client, clientErr)
	if err != nil {
		return parts{}, err
	}
	prober := metadata.New(c.MetadataHost, c.ProbeTimeout, userAgent)
	return parts{
		agent: agent.Options{
			Prober: prober, Expect: expect, Recorder: counters, Logger: o.Logger, Nodes: nodes,
			Interval: c.ProbeInterval, Timeout: c.ProbeTimeout, TokenInterval: c.TokenInterval,
			ExpectationInterval: c.ExpectationInterval, AnnotationGrace: c.AnnotationGrace, StartupGrace: c.StartupGrace,
			ClusterSettings: clusterSettings(client, self, c.CiliumNamespace), Claims: prober.Claims,
			Process: diagnose.Process{
				HostNetwork: hostNetwork(c), OnlyWithServer: c.OnlyMetadataServerNodes, Gate: o.Gate, Environment: environmentFacts(c, o.Environment),
				Self: processFacts(self()),
			},
		},
		counters: counters, self: self, client: client,
		about: func() report.About { return about(o, self()) },
	}, nil
}

func newClient(o Options, userAgent string, observe func(kube.Resource, kube.Reason)) (*kube.Client, error) {
	cluster, err := kube.Config(func(name string) string { return o.Environment[name] }, o.Config.ServiceAccountDirectory)
	if err != nil {
		return nil, err
	}
	return kube.NewClient(cluster, userAgent, observe)
}

// expecter is where the expected identity comes from: the configuration, or the
// annotations of the Pod's own ServiceAccount.
func expecter(c config.Config, self func() kube.Self, client *kube.Client, clientErr error) (func(context.Context) (identity.Reading, error), error) {
	configured, err := c.Expectation()
	if err != nil || configured.Known() {
		return func(context.Context) (identity.Reading, error) { return identity.Reading{Expectation: configured}, nil }, err
	}
	// Without the API server the agent still runs: it recognises a node's
	// account, and says itself what is missing.
	fail := func(err error) (func(context.Context) (identity.Reading, error), error) {
		return func(context.Context) (identity.Reading, error) { return identity.Reading{}, err }, nil
	}
	if clientErr != nil {
		return fail(fmt.Errorf("%w: set WI_EXPECTED_EMAILS", clientErr))
	}
	return func(ctx context.Context) (identity.Reading, error) {
		now := self()
		if now.Namespace == "" || now.ServiceAccount == "" {
			return identity.Reading{}, errors.New("the Pod's ServiceAccount is not known: set WI_POD_NAMESPACE and WI_SERVICE_ACCOUNT from the downward API, or WI_EXPECTED_EMAILS")
		}
		return client.Expectation(ctx, now)
	}, nil
}

// clusterSettings reads the settings of the cluster that may explain a verdict, if
// there is an API server to ask.
func clusterSettings(client *kube.Client, self func() kube.Self, ciliumNamespace string) func(context.Context, diagnose.Scope, diagnose.Settings) diagnose.Settings {
	if client == nil {
		return nil
	}
	return func(ctx context.Context, scope diagnose.Scope, before diagnose.Settings) diagnose.Settings {
		return client.ClusterSettings(ctx, self(), ciliumNamespace, scope, before)
	}
}

func processFacts(self kube.Self) diagnose.Self {
	return diagnose.Self{Namespace: self.Namespace, ServiceAccount: self.ServiceAccount, Node: self.Node, Pod: self.Pod, Project: self.Project}
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

// about has the configuration in effect. None of it is secret.
func about(o Options, self kube.Self) report.About {
	a := report.About{
		Version: o.Build.Version, Node: self.Node, Pod: self.Pod, Namespace: self.Namespace, ServiceAccount: self.ServiceAccount,
		MetadataHost: o.Config.MetadataHost,
	}
	if _, err := kube.SelfFromToken(o.Config.ServiceAccountDirectory); err != nil {
		a.Warnings = append(a.Warnings, err.Error())
	}
	a.Warnings = append(a.Warnings, environmentWarnings(o.Config, o.Environment)...)
	for _, v := range o.Config.Values() {
		a.Settings = append(a.Settings, report.Setting(v))
	}
	return a
}
