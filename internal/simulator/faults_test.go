package simulator_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// Recorded from real servers.
const (
	noBinding = "Unable to generate access token; IAM returned 403 Forbidden: Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).\nThis error could be caused by a missing IAM policy binding on the target IAM service account.\nFor more information, refer to the Workload Identity documentation:\n\thttps://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity#authenticating_to\n\n"
	noGSA     = "Unable to generate access token; IAM returned 404 Not Found: Requested entity was not found.\n"
	internal  = "GKE Metadata Server: Internal Server Error"
	concealed = "This metadata endpoint is concealed\n"
)

// says is what an answer must be: a status, and a body that is equal, or that
// contains what follows "~".
type says struct {
	status int
	body   string
}

func (w says) check(t *testing.T, path string, got answer) {
	t.Helper()
	want, part := strings.CutPrefix(w.body, "~")
	if got.err != nil || got.status != w.status || !part && got.body != want || part && !strings.Contains(got.body, want) {
		t.Errorf("%s: got %d %.300q (%v), want %d %q", path, got.status, got.body, got.err, w.status, w.body)
	}
}

// Faults that answer completely. TestEveryFaultIsTested holds that the list and
// those with tests of their own are all there are.
func answering() []struct {
	fault                string
	email, token, server says
} {
	rightEmail, rightToken := says{ok, appGSA}, says{ok, `~"expires_in":3599,`}
	gkeServer := says{missing, "Not Found\n"}
	vmServer := says{ok, "projects/123456789012/machineTypes/e2-standard-4"}
	all := func(w says) (says, says, says) { return w, w, w }
	type row = struct {
		fault                string
		email, token, server says
	}
	everywhere := func(fault string, w says) row {
		e, t, s := all(w)
		return row{fault, e, t, s}
	}
	return []row{
		{"healthy", rightEmail, rightToken, gkeServer},
		{"bypass", says{ok, nodeGSA}, rightToken, vmServer},
		{"notrack", says{ok, nodeGSA}, rightToken, vmServer},
		{"snat", says{ok, nodeGSA}, rightToken, gkeServer},
		{"snat-error", says{500, internal}, says{500, internal}, gkeServer},
		{"unknown-pod", says{403, "~does not match any pods"}, says{403, "~does not match any pods"}, gkeServer},
		{"mixed", rightEmail, rightToken, vmServer},
		{"swap", says{ok, "other@demo-project.iam.gserviceaccount.com"}, rightToken, gkeServer},
		{"stranger", says{ok, "stranger@other-project.iam.gserviceaccount.com"}, rightToken, gkeServer},
		{"unannotated", says{ok, "demo-project.svc.id.goog"}, rightToken, gkeServer},
		{"principal", says{ok, "~/subject/ns/demo/sa/app"}, rightToken, gkeServer},
		{"no-binding", rightEmail, says{403, noBinding}, gkeServer},
		{"no-gsa", rightEmail, says{404, noGSA}, gkeServer},
		{"sts-blocked", rightEmail, says{504, "~deadline exceeded"}, gkeServer},
		{"expiring", rightEmail, says{ok, `~"expires_in":20,`}, gkeServer},
		{"expired", rightEmail, says{ok, `~"expires_in":0,`}, gkeServer},
		{"leaky", rightEmail, says{500, "~" + secret}, gkeServer},
		{"not-found", says{404, "Not Found\n"}, says{404, "Not Found\n"}, gkeServer},
		everywhere("concealed", says{403, concealed}),
		everywhere("throttled", says{429, "Too Many Requests\n"}),
		everywhere("queue-timeout", says{499, "~"}),
		everywhere("server-error", says{500, internal}),
		{"slow", rightEmail, rightToken, gkeServer},
		{"not-json", rightEmail, says{ok, "~access_token=none"}, gkeServer},
		{"not-email", says{ok, "hello world\n"}, rightToken, gkeServer},
		everywhere("proxy", says{404, ""}),
		{"sidecar", rightEmail, rightToken, gkeServer},
		everywhere("html", says{ok, "~<!DOCTYPE html>"}),
		{"content-type", rightEmail, rightToken, gkeServer},
		everywhere("empty", says{ok, ""}),
		everywhere("binary", says{ok, "~\x00"}),
		everywhere("huge", says{ok, "~0123456789abcdef"}),
		everywhere("redirect", says{302, "~/moved/computeMetadata/v1/"}),
	}
}

func TestFaultsThatAnswer(t *testing.T) {
	s := start(t, simulator.Options{})
	for _, test := range answering() {
		t.Run(test.fault, func(t *testing.T) {
			fault := simulator.Fault{Name: test.fault}
			if test.fault == "slow" || test.fault == "sts-blocked" {
				fault.Delay = 10 * time.Millisecond
			}
			set(t, s, fault)
			test.email.check(t, "email", ask(t, s, email))
			test.token.check(t, "token", ask(t, s, token))
			test.server.check(t, "machine-type", ask(t, s, machine))
		})
	}
}

func TestEveryFaultIsTested(t *testing.T) {
	tested := []string{"alternate", "unavailable", "trickle", "stall", "silent", "reset", "refused", "flap"}
	for _, test := range answering() {
		tested = append(tested, test.fault)
	}
	var names []string
	for _, kind := range simulator.Faults() {
		names = append(names, kind.Name)
		if len(kind.Description) < 10 || strings.Contains(kind.Description, "\n") {
			t.Errorf("%s: got the description %q", kind.Name, kind.Description)
		}
	}
	if names[0] != "healthy" {
		t.Errorf("the first fault is %s, want healthy", names[0])
	}
	slices.Sort(names)
	slices.Sort(tested)
	if !slices.Equal(names, tested) {
		t.Errorf("tested %v\nthere are %v", tested, names)
	}
}

func TestDetailsOfFaults(t *testing.T) {
	s := start(t, simulator.Options{})

	t.Run("content-type changes the type of every answer", func(t *testing.T) {
		set(t, s, simulator.Fault{Name: "content-type"})
		for _, path := range []string{email, token, machine} {
			if got := ask(t, s, path).header.Get("Content-Type"); got != "text/html; charset=utf-8" {
				t.Errorf("%s: got %q", path, got)
			}
		}
	})
	t.Run("huge is 10 MB", func(t *testing.T) {
		set(t, s, simulator.Fault{Name: "huge"})
		before := s.BytesWritten()
		if got := len(ask(t, s, email).body); got != 10<<20 {
			t.Errorf("got %d bytes", got)
		}
		if got := s.BytesWritten() - before; got < 10<<20 {
			t.Errorf("BytesWritten grew by %d", got)
		}
	})
	t.Run("redirect leads to the node for who follows", func(t *testing.T) {
		set(t, s, simulator.Fault{Name: "redirect"})
		client := clientFrom("127.0.0.1")
		client.CheckRedirect = nil
		says{ok, nodeGSA}.check(t, "email", askWith(t, client, s, email, time.Second))
		says{ok, "~" + secret}.check(t, "token", askWith(t, client, s, token, time.Second))
		got := askWith(t, client, s, identity, time.Second)
		if got.status != ok || strings.Count(got.body, ".") != 2 {
			t.Errorf("identity: got %d %q, want a JWT: the query is kept", got.status, got.body)
		}
		set(t, s, simulator.Fault{})
		says{missing, "Not Found\n"}.check(t, "moved", ask(t, s, "/moved"+email))
	})
	t.Run("alternate goes in turns by connection", func(t *testing.T) {
		set(t, s, simulator.Fault{Name: "alternate"})
		first, second := ask(t, s, email).body, ask(t, s, email).body
		if got := []string{first, second}; !slices.Contains(got, appGSA) || !slices.Contains(got, nodeGSA) {
			t.Errorf("two connections: got %v", got)
		}
		client := keepingClient()
		defer client.CloseIdleConnections()
		one, same := askWith(t, client, s, email, time.Second).body, askWith(t, client, s, email, time.Second).body
		if one != same {
			t.Errorf("one connection that is kept: got %s, then %s", one, same)
		}
	})
	t.Run("snat is the node, whoever asks", func(t *testing.T) {
		set(t, s, simulator.Fault{Name: "snat"})
		says{ok, nodeGSA}.check(t, "email", askWith(t, clientFrom("127.0.0.99"), s, email, time.Second))
	})
	t.Run("swap never hands out the own identity", func(t *testing.T) {
		set(t, s, simulator.Fault{Name: "swap"})
		for source, want := range map[string]string{"127.0.0.2": appGSA, "127.0.0.3": appGSA, "127.0.0.4": appGSA} {
			says{ok, want}.check(t, source, askWith(t, clientFrom(source), s, email, time.Second))
		}
		alone := start(t, simulator.Options{Pods: simulator.DefaultPods("p"), Fault: simulator.Fault{Name: "swap"}})
		says{ok, "other@p.iam.gserviceaccount.com"}.check(t, "email", ask(t, alone, email))
		lonely := start(t, simulator.Options{Fallback: &simulator.Pod{GSA: "a@b"}, Pods: noPods(), Fault: simulator.Fault{Name: "swap"}})
		says{ok, "neighbour@demo-project.iam.gserviceaccount.com"}.check(t, "email", ask(t, lonely, email))
	})
	t.Run("no identity document where IAM refuses the token", func(t *testing.T) {
		set(t, s, simulator.Fault{Name: "no-binding"})
		if got := ask(t, s, identity).status; got != 403 {
			t.Errorf("got %d, want 403", got)
		}
	})
}

func TestParametersOfFaults(t *testing.T) {
	tests := []struct {
		fault simulator.Fault
		want  string // the fault as it is set, or the error
	}{
		{simulator.Fault{}, "healthy"},
		{simulator.Fault{Name: "flap"}, "flap every=5s of=bypass"},
		{simulator.Fault{Name: "flap", Every: time.Second, Of: "slow"}, "flap every=1s of=slow delay=5s"},
		{simulator.Fault{Name: "slow"}, "slow delay=5s"},
		{simulator.Fault{Name: "sts-blocked"}, "sts-blocked delay=2s"},
		{simulator.Fault{Name: "slow", Delay: time.Second}, "slow delay=1s"},
		{simulator.Fault{Name: "slow", Every: time.Second}, "bad parameter every: fault slow takes delay"},
		{simulator.Fault{Name: "bypass", Delay: time.Second}, "bad parameter delay: fault bypass takes no parameters"},
		{simulator.Fault{Name: "bypass", Of: "snat"}, "bad parameter of: fault bypass takes no parameters"},
		{simulator.Fault{Name: "flap", Of: "flap"}, "bad parameter of=flap: want any other fault"},
		{simulator.Fault{Name: "flap", Every: -time.Second}, "bad parameter every=-1s: want a duration from 10ms to 1h0m0s"},
		{simulator.Fault{Name: "slow", Delay: 48 * time.Hour}, "bad parameter delay=48h0m0s: want a duration from 10ms to 1h0m0s"},
	}
	s := start(t, simulator.Options{})
	for _, test := range tests {
		t.Run(fmt.Sprintf("%+v", test.fault.String()), func(t *testing.T) {
			got := ""
			if err := s.SetFault(test.fault); err != nil {
				got = err.Error()
			} else {
				got = s.Fault().String()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
