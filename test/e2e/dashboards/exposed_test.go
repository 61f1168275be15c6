package dashboards

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/prometheus/prometheus/tsdb"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

// What `kubectl workload-identity exposed --prometheus` finds of three days ago, when the
// agents that saw it are gone: a node was wrong for forty minutes, with a break of ten.
func TestPodsThatWereExposedDaysAgo(t *testing.T) {
	const (
		day       = 24 * time.Hour
		nodeEmail = "123456789012-compute@developer.gserviceaccount.com"
	)
	end := time.Now().Truncate(time.Minute)
	f := &fleet{t: t, end: end}
	folder := t.TempDir()
	var err error
	if f.writer, err = tsdb.NewBlockWriter(slog.New(slog.DiscardHandler), folder, (10 * day).Milliseconds()); err != nil {
		t.Fatal(err)
	}
	f.appender = f.writer.Appender(t.Context())
	began, over := 3*day, 3*day-40*time.Minute
	verdict := func(node, state, observed string, oldest, youngest time.Duration) {
		f.between([]string{"__name__", "workload_identity:node:verdict", "cluster", "c", "node", node, "state", state, "observed", observed}, oldest, youngest, evaluated, one)
	}
	verdict("bad", "match", appEmail, began+time.Hour, began+evaluated)
	verdict("bad", "node_fallback", nodeEmail, began, began-15*time.Minute)
	verdict("bad", "match", appEmail, began-15*time.Minute-evaluated, began-25*time.Minute+evaluated)
	verdict("bad", "node_fallback", nodeEmail, began-25*time.Minute, over)
	verdict("bad", "match", appEmail, over-evaluated, 0)
	verdict("good", "match", appEmail, 4*day, 0)
	pod := func(name, node, account, host string, oldest, youngest time.Duration) {
		own := []string{"cluster", "c", "namespace", "shop", "pod", name, "uid", "uid-" + name}
		f.between(append([]string{"__name__", "kube_pod_info", "node", node, "host_network", host}, own...), oldest, youngest, scraped, one)
		f.between(append([]string{"__name__", "kube_pod_service_account", "service_account", account}, own...), oldest, youngest, scraped, one)
	}
	pod("left", "bad", "app", "false", 4*day, 0)
	pod("deleted", "bad", "app", "false", began-5*time.Minute, began-35*time.Minute)
	pod("between", "bad", "app", "false", began-18*time.Minute, began-22*time.Minute)
	pod("before", "bad", "app", "false", 4*day, began+10*time.Minute)
	pod("later", "bad", "app", "false", over-10*time.Minute, day)
	pod("proxy", "bad", "app", "true", 4*day, day)
	pod("plain", "bad", "plain", "false", 4*day, day)
	pod("elsewhere", "good", "app", "false", 4*day, day)
	if err := f.appender.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.writer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.writer.Close(); err != nil {
		t.Fatal(err)
	}
	address := startPrometheus(t, folder, map[string]any{}, "--storage.tsdb.retention.time=30d")

	type object = map[string]any
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		items := []object{}
		switch {
		case r.URL.Path == "/api/v1/serviceaccounts":
			items = append(items, object{"metadata": object{"name": "app", "namespace": "shop", "annotations": object{"iam.gke.io/gcp-service-account": appEmail}}}, object{"metadata": object{"name": "plain", "namespace": "shop"}})
		case r.URL.Query().Get("labelSelector") == "": // and no agents
			items = append(items, object{
				"metadata": object{"name": "left", "namespace": "shop", "uid": "uid-left"}, "spec": object{"nodeName": "bad", "serviceAccountName": "app"},
				"status": object{"phase": "Running", "startTime": end.Add(-4 * day), "containerStatuses": []object{{"state": object{"running": object{"startedAt": end.Add(-4 * day)}}}}},
			})
		}
		_ = json.NewEncoder(w).Encode(object{"items": items})
	}))
	defer api.Close()
	c, err := plugin.NewCluster(&rest.Config{Host: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	e, err := plugin.Exposed(t.Context(), c, plugin.Incident{Since: end.Add(-7 * day), Prometheus: &plugin.Prometheus{URL: "http://" + address, Match: `cluster="c"`}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("asked for 7 days in %s", time.Since(asked).Round(time.Millisecond))

	if len(e.Windows) != 2 || len(e.Unknown) != 0 {
		t.Fatalf("windows %+v, unknown %q", e.Windows, e.Unknown)
	}
	for i, want := range []struct{ from, until time.Duration }{{began, began - 15*time.Minute}, {began - 25*time.Minute, over}} {
		w := e.Windows[i]
		// Within a step, and never less than it was.
		if from, until := end.Sub(w.From), end.Sub(w.Until); w.Node != "bad" || from < want.from-evaluated || from > want.from+2*time.Minute || until > want.until+evaluated || until < want.until-2*time.Minute {
			t.Errorf("it was wrong from %s until %s ago, want %s and %s", from, until, want.from, want.until)
		}
	}
	var got []string
	for _, p := range e.Pods {
		got = append(got, fmt.Sprintf("%s %s %v", p.Pod, p.ServiceAccount, p.Runs))
	}
	if all := strings.Join(got, ", "); all != "left app true, deleted app false" {
		t.Errorf("Pods %s", all)
	}
	if e.HostNetwork != 1 || e.NotAnnotated != 1 || len(e.Queries) != 1 || !strings.Contains(e.Queries[0], nodeEmail) {
		t.Errorf("left out %d and %d, queries %q", e.HostNetwork, e.NotAnnotated, e.Queries)
	}

	// A cluster that this Prometheus does not know is not one in which all was well.
	_, err = plugin.Exposed(t.Context(), c, plugin.Incident{Since: end.Add(-7 * day), Prometheus: &plugin.Prometheus{URL: "http://" + address, Match: `cluster="other"`}})
	if err == nil || !strings.Contains(err.Error(), "no series workload_identity:node:verdict") {
		t.Errorf("of another cluster: %v", err)
	}
}
