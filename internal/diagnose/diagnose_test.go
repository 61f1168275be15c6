package diagnose_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	app       identity.Identity = "app@project.iam.gserviceaccount.com"
	other     identity.Identity = "other@project.iam.gserviceaccount.com"
	node      identity.Identity = "1-compute@developer.gserviceaccount.com"
	pool      identity.Identity = "project.svc.id.goog"
	principal identity.Identity = "principal://iam.googleapis.com/projects/1/locations/global/" +
		"workloadidentitypools/project.svc.id.goog/subject/ns/demo/sa/app"
)

// The keys of cilium-config.
const (
	bpfMasquerade        = "enable-bpf-masquerade"
	ipv4Masquerade       = "enable-ipv4-masquerade"
	kubeProxyReplacement = "kube-proxy-replacement"
	legacyRouting        = "enable-host-legacy-routing"
	ownAgent             = "enable-ip-masq-agent"
	redirectPolicy       = "enable-local-redirect-policy"
)

// fact changes facts. Facts that no test mentions are not known.
type fact func(*diagnose.Facts)

func facts(all ...fact) diagnose.Facts {
	f := diagnose.Facts{Loop: diagnose.Loop{Expectation: annotated(app)}}
	for _, set := range all {
		set(&f)
	}
	return f
}

func annotated(id identity.Identity) identity.Expectation {
	return identity.Expectation{Accepted: []identity.Pattern{identity.Exactly(id)}, Source: identity.SourceAnnotation}
}

func verdict(s identity.State, id identity.Identity, by identity.Server) fact {
	return func(f *diagnose.Facts) {
		f.Verdict = identity.Verdict{State: s, Identity: id, Server: by}
		f.Observation.Email = identity.Email{Request: identity.Request{Origin: identity.Asked}, Identity: id}
		f.Observation.Token.Request = identity.Request{Origin: identity.Asked}
		f.Observation.Server = identity.Responder{Request: identity.Request{Origin: identity.Asked}, Server: by}
	}
}

func fallback(by identity.Server) fact { return verdict(identity.NodeFallback, node, by) }
func match(by identity.Server) fact    { return verdict(identity.Match, app, by) }

// failed is an outage: each endpoint has a failure or none.
func failed(by identity.Server, email, token, server *identity.Failure) fact {
	return func(f *diagnose.Facts) {
		verdict(identity.Unavailable, "", by)(f)
		f.Observation.Email.Failure, f.Observation.Token.Failure, f.Observation.Server.Failure = email, token, server
		if email == nil {
			f.Verdict.Identity, f.Observation.Email.Identity = app, app
		}
	}
}

// allFailed is an outage in which every request fails in the same way.
func allFailed(f *identity.Failure) fact { return failed(unknown, f, f, f) }

// reused is a good token of an earlier probe, for a probe that did not ask for one.
func reused(f *diagnose.Facts) {
	f.Observation.Token = identity.Token{Request: identity.Request{Origin: identity.Reused}}
}

// marked are answers that failed with the mark of a proxy.
func marked(mark string) fact {
	return func(f *diagnose.Facts) {
		for _, r := range []*identity.Request{&f.Observation.Email.Request, &f.Observation.Token.Request, &f.Observation.Server.Request} {
			if r.Live() && r.Failure != nil && r.Failure.Status != 0 {
				r.Proxy = mark
			}
		}
	}
}

// envoy marks them as the proxy of a mesh does. Right answers that passed it have that, too.
func envoy(f *diagnose.Facts) {
	const mark = `the header "server: envoy"`
	f.Observation.Server.Proxy = mark
	marked(mark)(f)
}

// genuine: the answers to the email and to the machine type are such as only a
// metadata server gives.
func genuine(f *diagnose.Facts) {
	f.Observation.Email.Genuine, f.Observation.Server.Genuine = true, true
}

func refused(reason identity.Reason, status int) fact {
	return func(f *diagnose.Facts) {
		verdict(identity.TokenDenied, app, identity.ServerGKE)(f)
		f.Observation.Token.Failure = &identity.Failure{Reason: reason, Status: status, Detail: "body withheld"}
	}
}

// passed is an identity that has come through a proxy.
func passed(f *diagnose.Facts) { f.Observation.Email.Passed = `the header "server: istio-envoy"` }

// blocked is a refusal of which IAM says what is in the way.
func blocked(f *diagnose.Facts) {
	f.Observation.Token.Failure.Blocked = "VPC Service Controls forbid the request"
}

func failure(reason identity.Reason, status int) *identity.Failure {
	return &identity.Failure{Reason: reason, Status: status, Detail: "detail"}
}

// cilium is cilium-config with pairs of keys and values.
func cilium(pairs ...string) fact {
	data := map[string]string{"unrelated": "value"}
	for i := 0; i < len(pairs); i += 2 {
		data[pairs[i]] = pairs[i+1]
	}
	return func(f *diagnose.Facts) {
		f.Cilium = diagnose.ConfigMap{State: diagnose.Read, Data: data, Changed: noon}
	}
}

// noon is when somebody changed the settings of Cilium last.
var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// started is when Cilium's agent did, relative to the last change of its settings.
func started(after time.Duration) fact {
	return func(f *diagnose.Facts) {
		f.CiliumAgent = diagnose.CiliumAgent{State: diagnose.Read, Started: noon.Add(after), Version: "v1.20.2"}
	}
}

// version is that of Cilium, if nothing more is known of its agent.
func version(v string) fact { return func(f *diagnose.Facts) { f.CiliumAgent.Version = v } }

func ciliumAgentIs(s diagnose.ReadState) fact {
	return func(f *diagnose.Facts) { f.CiliumAgent = diagnose.CiliumAgent{State: s} }
}

// nodeConfig is a CiliumNodeConfig with pairs of keys and values.
func nodeConfig(name string, selects diagnose.Tristate, pairs ...string) fact {
	return func(f *diagnose.Facts) {
		n := diagnose.NodeConfig{Name: name, Selects: selects, Defaults: map[string]string{}, Changed: noon}
		for i := 0; i < len(pairs); i += 2 {
			n.Defaults[pairs[i]] = pairs[i+1]
		}
		f.NodeConfigs.State = diagnose.Read
		f.NodeConfigs.Items = append(f.NodeConfigs.Items, n)
	}
}

func nodeConfigsAre(s diagnose.ReadState) fact {
	return func(f *diagnose.Facts) { f.NodeConfigs = diagnose.NodeConfigs{State: s} }
}

func ciliumIs(s diagnose.ReadState) fact {
	return func(f *diagnose.Facts) { f.Cilium.State = s }
}

func ipMasq(config string) fact {
	return func(f *diagnose.Facts) {
		f.IPMasqAgent = diagnose.ConfigMap{State: diagnose.Read, Data: map[string]string{"config": config}}
	}
}

func ipMasqIs(s diagnose.ReadState) fact {
	return func(f *diagnose.Facts) { f.IPMasqAgent.State = s }
}

func labels(pairs ...string) fact {
	return func(f *diagnose.Facts) {
		f.NodeLabels = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			f.NodeLabels[pairs[i]] = pairs[i+1]
		}
	}
}

func annotations(pairs ...string) fact {
	return func(f *diagnose.Facts) {
		f.Annotations = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			f.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

func configured(ids ...identity.Identity) fact {
	return func(f *diagnose.Facts) { f.Expectation = identity.Expect(ids...) }
}

func replaced(e identity.Expectation) fact { return func(f *diagnose.Facts) { f.Replaced = e } }
func variables(names ...string) fact {
	return func(f *diagnose.Facts) { f.Environment.Variables = names }
}

func signs(by identity.Server, machine string) fact {
	return func(f *diagnose.Facts) {
		f.Claims = identity.Claims{Server: by, Machine: machine, Identity: f.Verdict.Identity}
	}
}

func probes(host string) fact { return func(f *diagnose.Facts) { f.Environment.MetadataHost = host } }

var (
	podNetwork  fact = func(f *diagnose.Facts) { f.HostNetwork = diagnose.No }
	hostNetwork fact = func(f *diagnose.Facts) { f.HostNetwork = diagnose.Yes }
	v1          fact = func(f *diagnose.Facts) { f.DataplaneV2 = diagnose.No }
	v2          fact = func(f *diagnose.Facts) { f.DataplaneV2 = diagnose.Yes }
	recovered   fact = func(f *diagnose.Facts) { f.Recovered = true }
	withServer       = labels(diagnose.LabelMetadataServer, "true")
	noServer         = labels("kubernetes.io/os", "linux")

	dropped = failure(identity.Timeout, 0)
	hung    = &identity.Failure{Reason: identity.Timeout, Connected: true}

	bypass    = cilium(bpfMasquerade, "true", kubeProxyReplacement, "true")
	legacy    = cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", legacyRouting, "true")
	iptables  = cilium(bpfMasquerade, "false", kubeProxyReplacement, "true")
	kubeProxy = cilium(bpfMasquerade, "true", kubeProxyReplacement, "false")
	redirect  = cilium(bpfMasquerade, "true", kubeProxyReplacement, "true", redirectPolicy, "true")
	ownMasq   = cilium(bpfMasquerade, "true", kubeProxyReplacement, "false", ownAgent, "true")
)

const (
	vm, gke, unknown = identity.ServerVM, identity.ServerGKE, identity.ServerUnknown
	linkLocal        = "masqLinkLocal: true\nnonMasqueradeCIDRs: [10.0.0.0/8]"
)

// all puts several facts into one.
func all(facts ...fact) fact {
	return func(f *diagnose.Facts) {
		for _, set := range facts {
			set(f)
		}
	}
}

// known are the facts of a node on which everything but the settings of Cilium is known
// and well: they are those that run.
var known = all(podNetwork, withServer, v1, ipMasqIs(diagnose.Absent), nodeConfigsAre(diagnose.Absent), started(time.Minute))

// row is a case: facts and what is said about them.
type row struct {
	name  string
	facts diagnose.Facts
	// want are the suspects or, for a match, the risks: "confidence cause, ..." in order.
	want string
	// excluded must be among the causes that are ruled out: "cause, ...".
	excluded string
}

// diagnoses fails where something else is said.
func diagnoses(t *testing.T, rows []row) {
	t.Helper()
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			d := diagnose.Diagnose(tt.facts)
			list := d.Suspects
			if tt.facts.Verdict.State == identity.Match {
				list = d.Risks
			}
			var got []string
			for _, f := range list {
				got = append(got, string(f.Confidence)+" "+string(f.Cause))
			}
			if got := strings.Join(got, ", "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for c := range strings.SplitSeq(tt.excluded, ", ") {
				if c != "" && !slices.Contains(causes(d.RuledOut), diagnose.Cause(c)) {
					t.Errorf("%s is not ruled out, but %v are", c, causes(d.RuledOut))
				}
			}
			check(t, tt.facts, d)
		})
	}
}

func causes(findings []diagnose.Finding) []diagnose.Cause {
	var list []diagnose.Cause
	for _, f := range findings {
		list = append(list, f.Cause)
	}
	return list
}

func BenchmarkDiagnose(b *testing.B) {
	f := facts(fallback(vm), cilium("enable-bpf-masquerade", "true", "kube-proxy-replacement", "true"), started(time.Hour), version("v1.20.2"))
	b.ReportAllocs()
	for b.Loop() {
		if d := diagnose.Diagnose(f); len(d.Suspects) == 0 {
			b.Fatal(d)
		}
	}
}
