package kube_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
)

var (
	fallback    = kube.Report{State: identity.NodeFallback, Message: "Pods get the node's identity."}
	unavailable = kube.Report{State: identity.Unavailable, Message: "No answer."}
	stale       = kube.Report{State: identity.Stale, Message: "The loop hangs."}
	match       = kube.Report{State: identity.Match, Message: "All is well."}
)

// hangs is the status with which nothing is answered until the client gives up.
const hangs = -1

// story is a reporter, the state that it looks at, and an API server in memory, so
// that time is that of a synctest bubble.
type story struct {
	*kube.Reporter
	logs    bytes.Buffer
	reasons []kube.Reason

	mu      sync.Mutex
	current kube.Report
	status  int
	refuses string // requests of this method, with 403
	// refusesKind: Events about such an object, with 503.
	refusesKind string
	written     []kubetest.Written
}

func tell(t *testing.T, events, condition bool) *story {
	t.Helper()
	s := &story{status: http.StatusCreated, current: kube.Report{State: identity.Starting}}
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "token"), []byte(kubetest.Token()), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := kube.SelfFromToken(directory)
	if err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: "https://127.0.0.1:1", WrapTransport: func(http.RoundTripper) http.RoundTripper { return s }}
	client, err := kube.NewClient(config, "test/1", func(_ kube.Resource, r kube.Reason) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reasons = append(s.reasons, r)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Reporter = kube.NewReporter(client, func() kube.Self { return self }, events, condition, func() kube.Report {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.current
	}, slog.New(slog.NewTextHandler(&s.logs, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *story) RoundTrip(r *http.Request) (*http.Response, error) {
	w := kubetest.Written{Method: r.Method, Path: r.URL.Path, ContentType: r.Header.Get("Content-Type")}
	_ = json.NewDecoder(r.Body).Decode(&w.Object)
	s.mu.Lock()
	s.written = append(s.written, w)
	status := s.status
	if r.Method == s.refuses {
		status = http.StatusForbidden
	}
	if about, _ := w.Object["involvedObject"].(map[string]any); s.refusesKind != "" && about["kind"] == s.refusesKind {
		status = http.StatusServiceUnavailable
	}
	s.mu.Unlock()
	if status == hangs {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, nil
}

// now makes the state what it is, and wakes the reporter.
func (s *story) now(r kube.Report) {
	s.quietly(r)
	s.Wake()
	synctest.Wait()
}

// quietly makes the state what it is, and wakes nobody.
func (s *story) quietly(r kube.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = r
}

func (s *story) answers(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// after lets time pass. The lock tells the race detector that what the test has
// read so far, it has read before.
func (s *story) after(d time.Duration) {
	s.mu.Lock()
	s.mu.Unlock() //nolint:staticcheck // see above
	time.Sleep(d) // time of the bubble
	synctest.Wait()
}

// conditions are the statuses of the Node condition that were written.
func (s *story) conditions() []string {
	var all []string
	for _, w := range s.written {
		status, _ := w.Object["status"].(map[string]any)
		list, _ := status["conditions"].([]any)
		for _, one := range list {
			condition, _ := one.(map[string]any)
			all = append(all, condition["status"].(string))
		}
	}
	return all
}

func TestAChangeIsAnEventAboutTheNodeAndThePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, true, false)
		for _, r := range []kube.Report{match, fallback, fallback, match, fallback} {
			s.now(r)
		}
		if len(s.written) != 4 {
			t.Fatalf("%d objects, want two Events about the fallback and two about its end: %v", len(s.written), s.written)
		}
		for i, want := range []struct{ path, kind, name, uid, reason, severity, message string }{
			{"/api/v1/namespaces/default/events", "Node", kubetest.Node, kubetest.Node, "WorkloadIdentityNodeFallback", "Warning", fallback.Message},
			{"/api/v1/namespaces/demo/events", "Pod", kubetest.Pod, "3", "WorkloadIdentityNodeFallback", "Warning", fallback.Message},
			{"/api/v1/namespaces/default/events", "Node", kubetest.Node, kubetest.Node, "WorkloadIdentityMatch", "Normal", match.Message},
			{"/api/v1/namespaces/demo/events", "Pod", kubetest.Pod, "3", "WorkloadIdentityMatch", "Normal", match.Message},
		} {
			w := s.written[i]
			about, _ := w.Object["involvedObject"].(map[string]any)
			if w.Method != http.MethodPost || w.Path != want.path || about["kind"] != want.kind || about["name"] != want.name || about["uid"] != want.uid {
				t.Errorf("%d: %s %s about %v, want one about the %s %s", i, w.Method, w.Path, about, want.kind, want.name)
			}
			if w.Object["reason"] != want.reason || w.Object["type"] != want.severity || w.Object["message"] != want.message {
				t.Errorf("%d: %v %v %v, want %s %s %s", i, w.Object["type"], w.Object["reason"], w.Object["message"], want.severity, want.reason, want.message)
			}
		}
	})
}

func TestTheConditionFollowsTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, false, true)
		for _, r := range []kube.Report{fallback, unavailable, match} {
			s.now(r)
		}
		if len(s.written) != 3 {
			t.Fatalf("%d writes, want three: %v", len(s.written), s.written)
		}
		for i, want := range []string{"True", "Unknown", "False"} {
			w := s.written[i]
			if w.Method != http.MethodPatch || w.Path != "/api/v1/nodes/"+kubetest.Node+"/status" || w.ContentType != "application/strategic-merge-patch+json" {
				t.Errorf("%s %s as %s, want a patch of the Node's status", w.Method, w.Path, w.ContentType)
			}
			status, _ := w.Object["status"].(map[string]any)
			conditions, _ := status["conditions"].([]any)
			if len(w.Object) != 1 || len(status) != 1 || len(conditions) != 1 {
				t.Fatalf("%v, want one condition and nothing else", w.Object)
			}
			condition, _ := conditions[0].(map[string]any)
			if condition["type"] != kube.ConditionType || condition["status"] != want || condition["lastTransitionTime"] == nil || condition["lastHeartbeatTime"] == nil {
				t.Errorf("%v, want %s %s", condition, kube.ConditionType, want)
			}
		}
	})
}

// A queue would drop the newest report while the API server hangs, and the
// condition would say for ever what was then.
func TestWhatIsWrittenInTheEndIsTheNewestState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, false, true)
		s.answers(hangs)
		for range 20 {
			s.now(fallback)
			s.now(match)
			s.now(fallback)
		}
		s.after(time.Minute)
		s.now(match)
		s.answers(http.StatusOK)
		s.after(heartbeat + time.Minute)
		if got := s.conditions(); len(got) == 0 || got[len(got)-1] != "False" {
			t.Errorf("conditions %v, want the last one to be False as the state is a match", got)
		}
	})
}

// heartbeat is how often the condition is written while nothing changes.
const heartbeat = 5 * time.Minute

func TestTheConditionHasAHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, false, true)
		s.now(match)
		s.after(time.Hour)
		if n := len(s.conditions()); n < 12 || n > 14 {
			t.Errorf("%d writes in an hour, want one every five minutes", n)
		}
	})
}

// A loop that hangs wakes nobody. The heartbeat must end with it, or somebody seems
// still to look.
func TestALoopThatHangsIsReportedAndItsHeartbeatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, true, true)
		s.now(match)
		s.quietly(stale)
		s.after(time.Minute + time.Second)
		if got := s.conditions(); len(got) != 2 || got[1] != "Unknown" {
			t.Fatalf("conditions %v, want False and then Unknown", got)
		}
		events := 0
		for _, w := range s.written {
			if w.Object["reason"] == "WorkloadIdentityStale" {
				events++
			}
		}
		if events != 2 {
			t.Errorf("%d Events, want one about the Node and one about the Pod: %v", events, s.written)
		}
		s.after(time.Hour)
		if n := len(s.conditions()); n != 2 {
			t.Errorf("%d more writes of the condition in an hour without a heartbeat, want none", n-2)
		}
		s.quietly(match)
		s.after(time.Minute)
		if got := s.conditions(); len(got) != 3 || got[2] != "False" {
			t.Errorf("conditions %v, want False again when the loop turns again", got)
		}
	})
}

func TestAConditionThatCannotBeWrittenIsTriedAgainLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, false, true)
		s.answers(http.StatusServiceUnavailable)
		s.now(fallback)
		s.after(2 * time.Minute)
		if n := len(s.conditions()); n < 3 {
			t.Errorf("%d attempts in two minutes, want at least 3", n)
		}
		s.after(time.Hour)
		if n := len(s.conditions()); n > 24 {
			t.Errorf("%d attempts in an hour, want about one every four minutes", n)
		}
		s.answers(http.StatusOK)
		s.after(heartbeat + time.Minute)
		if r := s.reasons[len(s.reasons)-1]; r != "" {
			t.Errorf("the last attempt failed with %q", r)
		}
	})
}

func TestWhatMayNotBeWrittenIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, true, false)
		s.answers(http.StatusForbidden)
		s.now(fallback)
		s.now(match)
		if n := strings.Count(s.logs.String(), "Failed to write"); n != 1 || !strings.Contains(s.logs.String(), "reason=forbidden") {
			t.Errorf("%d lines about it, want one:\n%s", n, s.logs.String())
		}
		for _, r := range s.reasons {
			if r != kube.Forbidden {
				t.Errorf("counted as %q, want %q", r, kube.Forbidden)
			}
		}
	})
}

// The loop must not wait for the API server.
func TestWakingNeverBlocks(*testing.T) {
	p := kube.NewReporter(nil, nil, true, true, nil, slog.New(slog.DiscardHandler)) // nobody runs it
	for range 100 {
		p.Wake()
	}
}

// A start is no news.
func TestNothingIsWrittenBeforeThereIsAVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, true, true)
		s.after(time.Hour)
		if len(s.written) != 0 {
			t.Errorf("wrote %v", s.written)
		}
	})
}

// One Event dies with the TTL of the API server, an hour by default, and then a node
// that is broken since yesterday shows nothing.
func TestAnEventLastsAsLongAsTheFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, true, false)
		s.now(match)
		s.now(fallback)
		s.after(24 * time.Hour)
		var created, repeated int
		var last time.Time
		for _, w := range s.written {
			switch w.Method {
			case http.MethodPost:
				created++
			case http.MethodPatch:
				repeated++
				if w.ContentType != "application/merge-patch+json" || w.Object["lastTimestamp"] == nil || w.Object["message"] != fallback.Message {
					t.Errorf("repeated as %v in %s", w.Object, w.ContentType)
				}
				if count, _ := w.Object["count"].(float64); int(count) != (repeated+1)/2+1 {
					t.Errorf("repetition %d counts %v", repeated, w.Object["count"])
				}
				at, err := time.Parse(time.RFC3339, w.Object["lastTimestamp"].(string))
				if err != nil || !last.IsZero() && at.Sub(last) > 31*time.Minute {
					t.Errorf("at %v after %v: %v", at, last, err)
				}
				last = at
			}
		}
		// 48 half hours, each up to a tenth shorter, for two Events.
		if created != 2 || repeated < 2*46 || repeated > 2*55 {
			t.Errorf("%d Events repeated %d times in a day, want two, each every 30 minutes", created, repeated)
		}
		s.now(match)
		before := len(s.written)
		s.after(24 * time.Hour)
		if n := len(s.written) - before; n != 0 {
			t.Errorf("%d writes in a day about a match, want none", n)
		}
	})
}

// The verb patch is younger than the Roles that some have.
func TestARoleThatAllowsNoRepetitionGetsNewEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, true, false)
		s.refuses = http.MethodPatch
		s.now(fallback)
		s.after(2*time.Hour + time.Minute)
		created := 0
		for _, w := range s.written {
			if w.Method == http.MethodPost {
				created++
			}
		}
		if created < 2*5 || created > 2*6 {
			t.Errorf("%d new Events in two hours, want two and then two every half hour", created)
		}
		if s.logs.Len() != 0 {
			t.Errorf("logged %s", s.logs.String())
		}
	})
}

func TestAnEventThatCannotBeWrittenIsWrittenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, true, false)
		s.now(match)
		s.answers(http.StatusServiceUnavailable)
		s.now(fallback)
		s.after(10 * time.Minute)
		attempts := len(s.written)
		if attempts < 6 || attempts > 2*7 {
			t.Errorf("%d attempts in ten minutes, want some, less and less often", attempts)
		}
		s.answers(http.StatusCreated)
		s.after(16 * time.Minute)
		if n := len(s.written) - attempts; n != 2 {
			t.Errorf("%d writes when the API server is back, want one about the Node and one about the Pod", n)
		}
	})
}

// In the namespace default the Events about the Node and about the Pod lie side by side.
func TestEachOfTheTwoEventsIsRepeatedAndTriedAgainByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, true, false)
		s.refusesKind = "Node"
		s.now(fallback)
		s.after(10 * time.Minute)
		s.refusesKind = ""
		s.after(25 * time.Minute)
		posts, patches := map[string]int{}, map[string]int{}
		for _, w := range s.written {
			if about, ok := w.Object["involvedObject"].(map[string]any); ok {
				posts[about["kind"].(string)]++
			} else {
				patches[strings.Split(w.Path, "/")[4]]++
			}
		}
		if posts["Pod"] != 1 || posts["Node"] < 3 || posts["Node"] > 7 {
			t.Errorf("%v Events written, want one about the Pod, and some attempts about the Node", posts)
		}
		if patches["demo"] != 1 || patches["default"] > 1 {
			t.Errorf("repeated %v, want the one about the Pod once", patches)
		}
	})
}

// Its first probe is under way.
func TestAProcessThatWasStoppedAndGoesOnReportsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, true, true)
		s.now(match)
		before := len(s.written)
		s.now(stale)
		s.quietly(match)
		s.after(2 * time.Minute)
		if n := len(s.written) - before; n != 0 {
			t.Errorf("%d writes about a moment, want none", n)
		}
	})
}

// Each write may take five seconds, while the state changes.
func TestWhatIsOldWhenItsTurnComesIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := tell(t, true, true)
		s.now(match)
		s.answers(hangs)
		s.now(fallback) // of which the condition hangs
		s.quietly(match)
		s.answers(http.StatusOK)
		before := len(s.written)
		s.after(10 * time.Second)
		for _, w := range s.written[before:] {
			if w.Object["reason"] == "WorkloadIdentityNodeFallback" {
				t.Errorf("wrote %v, which is over", w.Object)
			}
		}
		if got := s.conditions(); got[len(got)-1] != "False" {
			t.Errorf("conditions %v, want False in the end", got)
		}
	})
}
