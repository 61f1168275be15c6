package dashboards

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"gonum.org/v1/plot/plotter"
	"sigs.k8s.io/yaml"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/curve"
	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

// pagingGroup is what pages, and all that it is computed from.
const pagingGroup = "workload-identity"

// askedByPaging is the metric that it asks for.
const askedByPaging = "workload_identity_verdict_timestamp_seconds"

// BenchmarkRules has the committed rules evaluated by a Prometheus that gets the series of
// so many nodes, each at its time, and tells how long its groups and rules took.
func BenchmarkRules(b *testing.B) {
	for _, size := range []struct {
		nodes, clusters int
		failing         float64
		all             bool // rules, and not those that page alone
		rolled          bool // all agents are replaced before they are looked at
	}{
		{1_000, 1, 0.01, true, false},
		{5_000, 1, 0.01, true, false},
		{15_000, 1, 0, true, false},
		{15_000, 1, 0.01, true, false},
		{15_000, 1, 1, true, false},
		{15_000, 100, 0.01, true, false},
		{1_000, 1, 0.01, true, true},
		{1_000, 1, 0.01, false, false},
		{5_000, 1, 0.01, false, false},
		{15_000, 1, 0.01, false, false},
		{15_000, 1, 1, false, false},
		{15_000, 100, 0.01, false, false},
		{65_000, 1, 0, false, false},
		{65_000, 1, 0.01, false, false},
		{65_000, 1, 1, false, false},
		{65_000, 100, 0.01, false, false},
	} {
		what := "all"
		if !size.all {
			what = "paging"
		}
		if size.rolled {
			what = "rolled"
		}
		b.Run(fmt.Sprintf("%s/nodes=%d/clusters=%d/failing=%g%%", what, size.nodes, size.clusters, 100*size.failing), func(b *testing.B) {
			for b.Loop() {
				f := &fleet{t: b, end: time.Now().Truncate(time.Second), feed: &feed{}}
				lasts := 200 * time.Second
				if !size.all {
					lasts = time.Minute
					f.feed.only = askedByPaging
				}
				for c := range size.clusters {
					n := size.nodes / size.clusters
					f.cluster(fmt.Sprintf("c-%03d", c), n, func(i int) string {
						switch {
						case size.failing == 1:
							return "node_fallback"
						case float64(i) < size.failing*float64(n):
							return ills[i%len(ills)]
						}
						return ""
					})
				}
				evaluate(b, f.feed, lasts, size.all, size.rolled)
			}
		})
	}
}

// evaluate prints how long the groups and the slowest rules took.
func evaluate(b *testing.B, f *feed, lasts time.Duration, all, rolled bool) {
	b.Helper()
	folder := filepath.Join(b.TempDir(), "data")
	address := startPrometheus(b, folder, map[string]any{
		"global": map[string]any{"evaluation_interval": "1m"}, "rule_files": []string{ruleFile(b, all)},
	}, "--web.enable-remote-write-receiver")
	end := time.Now().Truncate(time.Second)
	began := time.Now()
	// What is sent before the rules are looked at is more than the longest of their windows
	// that is not for alerts about what is gone.
	at := end.Add(-16 * time.Minute)
	if !all {
		at = end.Add(-3 * time.Minute)
	}
	feed := func(until time.Time) {
		for ; at.Before(until); at = at.Add(time.Second) {
			time.Sleep(time.Until(at)) // what is past is late already
			if err := f.second(address, at, end.Sub(at)); err != nil {
				b.Fatal(err)
			}
		}
	}
	feed(end)
	// What has come due meanwhile.
	for time.Since(at) > time.Second {
		feed(time.Now().Truncate(time.Second))
	}
	fmt.Printf("%d series, %d samples sent in %.0f s\n", f.series, f.samples, time.Since(began).Seconds())
	took := newTimes()
	report := func(what string, late time.Duration) {
		page, err := program.Get(b.Context(), "http://"+address+"/metrics")
		if err != nil {
			b.Fatal(err)
		}
		fmt.Printf("%s: %.0f MiB resident, %.0f series, %s of WAL; the feed was %s late at most\n", what, value(page, "process_resident_memory_bytes")/(1<<20),
			value(page, "prometheus_tsdb_head_series"), size(filepath.Join(folder, "wal")), late.Round(time.Millisecond))
	}
	if rolled {
		report("before all agents are replaced", 0)
		if err := f.roll(address, at); err != nil {
			b.Fatal(err)
		}
	}
	late := time.Duration(0)
	for until := time.Now().Add(lasts); time.Now().Before(until); {
		feed(time.Now().Add(time.Second).Truncate(time.Second))
		late = max(late, time.Since(at))
		if time.Now().Unix()%5 != 0 {
			continue // to ask costs as well
		}
		took.note(b, address, end)
	}
	report("Prometheus", late)
	took.print()
	b.ReportMetric(middle(took.groups[pagingGroup]), "s/paging")
}

// times are how long the groups and the rules took, each time.
type times struct {
	groups, rules map[string][]float64
	seen          map[string]time.Time
}

func newTimes() *times {
	return &times{map[string][]float64{}, map[string][]float64{}, map[string]time.Time{}}
}

// note takes what Prometheus says of the evaluations since it was asked before.
func (t *times) note(b *testing.B, address string, since time.Time) {
	b.Helper()
	for _, g := range evaluations(b, address) {
		if g.LastEvaluation.Equal(t.seen[g.Name]) || g.LastEvaluation.Before(since) {
			continue
		}
		t.seen[g.Name] = g.LastEvaluation
		t.groups[g.Name] = append(t.groups[g.Name], g.EvaluationTime)
		for _, r := range g.Rules {
			if r.Health == "err" {
				b.Errorf("%s: %s", r.Name, r.LastError)
			}
			t.rules[r.Name] = append(t.rules[r.Name], r.EvaluationTime)
		}
	}
}

// print prints how long the groups took, and the slowest rules.
func (t *times) print() {
	for _, name := range slices.Sorted(maps.Keys(t.groups)) {
		fmt.Printf("| %s | %.3f s | %.3f s | %d |\n", name, middle(t.groups[name]), slices.Max(t.groups[name]), len(t.groups[name]))
	}
	names := slices.SortedFunc(maps.Keys(t.rules), func(a, b string) int { return cmp.Compare(middle(t.rules[b]), middle(t.rules[a])) })
	for _, name := range names[:min(len(names), 24)] {
		fmt.Printf("| %s | %.3f s |\n", name, middle(t.rules[name]))
	}
}

// BenchmarkGroups has all committed rules evaluated by a Prometheus that has the series of
// so many nodes and their Pods already, and ingests nothing: what it costs to keep them is
// not in the time. It draws three groups over the number of nodes.
func BenchmarkGroups(b *testing.B) {
	var paging, dashboards, pods plotter.XYs
	for _, size := range []struct {
		nodes   int
		failing float64
	}{{1_000, 0.01}, {5_000, 0.01}, {10_000, 0.01}, {15_000, 0.01}, {15_000, 0}, {15_000, 1}} {
		b.Run(fmt.Sprintf("nodes=%d/failing=%g%%", size.nodes, 100*size.failing), func(b *testing.B) {
			for b.Loop() {
				// The data end when Prometheus begins.
				lasts := 30*time.Second + time.Duration(size.nodes)*12*time.Millisecond
				f := &fleet{t: b, end: time.Now().Add(lasts).Truncate(time.Second)}
				folder := filepath.Join(b.TempDir(), "data")
				f.write(folder, func() {
					f.cluster("large", size.nodes, func(i int) string {
						switch {
						case size.failing == 1:
							return "node_fallback"
						case float64(i) < size.failing*float64(size.nodes):
							return ills[i%len(ills)]
						}
						return ""
					})
				})
				if time.Now().After(f.end.Add(30 * time.Second)) {
					b.Fatalf("it took %s longer than expected to write the series", time.Since(f.end))
				}
				time.Sleep(time.Until(f.end))
				address := startPrometheus(b, folder, map[string]any{
					"global": map[string]any{"evaluation_interval": "1m"}, "rule_files": []string{ruleFile(b, true)},
				}, "--storage.tsdb.retention.time=10y")
				took := newTimes()
				for until := time.Now().Add(100 * time.Second); time.Now().Before(until); time.Sleep(time.Second) {
					took.note(b, address, f.end)
				}
				took.print()
				page, dashboard, pod := middle(took.groups[pagingGroup]), middle(took.groups[pagingGroup+".dashboards"]), middle(took.groups[pagingGroup+".pods"])
				b.ReportMetric(page, "s/paging")
				b.ReportMetric(dashboard, "s/dashboards")
				b.ReportMetric(pod, "s/pods")
				if size.failing == 0.01 {
					paging = append(paging, plotter.XY{X: float64(size.nodes), Y: page})
					dashboards = append(dashboards, plotter.XY{X: float64(size.nodes), Y: dashboard})
					pods = append(pods, plotter.XY{X: float64(size.nodes), Y: pod})
				}
			}
		})
	}
	if os.Getenv("PICTURE") == "" || len(paging) == 0 {
		return
	}
	err := curve.Picture{
		Title: "Evaluation of the rules, one node in a hundred failing", X: "nodes", Y: "seconds",
		Lines: []curve.Line{{Name: "pods, each minute", Points: pods, Dots: true}, {Name: "dashboards, each minute", Points: dashboards, Dots: true}, {Name: "paging, each 10 s", Points: paging, Dots: true}},
	}.Write(os.Getenv("PICTURE"))
	if err != nil {
		b.Fatal(err)
	}
}

func middle(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// ruleFile has all committed rules, or those that page.
func ruleFile(b *testing.B, all bool) string {
	b.Helper()
	text, err := os.ReadFile(repository + "alerts/workload-identity.rules.yaml")
	if err != nil {
		b.Fatal(err)
	}
	var file struct {
		Groups []map[string]any `json:"groups"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		b.Fatal(err)
	}
	if !all {
		file.Groups = slices.DeleteFunc(file.Groups, func(g map[string]any) bool { return g["name"] != pagingGroup })
	}
	if text, err = yaml.Marshal(file); err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

type group struct {
	Name           string
	EvaluationTime float64
	LastEvaluation time.Time
	Rules          []struct {
		Name, Health, LastError string
		EvaluationTime          float64
	}
}

func evaluations(b *testing.B, address string) []group {
	b.Helper()
	text, err := program.Get(b.Context(), "http://"+address+"/api/v1/rules?exclude_alerts=true")
	if err != nil {
		b.Fatal(err)
	}
	var answer struct{ Data struct{ Groups []group } }
	if err := json.Unmarshal(text, &answer); err != nil {
		b.Fatal(err)
	}
	return answer.Data.Groups
}

// value is that of the metric without labels.
func value(page []byte, metric string) float64 {
	m := regexp.MustCompile(`(?m)^` + metric + ` (\S+)$`).FindSubmatch(page)
	if m == nil {
		return 0
	}
	v, _ := strconv.ParseFloat(string(m[1]), 64) // 0 as well
	return v
}

// size is that of all files in the folder.
func size(folder string) string {
	var bytes int64
	_ = filepath.WalkDir(folder, func(_ string, d os.DirEntry, _ error) error {
		if info, err := d.Info(); err == nil {
			bytes += info.Size()
		}
		return nil
	})
	return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20))
}
