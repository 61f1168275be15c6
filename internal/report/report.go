// Package report is what there is to say of a snapshot: one Report for the status
// page, /status.json, the subcommand check, the log and Events, so that no two of
// them say different things about the same moment.
package report

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// Version is that of the JSON. It grows when a field is taken away or gets another
// meaning, and not when one is added.
const Version = 2

// Report is its own JSON, which docs/report.md describes and
// docs/schema/report.schema.json specifies. Times are in UTC, in RFC 3339;
// lists are never null.
type Report struct {
	Version int `json:"version"`
	// State is that of this moment, so it may be stale. What follows about the
	// verdict is of the last one.
	State    identity.State `json:"state"`
	ExitCode int            `json:"exit_code"`
	Meaning  string         `json:"meaning"`
	// Runbook is a link to what to do about the state.
	Runbook string    `json:"runbook,omitempty"`
	Since   time.Time `json:"since"`
	Why     string    `json:"why"`

	Expected       string          `json:"expected"`
	ExpectedSource identity.Source `json:"expected_source"`
	ExpectedRead   *time.Time      `json:"expected_read,omitempty"`
	ExpectedError  string          `json:"expected_error,omitempty"`
	Observed       string          `json:"observed"`
	MetadataServer identity.Server `json:"metadata_server"`
	LastProbe      *time.Time      `json:"last_probe,omitempty"`
	TokenExpiry    *time.Time      `json:"token_expiry,omitempty"`
	Requests       []Request       `json:"requests"`

	// Causes explain a bad verdict, the likeliest first; Risks threaten a good one;
	// Excluded are no causes.
	Causes   []Cause `json:"causes"`
	Risks    []Cause `json:"risks"`
	Excluded []Cause `json:"excluded"`
	// Unknown are the facts that would have told more.
	Unknown []Gap `json:"unknown"`

	// Probes are the last ones, the oldest first, and Changes those of the state, the
	// newest first.
	Probes  []Probe  `json:"probes"`
	Changes []Change `json:"changes"`
	About   About    `json:"about"`

	// verdict is the state of the last verdict, whatever its age.
	verdict identity.State
}

// Request is one of the last probe.
type Request struct {
	Endpoint identity.Endpoint `json:"endpoint"`
	OK       bool              `json:"ok"`
	Seconds  float64           `json:"seconds"`
	// Reused: an earlier probe made it.
	Reused       bool            `json:"reused,omitempty"`
	ServerHeader string          `json:"server_header,omitempty"`
	Reason       identity.Reason `json:"reason,omitempty"`
	Failure      string          `json:"failure,omitempty"`
}

// Cause is why the state is as it is, or what can change it.
type Cause struct {
	Cause diagnose.Cause `json:"cause"`
	// Title names it for people.
	Title      string              `json:"title"`
	Confidence diagnose.Confidence `json:"confidence"`
	Why        string              `json:"why"`
	Remedy     string              `json:"remedy,omitempty"`
	Commands   []string            `json:"commands,omitempty"`
	Runbook    string              `json:"runbook"`
}

// Heading names the cause, and how sure it is.
func (c Cause) Heading() string {
	return fmt.Sprintf("%s (%s, %s)", c.Title, c.Confidence.Word(), c.Cause)
}

// Gap is a fact that is not known.
type Gap struct {
	Fact     string   `json:"fact"`
	Remedy   string   `json:"remedy"`
	Commands []string `json:"commands,omitempty"`
}

// Probe is a single one, as it was judged before anything was confirmed.
type Probe struct {
	At    time.Time      `json:"at"`
	State identity.State `json:"state"`
	// Failures are the reasons of the requests that failed.
	Failures map[identity.Endpoint]identity.Reason `json:"failures,omitempty"`
	// Dropped is how many before this one are not kept.
	Dropped int `json:"dropped_before,omitempty"`
}

// Change is one of the state.
type Change struct {
	At   time.Time      `json:"at"`
	From identity.State `json:"from"`
	To   identity.State `json:"to"`
	Why  string         `json:"why"`
	// Observed is the identity that the metadata server gave from then on.
	Observed string `json:"observed,omitempty"`
}

// About is the process itself.
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
	// Default: it is what holds where the variable is not set.
	Default bool `json:"default"`
}

// New reports what the snapshot says at this moment.
func New(s *agent.Snapshot, about About) Report {
	state, since := s.State()
	v := s.Verdict
	r := Report{
		Version: Version, State: state, ExitCode: ExitCode(state), Meaning: state.Meaning(), Runbook: Runbook(state), Since: since.UTC(), Why: shown(v.Why),
		Expected: expected(s.Expectation), ExpectedSource: cmp.Or(s.Expectation.Source, identity.SourceNone), ExpectedRead: known(s.ExpectationRead),
		Observed: string(v.Identity), MetadataServer: v.Server, LastProbe: known(s.LastProbe), TokenExpiry: known(s.TokenExpiry),
		Requests: requests(s.Observation),
		Causes:   causes(s.Diagnosis.Suspects), Risks: causes(s.Diagnosis.Risks), Excluded: causes(s.Diagnosis.RuledOut), Unknown: []Gap{},
		Probes: []Probe{}, Changes: []Change{}, About: about, verdict: v.State,
	}
	if s.ExpectationError != nil {
		r.ExpectedError = shown(s.ExpectationError.Error())
	}
	for _, g := range s.Diagnosis.Missing {
		r.Unknown = append(r.Unknown, Gap{g.Fact, g.Remedy.Text, g.Remedy.Commands})
	}
	for _, p := range s.Probes {
		r.Probes = append(r.Probes, Probe{At: p.At.UTC(), State: p.State, Failures: p.Failures, Dropped: p.Dropped})
	}
	for _, c := range s.Changes {
		r.Changes = append(r.Changes, Change{At: c.At.UTC(), From: c.From, To: c.To.State, Why: shown(c.To.Why), Observed: string(c.To.Identity)})
	}
	if r.About.Settings == nil {
		r.About.Settings = []Setting{}
	}
	return r
}

// expected lists the identities as the expectation does; a setting may have many.
func expected(e identity.Expectation) string {
	ids := make([]string, len(e.Accepted))
	for i, p := range e.Accepted {
		ids[i] = string(p)
	}
	return strings.Join(ids, ",")
}

func requests(o identity.Observation) []Request {
	made := []Request{}
	for endpoint, q := range o.Requests() {
		if !q.Known() {
			continue
		}
		r := Request{Endpoint: endpoint, OK: q.OK(), Seconds: q.Took.Seconds(), Reused: !q.Live(), ServerHeader: shown(q.ServerHeader)}
		if q.Failure != nil {
			r.Reason, r.Failure = q.Failure.Reason, shown(q.Failure.Error())
		}
		made = append(made, r)
	}
	return made
}

func causes(findings []diagnose.Finding) []Cause {
	all := []Cause{}
	for _, f := range findings {
		all = append(all, Cause{f.Cause, f.Title, f.Confidence, shown(f.Why), f.Remedy.Text, f.Remedy.Commands, f.Runbook})
	}
	return all
}

// known is the time, nil if it is zero.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
