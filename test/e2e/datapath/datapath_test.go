package datapath

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// atMost is how long after it begins a wrong identity is stated at the default
// settings: one interval and one second.
const atMost = 11 * time.Second

func TestFailures(t *testing.T) {
	tests := []struct {
		name  string
		setup setup
		// settings of the exporter besides the default ones
		settings []string
		fail     func(*cluster)
		repair   func(*cluster)
		state    string
		observed string
		server   string
		within   time.Duration
	}{
		{
			name:  "bypass: the redirection is gone",
			fail:  func(c *cluster) { c.rules.remove("redirect") },
			state: "node_fallback", observed: nodeEmail, server: "vm", within: atMost,
			repair: func(c *cluster) { c.rules.redirect() },
		},
		{
			name: "source NAT: GKE's server cannot tell the Pod",
			fail: func(c *cluster) { c.rules.hideSource() },
			// No identity is observed, so nobody is accused.
			state: "unavailable", observed: "", server: "gke", within: atMost,
			repair: func(c *cluster) { c.rules.remove("hide") },
		},
		{
			name: "source NAT: GKE's server takes the Pod for the node", setup: setup{asNode: true},
			fail:  func(c *cluster) { c.rules.hideSource() },
			state: "mismatch", observed: nodeEmail, server: "gke", within: atMost + 2*time.Second,
			repair: func(c *cluster) { c.rules.remove("hide") },
		},
		{
			name: "source NAT: the same, and the node's account is known", setup: setup{asNode: true},
			settings: []string{"WI_NODE_SERVICE_ACCOUNTS=nodes@*.iam.gserviceaccount.com"},
			fail:     func(c *cluster) { c.rules.hideSource() },
			state:    "node_fallback", observed: nodeEmail, server: "gke", within: atMost,
			repair: func(c *cluster) { c.rules.remove("hide") },
		},
		{
			name: "source NAT: a masquerade in front of a server that is not on the node", setup: setup{forwarded: true},
			fail:  func(c *cluster) { c.rules.masquerade() },
			state: "unavailable", observed: "", server: "gke", within: atMost,
			repair: func(c *cluster) { c.rules.remove("hide") },
		},
		{
			name: "packets are dropped",
			fail: func(c *cluster) { c.rules.drop() },
			// Three probes that each last as long as the deadline.
			state: "unavailable", observed: "", server: "unknown", within: atMost + 10*time.Second,
			repair: func(c *cluster) { c.rules.remove("drop") },
		},
		{
			name:  "large packets are lost: the handshake works and the answer does not come",
			fail:  func(c *cluster) { c.rules.dropAnswers() },
			state: "unavailable", observed: "", server: "unknown", within: atMost + 10*time.Second,
			repair: func(c *cluster) { c.rules.remove("answers") },
		},
		{
			name:  "connections are rejected",
			fail:  func(c *cluster) { c.rules.reject() },
			state: "unavailable", observed: "", server: "unknown", within: atMost,
			repair: func(c *cluster) { c.rules.remove("reject") },
		},
		{
			name:  "GKE's metadata server is stopped and started",
			fail:  func(c *cluster) { c.set("refused") },
			state: "unavailable", observed: "", server: "unknown", within: atMost,
			repair: func(c *cluster) { c.set("healthy") },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, tt.setup)
			e := start(t, c.pods[0], tt.settings...)
			e.awaits(t, "match", time.Now())
			if s := e.status(t); s.Observed != appEmail || s.Server != "gke" {
				t.Fatalf("before the failure: %+v, want %s from gke", s, appEmail)
			}

			began := time.Now()
			tt.fail(c)
			detected := e.awaits(t, tt.state, began)
			if detected > tt.within || detected < 0 {
				t.Errorf("stated after %s, want at most %s", detected, tt.within)
			}
			if s := e.status(t); s.Observed != tt.observed || s.Server != tt.server {
				t.Errorf("observed %q from %s, want %q from %s", s.Observed, s.Server, tt.observed, tt.server)
			}
			if v, _ := e.metric(t, `observed_info{email="`+tt.observed+`",metadata_server="`+tt.server+`"}`); v != 1 {
				t.Errorf("observed_info does not say %q from %s", tt.observed, tt.server)
			}
			if v, _ := e.metric(t, `verdicts_total{state="`+tt.state+`"}`); v < 3 {
				t.Errorf("%v verdicts %s counted, want the first and two that confirm it", v, tt.state)
			}

			began = time.Now()
			tt.repair(c)
			recovered := e.awaits(t, "match", began)
			if recovered > tt.within {
				t.Errorf("match again after %s, want at most %s", recovered, tt.within)
			}
			e.stated(t, "match", tt.state, "match")
			t.Logf("%s after %s, match again after %s", tt.state, detected, recovered)
		})
	}
}

// While the redirection comes and goes faster than a change is confirmed, no
// gauge can show it; the counter of single verdicts does.
func TestAFlappingRedirectionIsCountedAndNotStated(t *testing.T) {
	t.Parallel()
	c := newCluster(t, setup{})
	e := start(t, c.pods[0])
	e.awaits(t, "match", time.Now())
	for deadline := time.Now().Add(patience); ; {
		c.rules.remove("redirect")
		time.Sleep(250 * time.Millisecond) // shorter than what confirms
		c.rules.redirect()
		time.Sleep(400 * time.Millisecond)
		if n, _ := e.metric(t, `verdicts_total{state="node_fallback"}`); n > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no probe met the bypass in %s", patience)
		}
	}
	e.awaits(t, "match", time.Now())
	e.stated(t, "match")
}

// A redirection that is gone for longer than a change takes to be confirmed, and
// comes back before the next probe, is stated as often as a probe meets it; what
// no probe confirmed is counted all the same.
func TestALongerFlapIsStatedAndCounted(t *testing.T) {
	t.Parallel()
	c := newCluster(t, setup{})
	e := start(t, c.pods[0])
	e.awaits(t, "match", time.Now())
	bypassed := func() int {
		n := 0
		for _, s := range e.status(t).Stated() {
			if s == "node_fallback" {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(patience); bypassed() < 2; {
		c.rules.remove("redirect")
		time.Sleep(4 * time.Second)
		c.rules.redirect()
		time.Sleep(3 * time.Second)
		if time.Now().After(deadline) {
			t.Fatalf("stated %v in %s, want two bypasses", e.status(t).Stated(), patience)
		}
	}
	e.awaits(t, "match", time.Now())
	for i, s := range e.status(t).Stated() {
		if want := []string{"match", "node_fallback"}[i%2]; s != want {
			t.Errorf("stated %v, want match and node_fallback in turns", e.status(t).Stated())
			break
		}
	}
	// A bypass is stated after three probes that met it.
	if n, _ := e.metric(t, `verdicts_total{state="node_fallback"}`); n < float64(3*bypassed()) {
		t.Errorf("%v verdicts node_fallback for %d statements, want at least three for each", n, bypassed())
	}
}

// After a repair, single connections can still reach the VM's server. They are
// counted, and no relapse is stated.
func TestStrayAnswersAfterARepairAreNoRelapse(t *testing.T) {
	t.Parallel()
	c := newCluster(t, setup{})
	e := start(t, c.pods[0])
	e.awaits(t, "match", time.Now())
	c.rules.remove("redirect")
	e.awaits(t, "node_fallback", time.Now())
	c.rules.redirect()
	e.awaits(t, "match", time.Now())
	counted, _ := e.metric(t, `verdicts_total{state="node_fallback"}`)
	for range 2 {
		// The bypass lasts until the first connection has met it.
		before := c.vm.Connections()
		c.rules.remove("redirect")
		for deadline := time.Now().Add(patience); c.vm.Connections() == before && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond) // another process
		}
		c.rules.redirect()
	}
	time.Sleep(2 * time.Second) // what would be stated is stated by then
	if n, _ := e.metric(t, `verdicts_total{state="node_fallback"}`); n <= counted {
		t.Errorf("%v verdicts node_fallback counted before the stray answers, %v after", counted, n)
	}
	e.stated(t, "match", "node_fallback", "match")
}

// A bad network is no evidence of anything.
func TestPacketLossAccusesNobody(t *testing.T) {
	t.Parallel()
	c := newCluster(t, setup{})
	e := start(t, c.pods[0])
	e.awaits(t, "match", time.Now())
	c.rules.lose(30)
	probes := func() float64 { n, _ := e.metric(t, `probes_total{endpoint="email"}`); return n }
	first := probes()
	for deadline := time.Now().Add(patience); probes() < first+5 && time.Now().Before(deadline); {
		time.Sleep(time.Second) // another process
	}
	if probes() < first+5 {
		t.Errorf("%v probes in %s, want the loop to go on", probes()-first, patience)
	}
	fast, _ := e.metric(t, `probe_duration_seconds_bucket{endpoint="email",le="0.1"}`)
	if all, _ := e.metric(t, `probe_duration_seconds_count{endpoint="email"}`); fast == all {
		t.Errorf("none of %v requests took longer than 0.1 s: no packet was lost", all)
	}
	for _, state := range []string{"node_fallback", "mismatch", "unbound", "token_denied", "unknown_expectation"} {
		if n, _ := e.metric(t, `verdicts_total{state="`+state+`"}`); n > 0 {
			t.Errorf("%v verdicts %s because of lost packets", n, state)
		}
	}
}

// Why each request is a new connection: conntrack keeps the NAT decision of a
// connection's first packet, so a client that keeps one alive goes on seeing
// the old identity, after the failure and after the repair.
func TestAKeptAliveConnectionLiesInBothDirections(t *testing.T) {
	t.Parallel()
	c := newCluster(t, setup{})
	pod := c.pods[0]
	client := func() *http.Client {
		transport := &http.Transport{DialContext: pod.dial}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport, Timeout: 5 * time.Second}
	}
	old := client()
	sees(t, old, appEmail)
	c.rules.remove("redirect")
	sees(t, client(), nodeEmail)
	sees(t, old, appEmail) // although Pods are the node

	old = client()
	sees(t, old, nodeEmail)
	c.rules.redirect()
	sees(t, client(), appEmail)
	sees(t, old, nodeEmail) // although the node is repaired
}

// The rule that is blamed first does nothing by itself: what is delivered on the
// node never passes postrouting.
func TestAMasqueradeAloneHidesNoPod(t *testing.T) {
	t.Parallel()
	c := newCluster(t, setup{})
	c.rules.masquerade()
	transport := &http.Transport{DialContext: c.pods[0].dial, DisableKeepAlives: true}
	sees(t, &http.Client{Transport: transport, Timeout: 5 * time.Second}, appEmail)
}

// Two Pods of a node are told apart while all is well.
func TestPodsAreToldApart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, setup{})
	for i, email := range []string{appEmail, otherEmail} {
		transport := &http.Transport{DialContext: c.pods[i].dial, DisableKeepAlives: true}
		sees(t, &http.Client{Transport: transport, Timeout: 5 * time.Second}, email)
	}
}

// sees fails unless the client is told this email.
func sees(t *testing.T, client *http.Client, want string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+linkLocal+"/computeMetadata/v1/instance/service-accounts/default/email", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Metadata-Flavor", "Google")
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(body)); got != want {
		t.Errorf("the client is %s, want %s", got, want)
	}
}
