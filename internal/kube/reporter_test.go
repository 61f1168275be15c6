package kube_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
)

var (
	fallback = kube.Report{State: identity.NodeFallback, Message: "Pods get the node's identity."}
	match    = kube.Report{State: identity.Match, Message: "All is well."}
)

// report tells a reporter of the states one after the other, until it has made as
// many requests; a moment later there must still be no more.
func (c *cluster) report(t *testing.T, events, condition bool, requests int, reports ...kube.Report) string {
	t.Helper()
	var logs bytes.Buffer
	p := kube.NewReporter(c.reader, c.self, events, condition, slog.New(slog.NewTextHandler(&logs, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	for _, r := range reports {
		p.Report(r)
	}
	for deadline := time.Now().Add(5 * time.Second); len(c.Requests()) < requests && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // the server is real
	}
	time.Sleep(50 * time.Millisecond)
	cancel()
	running.Wait()
	if n := len(c.Requests()); n != requests {
		t.Errorf("%d requests, want %d", n, requests)
	}
	return logs.String()
}

func TestAChangeIsAnEventAboutTheNodeAndThePod(t *testing.T) {
	c := newCluster(t)
	c.report(t, true, false, 4, match, fallback, fallback, match, fallback)
	written := c.Written()
	if len(written) != 4 {
		t.Fatalf("%d objects, want two Events about the fallback and two about its end: %v", len(written), written)
	}
	for i, want := range []struct{ path, kind, name, uid, reason, severity, message string }{
		{"/api/v1/namespaces/default/events", "Node", kubetest.Node, kubetest.Node, "WorkloadIdentityNodeFallback", "Warning", fallback.Message},
		{"/api/v1/namespaces/demo/events", "Pod", kubetest.Pod, "3", "WorkloadIdentityNodeFallback", "Warning", fallback.Message},
		{"/api/v1/namespaces/default/events", "Node", kubetest.Node, kubetest.Node, "WorkloadIdentityMatch", "Normal", match.Message},
		{"/api/v1/namespaces/demo/events", "Pod", kubetest.Pod, "3", "WorkloadIdentityMatch", "Normal", match.Message},
	} {
		w := written[i]
		about, _ := w.Object["involvedObject"].(map[string]any)
		if w.Method != http.MethodPost || w.Path != want.path || about["kind"] != want.kind || about["name"] != want.name || about["uid"] != want.uid {
			t.Errorf("%d: %s %s about %v, want one about the %s %s", i, w.Method, w.Path, about, want.kind, want.name)
		}
		if w.Object["reason"] != want.reason || w.Object["type"] != want.severity || w.Object["message"] != want.message {
			t.Errorf("%d: %v %v %v, want %s %s %s", i, w.Object["type"], w.Object["reason"], w.Object["message"], want.severity, want.reason, want.message)
		}
	}
}

func TestTheConditionFollowsTheState(t *testing.T) {
	c := newCluster(t)
	unavailable := kube.Report{State: identity.Unavailable}
	c.report(t, false, true, 3, fallback, unavailable, match)
	for i, want := range []string{"True", "Unknown", "False"} {
		w := c.Written()[i]
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
}

func TestWhatMayNotBeWrittenIsSaidOnce(t *testing.T) {
	c := newCluster(t)
	c.Answer(http.StatusForbidden, 0)
	logs := c.report(t, true, false, 4, fallback, match)
	if n := strings.Count(logs, "Kubernetes was not told of the state"); n != 1 || !strings.Contains(logs, "reason=forbidden") {
		t.Errorf("%d lines about it, want one:\n%s", n, logs)
	}
	for _, r := range c.reasons {
		if r != kube.Forbidden {
			t.Errorf("counted as %q, want %q", r, kube.Forbidden)
		}
	}
}

// The loop must not wait for the API server.
func TestAReportNeverBlocks(t *testing.T) {
	c := newCluster(t)
	p := kube.NewReporter(c.reader, c.self, true, true, slog.New(slog.DiscardHandler)) // nobody runs it
	for range 100 {
		p.Report(fallback)
	}
}
