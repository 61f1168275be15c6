package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

// deadline is that of a read which gets no answer. All others end by themselves.
const deadline = 200 * time.Millisecond

// quietWithin is far less than the minute and a half after which client-go gives
// up an idle connection, and than the ten seconds that it gives to a handshake.
const quietWithin = 5 * time.Second

func timeoutFor(r kube.Reason) time.Duration {
	if r == kube.Timeout {
		return deadline
	}
	return patience
}

func TestAFailingNetworkEndsAReadAndLeavesNothing(t *testing.T) {
	annotations := bound(app)
	annotations["long"] = strings.Repeat("x", 64<<10) // so that the answer has a middle
	p := newNamespace(t).readablePod(t, annotations)
	for _, tt := range []struct {
		fault       fault
		reason      kube.Reason
		connections int
	}{
		{fault{"nobody answers", 0, stalls}, kube.Timeout, 1},
		{fault{"the TLS handshake stalls", 100, stalls}, kube.Timeout, 1},
		{fault{"the answer stalls", 32 << 10, stalls}, kube.Timeout, 1},
		{fault{"the connection is refused", 0, refuses}, kube.Unavailable, 0},
		{fault{"the connection is closed at once", 0, closes}, kube.Unavailable, 1},
		{fault{"the connection is closed in the TLS handshake", 100, closes}, kube.Unavailable, 1},
		{fault{"the connection is closed in the answer", 32 << 10, closes}, kube.Unavailable, 1},
		{fault{"the connection is reset at once", 0, resets}, kube.Unavailable, 1},
		{fault{"the connection is reset in the TLS handshake", 100, resets}, kube.Unavailable, 1},
		{fault{"the connection is reset in the answer", 32 << 10, resets}, kube.Unavailable, 1},
	} {
		t.Run(tt.fault.name, func(t *testing.T) {
			p.link.fails(t, tt.fault)
			r := p.readOf(t, p.self, timeoutFor(tt.reason))
			r.fails(t, tt.reason, p.self.Namespace+"/app")
			if r.connections != tt.connections {
				t.Errorf("%d connections, want %d", r.connections, tt.connections)
			}
			if r.took > deadline+time.Second { // a second is the first wait of client-go before it tries again
				t.Errorf("the read took %s, want at most a deadline of %s", r.took, deadline)
			}
			quiet := p.link.becomesQuiet(t, quietWithin)
			t.Logf("%s after %s, quiet after another %s: %v", r.reason, r.took.Round(time.Millisecond), quiet.Round(time.Millisecond), r.err)

			p.link.fails(t, healthy)
			p.read(t).reads(t, app)
		})
	}
}

// Wherever in the exchange it happens, what was left of one read must not be in
// the way of the next: HTTP/2 would use a connection again on which one request
// got no answer.
func TestABrokenExchangeIsForgottenWhereverItBreaks(t *testing.T) {
	p := newNamespace(t).readablePod(t, bound(app))
	p.link.becomesQuiet(t, patience)
	size := p.link.answer()
	t.Logf("the server sends %d bytes on a connection", size)
	// Not its last bytes: they say that the connection ends, and their number varies.
	last := size - 150
	for _, tt := range []struct {
		end    ending
		reason kube.Reason
	}{{stalls, kube.Timeout}, {closes, kube.Unavailable}, {resets, kube.Unavailable}} {
		for i := range int64(20) {
			after := last * (i + 1) / 20
			passed := t.Run(fmt.Sprintf("%s after %d bytes", tt.end, after), func(t *testing.T) {
				p.link.fails(t, fault{after: after, end: tt.end})
				p.readOf(t, p.self, timeoutFor(tt.reason)).fails(t, tt.reason)
				p.link.becomesQuiet(t, quietWithin)
				p.link.fails(t, healthy)
				if r := p.read(t); r.err != nil || r.connections != 1 {
					t.Errorf("the next read: %v on %d connections, want success on a new one", r.err, r.connections)
				}
			})
			if !passed {
				return // the others would only wait as long
			}
		}
	}
	p.link.becomesQuiet(t, quietWithin)
}
