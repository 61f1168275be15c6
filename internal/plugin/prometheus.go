package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

const (
	// mostSteps is what Prometheus answers at most in a range, and largest how many bytes
	// are read of an answer.
	mostSteps, largest = 10_000, 256 << 20
	// nodesAtOnce is how many nodes a query is about.
	nodesAtOnce = 50
)

// Prometheus has the recorded series of this project, and those of kube-state-metrics.
type Prometheus struct {
	// URL is where its API is, without /api/v1.
	URL string
	// Match are label matchers of one cluster, where it has several: cluster="prod".
	Match string
}

// series is one of an answer, with its samples in the order of time.
type series struct {
	labels  map[string]string
	samples []sample
}

type sample struct {
	at    time.Time
	value float64
}

// windows are those in which a node was recorded with a wrong identity.
func (p *Prometheus) windows(ctx context.Context, from, until time.Time) ([]Window, error) {
	step := max(time.Minute, (until.Sub(from)/mostSteps).Truncate(time.Second)+time.Second)
	wrong := slices.DeleteFunc(identity.States(), func(s identity.State) bool { return !s.Accuses() })
	words := make([]string, len(wrong))
	for i, s := range wrong {
		words[i] = string(s)
	}
	// A sample stands for the step before it, so that none is missed between two.
	query := fmt.Sprintf("last_over_time(workload_identity:node:verdict{%s}[%ds])", p.with(`state=~"`+strings.Join(words, "|")+`"`), int(step.Seconds()))
	found, err := p.ask(ctx, "query_range", url.Values{
		"query": {query}, "start": {unix(from)}, "end": {unix(until)}, "step": {strconv.Itoa(int(step.Seconds()))},
	})
	if err != nil {
		return nil, err
	}
	clusters := map[string]bool{}
	var windows []Window
	for _, s := range found {
		clusters[fmt.Sprintf("project_id=%q, location=%q, cluster=%q", s.labels["project_id"], s.labels["location"], s.labels["cluster"])] = true
		for i, at := range s.samples {
			if i > 0 && at.at.Sub(s.samples[i-1].at) <= step {
				windows[len(windows)-1].Until = at.at
				continue
			}
			w := Window{Node: shown(s.labels["node"]), From: later(at.at.Add(-step), from), Until: at.at, Observed: []string{}, States: []identity.State{identity.State(shown(s.labels["state"]))}}
			if o := shown(s.labels["observed"]); o != "" {
				w.Observed = append(w.Observed, o)
			}
			windows = append(windows, w)
		}
	}
	if len(clusters) > 1 {
		return nil, fmt.Errorf("prometheus has nodes of several clusters that were wrong: choose one by --match, of %s", strings.Join(slices.Sorted(maps.Keys(clusters)), "; "))
	}
	if len(found) == 0 {
		recorded, err := p.ask(ctx, "query", url.Values{"query": {fmt.Sprintf("count(last_over_time(workload_identity:node:verdict{%s}[%ds]))", p.Match, int(until.Sub(from).Seconds()))}, "time": {unix(until)}})
		if err == nil && len(recorded) == 0 {
			err = errors.New("prometheus has no series workload_identity:node:verdict in that time: it lacks the rules of this project, or --match selects nothing")
		}
		return nil, err
	}
	return windows, nil
}

// recordedPod is one that kube-state-metrics has seen.
type recordedPod struct {
	namespace, pod, uid, node, account string
	hostNetwork                        bool
	from, until                        time.Time
}

// pods are those that were on the nodes in the time of all windows.
func (p *Prometheus) pods(ctx context.Context, windows []Window) ([]recordedPod, error) {
	byNode := map[string]Window{}
	for _, w := range windows {
		hull, ok := byNode[w.Node]
		if !ok {
			hull = w
		}
		hull.From, hull.Until = earlier(hull.From, w.From), later(hull.Until, w.Until)
		byNode[w.Node] = hull
	}
	nodes := slices.Sorted(maps.Keys(byNode))
	all := map[string]recordedPod{}
	for batch := range slices.Chunk(nodes, nodesAtOnce) {
		from, until := byNode[batch[0]].From, byNode[batch[0]].Until
		quoted := make([]string, len(batch))
		for i, n := range batch {
			from, until = earlier(from, byNode[n].From), later(until, byNode[n].Until)
			quoted[i] = regexp.QuoteMeta(n)
		}
		info := "kube_pod_info{" + p.with("node=~"+strconv.Quote(strings.Join(quoted, "|"))) + "}"
		lasts := fmt.Sprintf("[%ds]", int(math.Ceil(until.Sub(from).Seconds()))+60)
		steps := strings.TrimSuffix(lasts, "]") + ":30s]"
		for _, q := range []struct {
			query string
			keep  func(*recordedPod, series)
		}{
			{"min_over_time(timestamp(" + info + ")" + steps + ")", func(r *recordedPod, s series) {
				r.node, r.hostNetwork, r.from = s.labels["node"], s.labels["host_network"] == "true", at(s.samples[0].value)
			}},
			{"max_over_time(timestamp(" + info + ")" + steps + ")", func(r *recordedPod, s series) { r.until = at(s.samples[0].value) }},
			{
				"last_over_time(kube_pod_service_account{" + p.Match + "}" + lasts + ") and on (namespace, pod, uid) last_over_time(" + info + lasts + ")",
				func(r *recordedPod, s series) { r.account = s.labels["service_account"] },
			},
		} {
			found, err := p.ask(ctx, "query", url.Values{"query": {q.query}, "time": {unix(until)}})
			if err != nil {
				return nil, err
			}
			for _, s := range found {
				key := s.labels["namespace"] + "/" + s.labels["pod"] + "/" + s.labels["uid"]
				r := all[key]
				r.namespace, r.pod, r.uid = s.labels["namespace"], s.labels["pod"], s.labels["uid"]
				q.keep(&r, s)
				all[key] = r
			}
		}
	}
	var pods []recordedPod
	for _, key := range slices.Sorted(maps.Keys(all)) {
		pods = append(pods, all[key])
	}
	return pods, nil
}

func (p *Prometheus) with(matchers string) string {
	if p.Match == "" {
		return matchers
	}
	return matchers + "," + p.Match
}

// ask is one request of the API (Prometheus documentation, "HTTP API").
func (p *Prometheus) ask(ctx context.Context, what string, parameters url.Values) ([]series, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(p.URL, "/")+"/api/v1/"+what, strings.NewReader(parameters.Encode()))
	if err != nil {
		return nil, fmt.Errorf("--prometheus: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("--prometheus: %w", err)
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Value  *pair
				Values []pair
			}
		}
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, largest))
	if err != nil {
		return nil, fmt.Errorf("--prometheus: %w", err)
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		said := answer.Error
		if err != nil {
			said = string(body[:min(len(body), longest)])
		}
		return nil, fmt.Errorf("--prometheus: it answers %s to %s: %s", response.Status, what, shown(said))
	}
	var all []series
	for _, r := range answer.Data.Result {
		s := series{labels: r.Metric}
		if r.Value != nil {
			r.Values = append(r.Values, *r.Value)
		}
		for _, v := range r.Values {
			s.samples = append(s.samples, sample(v))
		}
		if len(s.samples) > 0 {
			all = append(all, s)
		}
	}
	return all, nil
}

// pair is a sample as the API writes it: [seconds, "value"].
type pair sample

// UnmarshalJSON reads it.
func (p *pair) UnmarshalJSON(text []byte) error {
	var seconds float64
	var value string
	if err := json.Unmarshal(text, &[]any{&seconds, &value}); err != nil {
		return err
	}
	v, err := strconv.ParseFloat(value, 64)
	p.at, p.value = at(seconds), v
	return err
}

func at(seconds float64) time.Time { return time.UnixMilli(int64(seconds * 1000)).UTC() }

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }
