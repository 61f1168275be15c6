package contract

import (
	"slices"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// lapse is a fault of the simulator, and what the Event about it must say.
type lapse struct {
	fault string
	// causes are those that the Event names, and it names no others.
	causes []diagnose.Cause
	// settings are those of Cilium, if not those by which it bypasses the node's rule.
	settings map[string]string
	// ofToken marks a fault that shows only when a token is asked for. All others
	// must be explained while a token of before is still taken for granted.
	ofToken bool
	// quiet marks a fault of which there is no Event.
	quiet bool
	// byChance marks a fault of which there is one only if probes in a row happen to
	// agree, since each may say something else. Then it names any cause.
	byChance bool
}

// lapses has a row for each fault of the simulator.
func lapses() []lapse {
	type causes = []diagnose.Cause
	silence := causes{diagnose.MetadataServerDown} // on a connection, which no policy would let come about
	return []lapse{
		{fault: "healthy", quiet: true},
		{fault: "bypass", causes: causes{diagnose.CiliumBPFHostRouting}},
		{fault: "notrack", causes: causes{diagnose.CiliumNoConntrack, diagnose.CiliumBPFHostRouting}, settings: map[string]string{
			"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true",
			"enable-host-legacy-routing": "true", "install-no-conntrack-iptables-rules": "true",
		}},
		{fault: "snat", causes: causes{diagnose.SourceNAT}},
		{fault: "snat-error", causes: causes{diagnose.SourceNAT}},
		{fault: "unknown-pod", causes: causes{diagnose.SourceNAT}},
		{fault: "mixed", quiet: true}, // a match, and a risk on the page
		{fault: "alternate", byChance: true},

		{fault: "swap", causes: causes{diagnose.AnnotationChanged, diagnose.SourceNAT}},
		{fault: "stranger", causes: causes{diagnose.AnnotationChanged, diagnose.SourceNAT}},
		{fault: "unannotated", causes: causes{diagnose.AnnotationChanged}},
		{fault: "principal", causes: causes{diagnose.AnnotationChanged}},

		{fault: "no-binding", causes: causes{diagnose.IAMBindingMissing}, ofToken: true},
		{fault: "no-gsa", causes: causes{diagnose.GSAMissing}, ofToken: true},
		{fault: "sts-blocked", causes: causes{diagnose.STSBlocked}, ofToken: true},
		{fault: "expiring", quiet: true, ofToken: true}, // a match
		{fault: "expired", causes: causes{diagnose.TokenUnusable}, ofToken: true},
		{fault: "leaky", causes: causes{diagnose.STSBlocked}, ofToken: true},

		// As any server may answer, also one that starts.
		{fault: "not-found", causes: causes{diagnose.MetadataServerDown, diagnose.NotAMetadataServer}},
		{fault: "concealed", causes: causes{diagnose.NotAMetadataServer}},
		{fault: "throttled", causes: causes{diagnose.Throttled}},
		{fault: "queue-timeout", causes: causes{diagnose.Throttled}},
		{fault: "server-error", causes: causes{diagnose.MetadataServerDown}},
		{fault: "unavailable", causes: causes{diagnose.MetadataServerDown}},

		{fault: "slow", causes: silence},
		{fault: "trickle", causes: causes{diagnose.MetadataServerDown}},
		// None is known: GKE's server is there, as the half of its answer about the
		// machine type tells, and no policy cuts an answer in two.
		{fault: "stall"},
		{fault: "silent", causes: silence},
		{fault: "reset", causes: causes{diagnose.MetadataServerDown}},
		{fault: "refused", causes: causes{diagnose.MetadataServerDown}},

		{fault: "not-json", causes: causes{diagnose.TokenUnusable}, ofToken: true},
		// None is known: a metadata server gives the tokens.
		{fault: "not-email"},
		{fault: "proxy", causes: causes{diagnose.NotAMetadataServer}},
		{fault: "sidecar", quiet: true}, // a match: GKE's server did answer
		{fault: "html", causes: causes{diagnose.NotAMetadataServer}},
		{fault: "content-type", quiet: true}, // a match: the type decides nothing
		{fault: "empty", causes: causes{diagnose.NotAMetadataServer}},
		{fault: "binary", causes: causes{diagnose.NotAMetadataServer}},
		{fault: "huge", causes: causes{diagnose.NotAMetadataServer}},
		{fault: "redirect", causes: causes{diagnose.NotAMetadataServer}},

		{fault: "flap", causes: causes{diagnose.CiliumBPFHostRouting}},
	}
}

func TestEveryFaultIsInTheTable(t *testing.T) {
	for _, f := range simulator.Faults() {
		if !slices.ContainsFunc(lapses(), func(l lapse) bool { return l.fault == f.Name }) {
			t.Errorf("fault %s: %s: nothing says which cause the Event should name", f.Name, f.Description)
		}
	}
}

// An Event is written once, when the state changes: whoever reads it an hour later
// has no page to look at.
func TestTheEventNamesTheCause(t *testing.T) {
	// As many at a time as a busy machine can play.
	for some := range slices.Chunk(lapses(), 13) {
		breakAll(t, some)
	}
}

// breakAll breaks nodes at the same time, so that they take no longer than one.
func breakAll(t *testing.T, lapses []lapse) {
	t.Helper()
	nodes := map[string]*node{}
	for _, l := range lapses {
		nodes[l.fault] = start(t, func(o *agent.Options) {
			if l.ofToken {
				o.TokenInterval = interval
			}
		})
		if l.settings != nil {
			nodes[l.fault].configure(l.settings)
		}
	}
	for _, l := range lapses {
		nodes[l.fault].until(t, identity.Match)
		nodes[l.fault].switchTo(t, simulator.Fault{Name: l.fault})
	}
	for _, l := range lapses {
		n := nodes[l.fault]
		t.Run(l.fault, func(t *testing.T) {
			defer n.stop()
			if !l.quiet && !l.byChance {
				n.names(t, n.nextEvent(t), l.causes)
				return
			}
			n.verdicts(t, 6)
			select {
			case e := <-n.events:
				if l.quiet || len(named(e)) == 0 {
					t.Errorf("an Event, want none: %s: %s", e.reason, e.message)
				}
			default:
			}
		})
	}
}
