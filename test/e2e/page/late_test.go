package page

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
)

// A backend as that of Google Cloud Managed Service for Prometheus: its rule evaluator
// runs the rules of Prometheus, and asks and feeds a store that is not its own (source:
// GoogleCloudPlatform/prometheus-engine, cmd/rule-evaluator/main.go). A sample is seen a
// while after it was written, and what a rule records only by later evaluations.
const (
	// seenAfter is by how much samples are late, scraped ones and recorded ones.
	seenAfter = 10 * time.Second
	// evaluated is how often the rules are; what they record waits for so long, too.
	evaluated = 10 * time.Second
	// promisedLate is the sum in docs/alerting.md for such a backend, 66 s, and some
	// seconds for a busy machine.
	promisedLate = 70 * time.Second
)

func TestALateBackendPagesOnce(t *testing.T) {
	t.Parallel()
	late := startLateMonitoring(t)
	for run := range 3 {
		t.Run(fmt.Sprintf("a node, run %d", run+1), func(t *testing.T) {
			t.Parallel()
			aNodeFallsBack(t, late, "9 late backend: one node of six falls back", fmt.Sprintf("late%d", run+1), run, promisedLate)
		})
	}
	t.Run("a cluster", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, late, "9 late backend: all of 20 nodes fall back", "lateall", 20)
		c.healthy(t)
		atAnyMoment()
		c.awaitsPage(t, clusterFallback, suffer(t, "bypass", c.nodes...), promisedLate)
		c.quiet(t, promised)
		c.awaits(t, "page "+clusterFallback+" resolved", suffer(t, "healthy", c.nodes...))
		c.heard(t, "page "+clusterFallback+" firing", "page "+clusterFallback+" resolved")
	})
}

// startLateMonitoring starts a Prometheus that only scrapes and stores, and evaluates
// the shipped ClusterRules beside it.
func startLateMonitoring(t *testing.T) *monitoring {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/kustomize/overlays/gmp/clusterrules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, groups, found := strings.Cut(string(text), "\nspec:\n")
	if !found {
		t.Fatal("the ClusterRules have no spec")
	}
	folder := t.TempDir()
	file := filepath.Join(folder, "rules.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll("\n"+groups, "\n  ", "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := startMonitoring(folder, "")
	if err != nil {
		t.Fatal(err)
	}
	e := evaluator{m}
	manager := rules.NewManager(&rules.ManagerOptions{
		ExternalURL:  &url.URL{},
		QueryFunc:    e.query,
		NotifyFunc:   e.notify,
		Context:      context.Background(),
		AppendableV2: e,
		Queryable: storage.QueryableFunc(func(int64, int64) (storage.Querier, error) {
			return storage.NoopQuerier(), nil
		}),
		Logger:      slog.New(slog.DiscardHandler),
		Registerer:  prometheus.NewRegistry(),
		ResendDelay: time.Minute,
	})
	if err := manager.Update(evaluated, []string{file}, labels.EmptyLabels(), "", nil); err != nil {
		t.Fatal(err)
	}
	go manager.Run()
	t.Cleanup(func() {
		manager.Stop()
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// evaluator is what the rules ask and feed.
type evaluator struct{ m *monitoring }

// query sees what is older than seenAfter.
func (e evaluator) query(ctx context.Context, expression string, at time.Time) (promql.Vector, error) {
	form := url.Values{"query": {expression}, "time": {fmt.Sprintf("%.3f", float64(at.Add(-seenAfter).UnixMilli())/1000)}}
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := e.post(ctx, e.m.prometheusAddress, "/api/v1/query", "application/x-www-form-urlencoded", []byte(form.Encode()), &answer); err != nil {
		return nil, err
	}
	var all promql.Vector
	for _, r := range answer.Data.Result {
		text, number := r.Value[1].(string)
		if !number {
			continue // a native histogram
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, promql.Sample{T: at.UnixMilli(), F: value, Metric: labels.FromMap(r.Metric)})
	}
	return all, nil
}

// notify sends alerts to Alertmanager, as Prometheus does.
func (e evaluator) notify(ctx context.Context, _ string, alerts ...*rules.Alert) {
	all := []map[string]any{}
	for _, a := range alerts {
		ends := a.ValidUntil
		if !a.ResolvedAt.IsZero() {
			ends = a.ResolvedAt
		}
		all = append(all, map[string]any{"labels": a.Labels.Map(), "annotations": a.Annotations.Map(), "startsAt": a.FiredAt, "endsAt": ends})
	}
	body, err := json.Marshal(all)
	if err == nil && len(all) > 0 {
		err = e.post(ctx, e.m.alertmanagerAddress, "/api/v2/alerts", "application/json", body, nil)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "page: notify:", err)
	}
}

func (e evaluator) post(ctx context.Context, address, path, kind string, body []byte, answer any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", kind)
	if strings.HasSuffix(path, "/write") {
		request.Header.Set("Content-Encoding", "snappy")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s: %s", path, response.Status, said)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(said, answer)
}

// AppenderV2 takes what the rules of one evaluation record.
func (e evaluator) AppenderV2(context.Context) storage.AppenderV2 { return &recorded{e: e} }

type recorded struct {
	e    evaluator
	sent prompb.WriteRequest
}

func (r *recorded) Append(_ storage.SeriesRef, l labels.Labels, _, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, _ storage.AppendV2Options) (storage.SeriesRef, error) {
	if h == nil && fh == nil && !math.IsNaN(v) {
		r.sent.Timeseries = append(r.sent.Timeseries, prompb.TimeSeries{Labels: prompb.FromLabels(l, nil), Samples: []prompb.Sample{{Timestamp: t, Value: v}}})
	}
	return 0, nil
}

// Commit writes it one evaluation and a while later.
func (r *recorded) Commit() error {
	if len(r.sent.Timeseries) == 0 {
		return nil
	}
	body, err := r.sent.Marshal()
	if err != nil {
		return err
	}
	time.AfterFunc(evaluated+seenAfter, func() {
		// Nobody hears of what is written after the end.
		_ = r.e.post(context.Background(), r.e.m.prometheusAddress, "/api/v1/write", "application/x-protobuf", snappy.Encode(nil, body), nil)
	})
	return nil
}

func (r *recorded) Rollback() error { return nil }
