package report_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

const (
	app  = identity.Identity("app@project.iam.gserviceaccount.com")
	node = identity.Identity("1-compute@developer.gserviceaccount.com")
)

// fallback is an explained node_fallback of this moment.
func fallback(t *testing.T) *agent.Snapshot {
	t.Helper()
	// Only the loop can make a snapshot that is not stale.
	s := *agent.New(agent.Options{Interval: time.Hour}).Snapshot()
	s.Expectation = identity.Expect(app)
	s.Verdict = identity.Verdict{State: identity.NodeFallback, Identity: node, Server: identity.ServerVM, Why: "the VM metadata server answered"}
	s.Diagnosis.Suspects = []diagnose.Finding{
		{Cause: diagnose.CiliumBPFHostRouting, Title: "eBPF host routing", Confidence: diagnose.Proves, Why: "It is on.", Remedy: diagnose.Remedy{Text: "Turn it off.", Commands: []string{"kubectl get nodes"}}, Runbook: "https://runbook"},
	}
	s.Diagnosis.Missing = []diagnose.Gap{{Fact: "The labels are not known.", Remedy: diagnose.Remedy{Text: "Allow it."}}}
	return &s
}

func text(r report.Report) string {
	var b strings.Builder
	r.Text(&b, false)
	return b.String()
}

func TestTheTextIsForAPerson(t *testing.T) {
	s := fallback(t)
	s.ExpectationError = errors.New("the API server is away")
	failed := identity.Request{Origin: identity.Asked, Failure: &identity.Failure{Reason: identity.Denied, Status: 403, Detail: "IAM says no"}}
	s.Observation = identity.Observation{Email: identity.Email{Request: identity.Request{Origin: identity.Asked}}, Token: identity.Token{Request: failed}}
	const want = `verdict   node_fallback: Pods on this node get the node's own identity instead of theirs.
expected  app@project.iam.gserviceaccount.com (config)
observed  1-compute@developer.gserviceaccount.com
answered  the VM's metadata server, to which every Pod is the node
why       the VM metadata server answered
problem   the API server is away
request   token: denied: HTTP 403: IAM says no
cause     eBPF host routing (certain, cilium_bpf_host_routing)
          It is on.
remedy    Turn it off.
          $ kubectl get nodes
runbook   https://runbook
runbook   ` + diagnose.Runbooks + `WorkloadIdentityNodeFallback.md
`
	if got := text(report.New(s, report.About{})); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	s.Diagnosis.Suspects = nil
	if got, want := text(report.New(s, report.About{})), "cause     not known\nunknown   The labels are not known. Allow it.\nrunbook   "+diagnose.Runbooks+"WorkloadIdentityNodeFallback.md\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got\n%swant it to end with\n%s", got, want)
	}
}

func TestTheSummaryIsWhatAnEventTakes(t *testing.T) {
	s := fallback(t)
	const want = `Pods on this node get the node's own identity instead of theirs. ` +
		`Expected "app@project.iam.gserviceaccount.com", got "1-compute@developer.gserviceaccount.com" from the metadata server "vm": the VM metadata server answered. ` +
		`Cause (certain): eBPF host routing (cilium_bpf_host_routing). It is on. Turn it off.`
	if got := report.New(s, report.About{}).Summary(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// A label value and an Event have no room for many identities.
	many := make([]identity.Identity, 500)
	for n := range many {
		many[n] = identity.Identity(fmt.Sprintf("account-%d@project.iam.gserviceaccount.com", n))
	}
	s.Expectation = identity.Expect(many...)
	if got := report.New(s, report.About{}).Summary(); !strings.HasSuffix(got, "It is on. Turn it off.") {
		t.Errorf("%q, want the cause, however many identities are right", got)
	}
	s.Verdict.Why = strings.Repeat("word ", 2000)
	if got := report.New(s, report.About{}).Summary(); len(got) > 1024 || !strings.HasSuffix(got, "...") || strings.ToValidUTF8(got, "") != got {
		t.Errorf("a summary of %d bytes, want at most 1024, and a mark where it was cut", len(got))
	}
}

// An agent whose loop hangs knows nothing of this moment, whatever it found out before.
func TestAnOldVerdictIsStale(t *testing.T) {
	s := agent.Snapshot{Verdict: identity.Verdict{State: identity.Match, Server: identity.ServerGKE, Why: "all was well"}}
	r := report.New(&s, report.About{})
	if r.State != identity.Stale || r.ExitCode != report.ExitInconclusive || r.Runbook != report.Runbook(identity.Stale) {
		t.Errorf("%s, exit code %d, runbook %s", r.State, r.ExitCode, r.Runbook)
	}
	if got, want := r.Summary(), identity.Stale.Meaning()+" It was match: all was well."; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
}

func TestARequestSaysWhetherItWasMade(t *testing.T) {
	s := fallback(t)
	s.Observation.Email.Request = identity.Request{Origin: identity.Asked, Took: 1500 * time.Millisecond, ServerHeader: "Metadata Server for VM"}
	s.Observation.Token.Request = identity.Request{Origin: identity.Reused}
	r := report.New(s, report.About{}).Requests
	if len(r) != 2 || r[0] != (report.Request{Endpoint: identity.EndpointEmail, OK: true, Seconds: 1.5, ServerHeader: "Metadata Server for VM"}) ||
		r[1] != (report.Request{Endpoint: identity.EndpointToken, OK: true, Reused: true}) {
		t.Errorf("requests %+v, want that for the email, the reused one for the token, and none for the server", r)
	}
}

func TestEachStateHasAnExitCodeAndARunbook(t *testing.T) {
	codes := map[identity.State]int{
		identity.Match: 0, identity.NodeFallback: 1, identity.Mismatch: 1, identity.Unbound: 1, identity.TokenDenied: 4,
		identity.Unavailable: 3, identity.UnknownExpectation: 3, identity.Stale: 3, identity.Starting: 3,
	}
	for _, s := range identity.States() {
		if got, want := report.ExitCode(s), codes[s]; got != want {
			t.Errorf("the exit code of %s is %d, want %d: scripts rely on it", s, got, want)
		}
		name, ok := strings.CutPrefix(report.Runbook(s), diagnose.Runbooks)
		if s == identity.Match || s == identity.Starting {
			if report.Runbook(s) != "" {
				t.Errorf("%s has the runbook %s, and there is nothing to do", s, report.Runbook(s))
			}
			continue
		}
		if _, err := os.Stat(filepath.Join("../../alerts/runbooks", name)); err != nil || !ok {
			t.Errorf("the runbook of %s is %q: %v", s, report.Runbook(s), err)
		}
	}
}

// A metadata server may be anybody, and so may be who reads.
func TestForeignWordsAreShownPrintableAndBounded(t *testing.T) {
	long := strings.Repeat("word ", 1<<18)
	const hostile, harmless = "a\x1b[2J\nverdict   match\u202e\xff", "a [2J verdict match"
	const leaked = "no such user: ya29.a0AfB_byC0123456789secret0123456789"
	for _, foreign := range []struct{ said, shown string }{{hostile, harmless}, {long, strings.TrimSpace(long[:4096])}, {leaked, "no such user: [redacted]"}} {
		s := fallback(t)
		said := foreign.said
		failed := identity.Request{Origin: identity.Asked, ServerHeader: said, Failure: &identity.Failure{Reason: identity.Malformed, Detail: said}}
		s.Verdict.Why, s.ExpectationError = said, errors.New(said)
		s.Observation = identity.Observation{Email: identity.Email{Request: failed}}
		finding := diagnose.Finding{Cause: "x", Why: said}
		s.Diagnosis = diagnose.Diagnosis{
			Suspects: []diagnose.Finding{finding}, Risks: []diagnose.Finding{finding}, RuledOut: []diagnose.Finding{finding},
		}
		s.Changes = []agent.Change{{To: s.Verdict}}
		r := report.New(s, report.About{})

		var shown []string
		for _, c := range append(append(r.Causes, r.Risks...), r.Excluded...) {
			shown = append(shown, c.Why)
		}
		shown = append(shown, r.Why, r.ExpectedError, r.Requests[0].ServerHeader, r.Changes[0].Why)
		for i, got := range shown {
			if got != foreign.shown {
				t.Errorf("%d: shown as %.200q, want %.200q", i, got, foreign.shown)
			}
		}
		if got := r.Requests[0].Failure; len(got) > 4<<10 || strings.ContainsAny(got, "\x1b\n\u202e") || !strings.HasPrefix(got, "malformed: ") {
			t.Errorf("a failure is shown as %.200q", got)
		}
		// Lines of its own are all that the text and the data have.
		if got := text(r) + r.Summary(); strings.Contains(got, "\x1b") || strings.Contains(got, "\nverdict   match") {
			t.Errorf("at a terminal:\n%.500q", got)
		}
		if data, err := json.Marshal(r); err != nil || len(data) > 1<<17 {
			t.Errorf("%d bytes of JSON, %v", len(data), err)
		}
	}
}
