package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// lapse is what a fault of the simulator must look like from outside.
type lapse struct {
	fault string
	state string
	// server is the metadata server that answered, as the agent sees it.
	server string
	// failures are the ENDPOINT/REASON that are counted, and no others are but
	// a timeout, which a busy machine may cause.
	failures []string
	// blip marks a fault that no probes in a row confirm: it leaves its trace in
	// the counter of verdicts only.
	blip bool
}

// lapses has a row for each fault of the simulator.
var lapses = []lapse{
	{fault: "healthy", state: "match", server: "gke"},
	{fault: "bypass", state: "node_fallback", server: "vm"},
	{fault: "notrack", state: "node_fallback", server: "vm"},
	{fault: "snat", state: "node_fallback", server: "gke"},
	{fault: "snat-error", state: "unavailable", server: "gke", failures: []string{"email/server_error", "token/server_error"}},
	{fault: "unknown-pod", state: "unavailable", server: "gke", failures: []string{"email/pod_unknown", "token/pod_unknown"}},
	{fault: "mixed", state: "match", server: "vm"},
	{fault: "alternate", state: "node_fallback", blip: true},

	{fault: "swap", state: "mismatch", server: "gke"},
	{fault: "stranger", state: "mismatch", server: "gke"},
	{fault: "unannotated", state: "unbound", server: "gke"},
	{fault: "principal", state: "unbound", server: "gke"},

	{fault: "no-binding", state: "token_denied", server: "gke", failures: []string{"token/denied"}},
	{fault: "no-gsa", state: "token_denied", server: "gke", failures: []string{"token/no_service_account"}},
	{fault: "sts-blocked", state: "unavailable", server: "gke", failures: []string{"token/timeout"}},
	{fault: "sts-blocked -delay 50ms", state: "unavailable", server: "gke", failures: []string{"token/server_error"}},
	{fault: "expiring", state: "match", server: "gke"},
	{fault: "expired", state: "unavailable", server: "gke", failures: []string{"token/malformed"}},
	{fault: "leaky", state: "unavailable", server: "gke", failures: []string{"token/server_error"}},

	{fault: "not-found", state: "unavailable", server: "unknown", failures: all("not_found")},
	{fault: "concealed", state: "unavailable", server: "unknown", failures: []string{"email/denied", "server/denied", "token/malformed"}},
	{fault: "throttled", state: "unavailable", server: "unknown", failures: all("throttled")},
	{fault: "queue-timeout", state: "unavailable", server: "unknown", failures: all("throttled")},
	{fault: "server-error", state: "unavailable", server: "unknown", failures: all("server_error")},
	{fault: "unavailable", state: "unavailable", server: "unknown", failures: all("server_error")},

	{fault: "slow", state: "unavailable", server: "unknown", failures: all("timeout")},
	{fault: "trickle", state: "unavailable", server: "unknown", failures: all("timeout")},
	{fault: "stall", state: "unavailable", failures: []string{"email/timeout", "token/timeout"}},
	{fault: "silent", state: "unavailable", server: "unknown", failures: all("timeout")},
	{fault: "reset", state: "unavailable", server: "unknown", failures: all("unreachable")},
	{fault: "refused", state: "unavailable", server: "unknown", failures: all("unreachable")},

	{fault: "not-json", state: "unavailable", server: "gke", failures: []string{"token/malformed"}},
	{fault: "not-email", state: "unavailable", server: "gke", failures: []string{"email/malformed"}},
	{fault: "proxy", state: "unavailable", server: "unknown", failures: all("not_found")},
	{fault: "sidecar", state: "match", server: "gke"},
	{fault: "html", state: "unavailable", server: "unknown", failures: all("malformed")},
	{fault: "content-type", state: "match", server: "gke"},
	{fault: "empty", state: "unavailable", server: "unknown", failures: all("malformed")},
	{fault: "binary", state: "unavailable", server: "unknown", failures: all("malformed")},
	{fault: "huge", state: "unavailable", server: "unknown", failures: all("malformed")},
	{fault: "redirect", state: "unavailable", server: "unknown", failures: all("redirect")},

	{fault: "flap -every 1s", state: "node_fallback", blip: true},
}

// all is the reason for each of the three endpoints.
func all(reason string) []string {
	return []string{"email/" + reason, "server/" + reason, "token/" + reason}
}

func TestEveryFaultIsInTheTable(t *testing.T) {
	t.Parallel()
	for _, f := range simulator.Faults() {
		if !slices.ContainsFunc(lapses, func(l lapse) bool { return l.name() == f.Name }) {
			t.Errorf("fault %s: %s: nothing says what the agent should state", f.Name, f.Description)
		}
	}
}

// TestFaults starts an agent on a healthy node for each fault, switches to the
// fault and back, and looks at what the agent says meanwhile.
func TestFaults(t *testing.T) {
	t.Parallel()
	var times faultTimes
	t.Cleanup(func() { t.Log(times.String()) })
	for _, l := range lapses {
		t.Run(l.fault, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			t.Cleanup(s.end)
			metadata, switches, err := s.simulator("simulator")
			if err != nil {
				t.Fatal(err)
			}
			address, err := s.agent("agent", "WI_METADATA_HOST="+metadata, "WI_EXPECTED_EMAILS="+app)
			if err != nil {
				t.Fatal(err)
			}
			n := &faulty{t: t, lapse: l, switches: switches, agent: "http://" + address}
			n.until(func(st status) bool { return st.State == "match" })

			before := n.count(`verdicts_total{state="match"}`)
			n.switchTo(l.fault)
			var seen time.Duration
			switch {
			case l.blip:
				seen = n.untilCounted(`verdicts_total{state="`+l.state+`"}`, 1)
			case l.state == "match" && l.server == "gke":
				// Nothing changes: some more probes must say the same.
				n.untilCounted(`verdicts_total{state="match"}`, before+3)
			default:
				seen = n.until(func(st status) bool { return st.State == l.state && (l.server == "" || st.Server == l.server) })
			}
			n.examine()

			n.switchTo("healthy")
			recovered := n.until(func(st status) bool { return st.State == "match" && st.Server == "gke" })
			times.add(l, seen, recovered)
		})
	}
}

// faulty is a node with a fault.
type faulty struct {
	t        *testing.T
	lapse    lapse
	switches string
	agent    string
	// switched is when the command for that began: a little too early.
	switched time.Time
}

// name is the fault without its parameters.
func (l lapse) name() string { return strings.Fields(l.fault)[0] }

// status is what the tests read of /status.json.
type status struct {
	State       string
	Server      string    `json:"metadata_server"`
	TokenExpiry time.Time `json:"token_expiry"`
	Requests    []struct {
		Endpoint string
		OK       bool
	}
	Changes []struct{ From, To string }
}

// switchTo switches to the fault by the simulator's own command.
func (n *faulty) switchTo(name string) {
	n.t.Helper()
	args := slices.Concat([]string{"fault"}, strings.Fields(name), []string{"-control-address", n.switches})
	n.switched = time.Now()
	if out, err := exec.CommandContext(n.t.Context(), "gke-metadata-simulator", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v\n%s", args, err, out)
	}
}

// until waits for a status, and returns how long after the switch that was.
func (n *faulty) until(wanted func(status) bool) time.Duration {
	n.t.Helper()
	body, err := poll(n.agent+"/status.json", patience, func(body string) bool {
		var st status
		return json.Unmarshal([]byte(body), &st) == nil && wanted(st)
	})
	if err != nil {
		n.t.Fatalf("%v\n%s", err, body)
	}
	return time.Since(n.switched)
}

// untilCounted waits until the counter has at least the value.
func (n *faulty) untilCounted(counter string, value int) time.Duration {
	n.t.Helper()
	body, err := poll(n.agent+"/metrics", patience, func(body string) bool { return samples(body)[counter] >= value })
	if err != nil {
		n.t.Fatalf("%s does not come to %d: %v\n%s", counter, value, err, body)
	}
	return time.Since(n.switched)
}

func (n *faulty) count(counter string) int { return samples(n.metrics())[counter] }

func (n *faulty) metrics() string {
	n.t.Helper()
	_, body, err := query{}.ask(n.agent + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	return body
}

// samples are those of the agent that are whole numbers.
func samples(metrics string) map[string]int {
	values := map[string]int{}
	for line := range strings.Lines(metrics) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "workload_identity_")
		at := strings.LastIndexByte(name, ' ')
		var value int
		if _, err := fmt.Sscanf(name[at+1:], "%d", &value); ok && err == nil {
			values[name[:at]] = value
		}
	}
	return values
}

// examine compares the metrics and the status page's JSON with the table.
func (n *faulty) examine() {
	n.t.Helper()
	var st status
	_, body, err := query{}.ask(n.agent + "/status.json")
	if err != nil || json.Unmarshal([]byte(body), &st) != nil {
		n.t.Fatalf("%v\n%s", err, body)
	}
	metrics := n.metrics()
	values := samples(metrics)
	if !n.lapse.blip {
		for series, value := range values {
			if state, ok := strings.CutPrefix(series, `state{state="`); ok && (value == 1) != (state == n.lapse.state+`"}`) {
				n.t.Errorf("got %s %d while the status page says %s, want %s", series, value, st.State, n.lapse.state)
			}
		}
		// Only the changes from the start to match, and to the expected state.
		for _, c := range st.Changes {
			if c.To != "match" && c.To != n.lapse.state {
				n.t.Errorf("the state was %s meanwhile, want %s only", c.To, n.lapse.state)
			}
		}
	}
	if n.lapse.server != "" && !strings.Contains(metrics, `metadata_server="`+n.lapse.server+`"} 1`) {
		n.t.Errorf("observed_info: want metadata_server=%q\n%s", n.lapse.server, metrics)
	}
	for series, value := range values {
		labels, ok := strings.CutPrefix(series, `probe_failures_total{endpoint="`)
		if !ok {
			continue
		}
		failure := strings.TrimSuffix(strings.ReplaceAll(labels, `",reason="`, "/"), `"}`)
		switch listed := slices.Contains(n.lapse.failures, failure); {
		case listed && value == 0:
			n.t.Errorf("%s is not counted", failure)
		case !listed && value > 0 && !strings.HasSuffix(failure, "/timeout"):
			n.t.Errorf("%s is counted %d times, want only %q", failure, value, n.lapse.failures)
		}
	}
	if left := time.Until(st.TokenExpiry); n.lapse.name() == "expiring" && left > 25*time.Second {
		n.t.Errorf("the token expires in %s, want 20 s at most", left)
	}
}

// faultTimes is a table of how long it took to see each fault.
type faultTimes struct {
	mu   sync.Mutex
	rows []string
}

func (f *faultTimes) add(l lapse, seen, recovered time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := l.state
	if l.blip {
		state += " (verdicts_total)"
	}
	first, last := fmt.Sprintf("%.1f s", seen.Seconds()), fmt.Sprintf("%.1f s", recovered.Seconds())
	if l.blip || seen == 0 {
		last = "no change"
	}
	if seen == 0 {
		first = last
	}
	f.rows = append(f.rows, fmt.Sprintf("%s\t%s\t%s\t%s\n", l.fault, state, first, last))
}

func (f *faultTimes) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.rows)
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nfault\tstate\tseen after\tmatch again after\n%s", strings.Join(f.rows, ""))
	_ = table.Flush() // bytes.Buffer does not fail
	return text.String()
}
