package plugin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

const ofNode = "123456789012-compute@developer.gserviceaccount.com"

// incident is a cluster of two nodes: bad was wrong from 3 hours ago until 2 hours ago, and
// good never was.
type incident struct {
	now    time.Time
	pods   []object
	bad    report.Report
	silent bool
}

func newIncident() *incident {
	i := &incident{now: time.Now().UTC().Truncate(time.Second)}
	i.bad = report.Report{State: identity.Match, Since: i.ago(2), Observed: app, Changes: []report.Change{
		{At: i.ago(2), From: identity.NodeFallback, To: identity.Match, Observed: app},
		{At: i.ago(3), From: identity.Match, To: identity.NodeFallback, Observed: ofNode},
		{At: i.ago(30), From: identity.Starting, To: identity.Match, Observed: app},
	}}
	return i
}

func (i *incident) ago(hours float64) time.Time {
	return i.now.Add(-time.Duration(hours * float64(time.Hour)))
}

// pod runs since a time, and its container since another.
func (i *incident) pod(name, node, account string, began, container float64, more object) {
	spec := object{"nodeName": node, "serviceAccountName": account}
	maps.Copy(spec, more)
	i.pods = append(i.pods, object{
		"metadata": object{"name": name, "namespace": "shop", "uid": "uid-" + name}, "spec": spec,
		"status": object{"phase": "Running", "startTime": i.ago(began), "containerStatuses": []object{{"state": object{"running": object{"startedAt": i.ago(container)}}}}},
	})
}

func (i *incident) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	items := func(all ...object) { _ = json.NewEncoder(w).Encode(object{"items": all}) }
	good := report.Report{State: identity.Match, Since: i.ago(30), Changes: []report.Change{{At: i.ago(30), From: identity.Starting, To: identity.Match}}}
	agent := func(node string) object {
		return object{"metadata": object{"name": "agent-" + node, "namespace": "wie"}, "spec": object{"nodeName": node}, "status": object{"phase": "Running"}}
	}
	switch r.URL.Path {
	case "/api/v1/pods":
		if r.URL.Query().Get("labelSelector") == plugin.Selector {
			items(agent("bad"), agent("good"))
			return
		}
		items(i.pods...)
	case "/api/v1/serviceaccounts":
		items(object{"metadata": object{"name": "app", "namespace": "shop", "annotations": object{gsa: app}}}, object{"metadata": object{"name": "plain", "namespace": "shop"}})
	case "/api/v1/namespaces/wie/pods/agent-bad:10988/proxy/status.json":
		if i.silent {
			http.Error(w, "no route", http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(i.bad)
	case "/api/v1/namespaces/wie/pods/agent-good:10988/proxy/status.json":
		_ = json.NewEncoder(w).Encode(good)
	default:
		http.NotFound(w, r)
	}
}

func (i *incident) exposed(t *testing.T, of plugin.Incident) plugin.Exposure {
	t.Helper()
	s := httptest.NewServer(i)
	defer s.Close()
	c, err := plugin.NewCluster(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	e, err := plugin.Exposed(t.Context(), c, of)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func names(e plugin.Exposure) string {
	var all []string
	for _, p := range e.Pods {
		all = append(all, fmt.Sprintf("%s %v", p.Pod, p.Runs))
	}
	return strings.Join(all, ", ")
}

func TestPodsThatHadAWrongIdentity(t *testing.T) {
	i := newIncident()
	i.pod("left", "bad", "app", 10, 10, nil)
	i.pod("during", "bad", "app", 2.5, 2.5, nil)
	i.pod("restarted", "bad", "app", 10, 1, nil)
	i.pod("orphan", "bad", "deleted", 10, 10, nil) // its ServiceAccount may have had an annotation
	i.pod("later", "bad", "app", 1, 1, nil)
	i.pod("elsewhere", "good", "app", 10, 10, nil)
	i.pod("proxy", "bad", "app", 10, 10, object{"hostNetwork": true})
	i.pod("plain", "bad", "plain", 10, 10, nil)
	i.pod("done", "bad", "app", 10, 10, nil)
	i.pods[len(i.pods)-1]["status"] = object{"phase": "Succeeded", "startTime": i.ago(10), "containerStatuses": []object{{"state": object{"terminated": object{"finishedAt": i.ago(2.8)}}}}}
	i.pod("done-before", "bad", "app", 10, 10, nil)
	i.pods[len(i.pods)-1]["status"] = object{"phase": "Failed", "startTime": i.ago(10), "containerStatuses": []object{{"state": object{"terminated": object{"finishedAt": i.ago(4)}}}}}

	e := i.exposed(t, plugin.Incident{Since: i.ago(24)})
	if got, want := names(e), "during true, left true, orphan true, done false, restarted false"; got != want {
		t.Errorf("Pods %s, want %s", got, want)
	}
	if e.HostNetwork != 1 || e.NotAnnotated != 1 || e.RestartedSince != 1 || e.ExitCode() != report.ExitWrong {
		t.Errorf("left out %d and %d, restarted %d, exit code %d", e.HostNetwork, e.NotAnnotated, e.RestartedSince, e.ExitCode())
	}
	left, during, done := e.Pods[1], e.Pods[0], e.Pods[3]
	if !left.From.Equal(i.ago(3)) || !left.Until.Equal(i.ago(2)) || !during.From.Equal(i.ago(2.5)) || !done.Until.Equal(i.ago(2.8)) || !slices.Equal(left.Observed, []string{ofNode}) {
		t.Errorf("%+v\n%+v\n%+v", left, during, done)
	}
	// From a minute before it was stated, until the last token has expired.
	query := fmt.Sprintf("protoPayload.authenticationInfo.principalEmail=%q AND ((timestamp>=%q AND timestamp<=%q))", ofNode,
		i.ago(3).Add(-time.Minute).Format(time.RFC3339), i.ago(1).Format(time.RFC3339))
	if !slices.Equal(e.Queries, []string{query}) {
		t.Errorf("%q, want %s", e.Queries, query)
	}
	// What remains unknown is that deleted Pods are; the agents remember 30 hours.
	if len(e.Unknown) != 1 || !strings.Contains(e.Unknown[0], "--prometheus") {
		t.Errorf("unknown: %q", e.Unknown)
	}
	printed := func(format string) string {
		var b bytes.Buffer
		if err := plugin.PrintExposure(&b, e, format); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got, want := printed("name"), "-n shop pod/during\n-n shop pod/left\n-n shop pod/orphan\n"; got != want {
		t.Errorf("by name it is %q, want %q", got, want)
	}
	for format, want := range map[string]string{
		"table": "  bad from " + i.ago(3).Format(time.RFC3339) + " until " + i.ago(2).Format(time.RFC3339) + ": node_fallback, " + ofNode + "\n",
		"wide":  "   " + ofNode + "\n", "json": `"restarted_since": 1`, "yaml": "restarted_since: 1",
	} {
		if got := printed(format); !strings.Contains(got, want) {
			t.Errorf("%s lacks %q:\n%s", format, want, got)
		}
	}

	if e := i.exposed(t, plugin.Incident{Since: i.ago(1)}); len(e.Pods) != 0 || len(e.Windows) != 0 || e.ExitCode() != report.ExitMatch {
		t.Errorf("since an hour: %+v", e)
	}
}

func TestWhatTheAgentsDoNotRemember(t *testing.T) {
	i := newIncident()
	i.pod("left", "bad", "app", 10, 10, nil)
	// It goes on, and this agent was updated meanwhile and is of a version that does not
	// name the identity in its changes.
	i.bad = report.Report{State: identity.NodeFallback, Since: i.ago(1), Observed: ofNode, Changes: []report.Change{{At: i.ago(1), From: identity.Starting, To: identity.NodeFallback}}}
	e := i.exposed(t, plugin.Incident{Since: i.ago(24)})
	if len(e.Windows) != 1 || !e.Windows[0].Ongoing || !slices.Equal(e.Windows[0].Observed, []string{ofNode}) || names(e) != "left true" {
		t.Errorf("%+v", e)
	}
	if len(e.Unknown) != 2 || !strings.Contains(e.Unknown[0], "1 of 2 agents remember less than was asked for, at worst from "+i.ago(1).Format(time.RFC3339)) {
		t.Errorf("unknown: %q", e.Unknown)
	}
	// The loop hangs: what it said last holds until then.
	i.bad.State, i.bad.Since = identity.Stale, i.ago(0.5)
	if e := i.exposed(t, plugin.Incident{Since: i.ago(24)}); len(e.Windows) != 1 || e.Windows[0].Ongoing || !e.Windows[0].Until.Equal(i.ago(0.5)) {
		t.Errorf("stale: %+v", e.Windows)
	}
	i.silent = true
	e = i.exposed(t, plugin.Incident{Since: i.ago(24)})
	if len(e.Unknown) != 1 || e.Unknown[0] != "1 agents do not answer, on bad" || e.ExitCode() != report.ExitInconclusive {
		t.Errorf("silent: %d, %q", e.ExitCode(), e.Unknown)
	}
}

// What Prometheus itself answers is in test/e2e/dashboards.
func TestPrometheusDoesNotAnswer(t *testing.T) {
	i := newIncident()
	for want, body := range map[string]string{
		"it answers 200 OK to query_range: bad data": `{"status": "error", "error": "bad data"}`,
		"it answers 200 OK to query_range: <html>":   "<html>",
		"it lacks the rules of this project":         `{"status": "success", "data": {"result": []}}`,
		"several clusters that were wrong: choose one by --match": `{"status": "success", "data": {"result": [
			{"metric": {"cluster": "a", "node": "x", "state": "mismatch"}, "values": [[1, "1"]]}, {"metric": {"cluster": "b", "node": "x", "state": "mismatch"}, "values": [[1, "1"]]}]}}`,
	} {
		prometheus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
		s := httptest.NewServer(i)
		c, err := plugin.NewCluster(&rest.Config{Host: s.URL})
		if err == nil {
			_, err = plugin.Exposed(t.Context(), c, plugin.Incident{Since: i.ago(24), Prometheus: &plugin.Prometheus{URL: prometheus.URL}})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		prometheus.Close()
		s.Close()
	}
}
