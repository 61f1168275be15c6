package web

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// About is what the status page says about the process itself.
type About struct {
	Version   string `json:"version"`
	Node      string `json:"node,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	// ServiceAccount is the name of the Kubernetes ServiceAccount.
	ServiceAccount string `json:"service_account,omitempty"`
	MetadataHost   string `json:"metadata_host"`
	// Warnings are about the configuration: things that can make the answer untrue.
	Warnings []string `json:"warnings,omitempty"`
	// Settings are the configuration in effect, in the order of the reference.
	Settings []Setting `json:"settings"`
}

// Setting is a variable and its value.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// status is what /status.json and the status page show. Times are in RFC
// 3339, durations in seconds.
type status struct {
	State           identity.State  `json:"state"`
	Meaning         string          `json:"meaning"`
	Runbook         string          `json:"runbook,omitempty"`
	Since           time.Time       `json:"since"`
	Why             string          `json:"why"`
	Expected        string          `json:"expected"`
	Source          identity.Source `json:"expected_source"`
	ExpectationRead *time.Time      `json:"expected_read,omitempty"`
	ExpectationErr  string          `json:"expected_error,omitempty"`
	Observed        string          `json:"observed"`
	Server          identity.Server `json:"metadata_server"`
	LastProbe       *time.Time      `json:"last_probe,omitempty"`
	TokenExpiry     *time.Time      `json:"token_expiry,omitempty"`
	Requests        []request       `json:"requests"`
	Causes          []cause         `json:"causes"`
	Risks           []cause         `json:"risks"`
	Excluded        []cause         `json:"excluded"`
	Unknown         []gap           `json:"unknown"`
	Probes          []probe         `json:"probes"`
	Changes         []change        `json:"changes"`
	About           About           `json:"about"`
}

type request struct {
	Endpoint     identity.Endpoint `json:"endpoint"`
	OK           bool              `json:"ok"`
	Seconds      float64           `json:"seconds"`
	ServerHeader string            `json:"server_header,omitempty"`
	Failure      string            `json:"failure,omitempty"`
}

// cause is why the state is as it is, or what can change it.
type cause struct {
	Cause      diagnose.Cause      `json:"cause"`
	Confidence diagnose.Confidence `json:"confidence"`
	Why        string              `json:"why"`
	Remedy     string              `json:"remedy,omitempty"`
	Commands   []string            `json:"commands,omitempty"`
	Runbook    string              `json:"runbook"`
}

// gap is a fact that would have told more.
type gap struct {
	Fact     string   `json:"fact"`
	Remedy   string   `json:"remedy"`
	Commands []string `json:"commands,omitempty"`
}

func causes(findings []diagnose.Finding) []cause {
	all := []cause{}
	for _, f := range findings {
		all = append(all, cause{f.Cause, f.Confidence, f.Why, f.Remedy.Text, f.Remedy.Commands, f.Runbook})
	}
	return all
}

// probe is one of the last, in the order of time.
type probe struct {
	At    time.Time      `json:"at"`
	State identity.State `json:"state"`
	// Failures are the reasons of the requests that failed.
	Failures map[identity.Endpoint]identity.Reason `json:"failures,omitempty"`
	// Dropped is how many before this one are not kept.
	Dropped int `json:"dropped_before,omitempty"`
}

type change struct {
	At   time.Time      `json:"at"`
	From identity.State `json:"from"`
	To   identity.State `json:"to"`
	Why  string         `json:"why"`
}

func (s *Server) status() status {
	snapshot := s.options.Snapshot()
	now, since := snapshot.State()
	v := snapshot.Verdict
	st := status{
		State: now, Meaning: now.Meaning(), Runbook: runbook(now), Since: since.UTC(), Why: v.Why,
		Expected: snapshot.Expectation.String(), Source: snapshot.Expectation.Source, ExpectationRead: known(snapshot.ExpectationRead),
		Observed: string(v.Identity), Server: v.Server,
		LastProbe: known(snapshot.LastProbe), TokenExpiry: known(snapshot.TokenExpiry),
		Causes: causes(snapshot.Diagnosis.Suspects), Risks: causes(snapshot.Diagnosis.Risks), Excluded: causes(snapshot.Diagnosis.RuledOut), Unknown: []gap{},
		Requests: []request{}, Probes: []probe{}, Changes: []change{}, About: s.options.About,
	}
	if st.Source == "" {
		st.Source = identity.SourceNone
	}
	if snapshot.ExpectationError != nil {
		st.ExpectationErr = snapshot.ExpectationError.Error()
	}
	for _, g := range snapshot.Diagnosis.Missing {
		st.Unknown = append(st.Unknown, gap{g.Fact, g.Remedy.Text, g.Remedy.Commands})
	}
	for endpoint, r := range snapshot.Observation.Requests() {
		if !r.Known() {
			continue
		}
		one := request{Endpoint: endpoint, OK: r.OK(), Seconds: r.Took.Seconds(), ServerHeader: r.ServerHeader}
		if r.Failure != nil {
			one.Failure = r.Failure.Error()
		}
		st.Requests = append(st.Requests, one)
	}
	for _, p := range snapshot.Probes {
		st.Probes = append(st.Probes, probe{At: p.At.UTC(), State: p.State, Failures: p.Failures, Dropped: p.Dropped})
	}
	for _, c := range snapshot.Changes {
		st.Changes = append(st.Changes, change{At: c.At.UTC(), From: c.From, To: c.To.State, Why: c.To.Why})
	}
	return st
}

// runbook is a link to what to do about the state, empty if there is nothing to do.
func runbook(s identity.State) string {
	switch s {
	case identity.NodeFallback:
		return diagnose.Runbooks + "WorkloadIdentityNodeFallback.md"
	case identity.Mismatch:
		return diagnose.Runbooks + "WorkloadIdentityMismatch.md"
	case identity.Unbound:
		return diagnose.Runbooks + "WorkloadIdentityUnbound.md"
	case identity.TokenDenied:
		return diagnose.Runbooks + "WorkloadIdentityTokenDenied.md"
	case identity.Unavailable:
		return diagnose.Runbooks + "WorkloadIdentityMetadataUnavailable.md"
	case identity.UnknownExpectation:
		return diagnose.Runbooks + "WorkloadIdentityExpectationUnknown.md"
	case identity.Stale:
		return diagnose.Runbooks + "WorkloadIdentityProbeStale.md"
	case identity.Starting, identity.Match:
	}
	return ""
}

// known is the time, nil if it is zero.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (s *Server) statusJSON(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(s.status()) // fails only if the client has gone
}
