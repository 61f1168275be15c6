package dashboards

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// grafana asks Prometheus what Grafana would: it puts the variables into
// queries, and finds the step of graphs.
type grafana struct {
	prometheus string // its address
	folder     string // of the pages, dashboards if none
	end        time.Time
	span       time.Duration
	scrape     time.Duration // as set in the datasource
}

// width is that of a browser window, in points.
const width = 1600

// asked is one query of a page, ready for Prometheus.
type asked struct {
	page, panel, ref string
	kind             string // range, instant or values
	expression       string
	step             time.Duration
	label            string // of values
}

func (a asked) String() string { return strings.TrimSpace(a.page + ": " + a.panel + " " + a.ref) }

// queries are all of a page, with choices of variables: a name that is not
// chosen is All. Variables that depend on others are asked for here.
func (g grafana) queries(t testing.TB, d dashboard, choices map[string]string) []asked {
	t.Helper()
	var all []asked
	values, raw := map[string]string{}, map[string]string{}
	for _, v := range d.Templating.List {
		if v.Type == "datasource" {
			continue
		}
		expression, label := v.expression(t)
		a := asked{page: d.UID, panel: "$" + v.Name, kind: "instant", expression: g.interpolate(expression, time.Second, values, raw), label: label}
		if label != "" {
			a.kind = "values"
		}
		all = append(all, a)
		chosen, ok := choices[v.Name]
		switch {
		case ok:
			values[v.Name], raw[v.Name] = escape(chosen), chosen
		case v.AllValue != "":
			values[v.Name], raw[v.Name] = v.AllValue, v.AllValue
		default:
			values[v.Name] = anyOf(g.options(t, v, a))
		}
	}
	for _, p := range d.Panels {
		points := p.MaxDataPoints
		if points == 0 {
			points = width * p.GridPos.W / 24
		}
		for _, target := range p.Targets {
			a := asked{page: d.UID, panel: p.Title, ref: target.RefID, kind: "range", step: g.step(points)}
			if target.Instant {
				a.kind, a.step = "instant", g.step(points)
			}
			a.expression = g.interpolate(target.Expr, a.step, values, raw)
			all = append(all, a)
		}
	}
	for _, m := range d.Annotations.List {
		all = append(all, asked{page: d.UID, panel: "mark " + m.Name, kind: "range", expression: g.interpolate(m.Expr, 30*time.Second, values, raw), step: max(g.scrape, g.span/120)})
	}
	return all
}

// options are the values that a variable finds.
func (g grafana) options(t testing.TB, v variable, a asked) []string {
	t.Helper()
	r, err := g.ask(t.Context(), a)
	if err != nil {
		t.Fatalf("%s: %v", a, err)
	}
	found := r.values
	pattern := regexp.MustCompile(strings.Trim(v.Regex, "/"))
	for _, s := range r.series {
		if m := pattern.FindStringSubmatch(s.text()); m != nil {
			found = append(found, m[1])
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// step is what calculateInterval of Grafana gives, for spans of some hours.
func (g grafana) step(points int) time.Duration {
	ideal := g.span / time.Duration(points)
	for _, s := range []struct{ below, is time.Duration }{
		{1500 * time.Millisecond, time.Second},
		{3500 * time.Millisecond, 2 * time.Second},
		{7500 * time.Millisecond, 5 * time.Second},
		{12500 * time.Millisecond, 10 * time.Second},
		{17500 * time.Millisecond, 15 * time.Second},
		{25 * time.Second, 20 * time.Second},
		{45 * time.Second, 30 * time.Second},
	} {
		if ideal < s.below {
			return max(s.is, g.scrape)
		}
	}
	return time.Minute
}

var reference = regexp.MustCompile(`\$(\w+)|\$\{(\w+)(?::(raw))?\}`)

// interpolate puts variables in. What Grafana does not know it leaves as it is.
func (g grafana) interpolate(expression string, step time.Duration, values, raw map[string]string) string {
	seconds := func(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) + "s" }
	return reference.ReplaceAllStringFunc(expression, func(match string) string {
		m := reference.FindStringSubmatch(match)
		name := m[1] + m[2]
		switch name {
		case "__rate_interval":
			return seconds(max(step+g.scrape, 4*g.scrape))
		case "__interval":
			return seconds(step)
		case "__range":
			return seconds(g.span)
		}
		if m[3] == "raw" {
			if text, ok := raw[name]; ok {
				return text
			}
		}
		if text, ok := values[name]; ok {
			return text
		}
		return match
	})
}

// escape makes a value a regular expression in a string of PromQL.
func escape(value string) string {
	value = strings.ReplaceAll(value, `\`, `\\\\`)
	return regexp.MustCompile(`[$^*{}\[\]'+?.()|]`).ReplaceAllString(value, `\\$0`)
}

func anyOf(values []string) string {
	for i := range values {
		values[i] = escape(values[i])
	}
	if len(values) == 1 {
		return values[0]
	}
	return "(" + strings.Join(values, "|") + ")"
}

// result is what Prometheus found.
type result struct {
	series []series
	values []string // of a label
	took   time.Duration
}

type series struct {
	Metric     map[string]string
	Value      []any
	Values     [][]any
	Histogram  []any
	Histograms [][]any
}

// text is a series as a variable's pattern sees it.
func (s series) text() string {
	var labels []string
	for name, value := range s.Metric {
		labels = append(labels, fmt.Sprintf("%s=%q", name, value))
	}
	return "{" + strings.Join(labels, ",") + "}"
}

// numbers are its values that are numbers; a histogram counts as one.
func (s series) numbers() []float64 {
	var numbers []float64
	for _, v := range append(slices.Clone(s.Values), s.Value) {
		if len(v) != 2 {
			continue
		}
		text, _ := v[1].(string)
		if n, err := strconv.ParseFloat(text, 64); err == nil && text != "NaN" {
			numbers = append(numbers, n)
		}
	}
	if len(s.Histogram) > 0 || len(s.Histograms) > 0 {
		numbers = append(numbers, 1)
	}
	return numbers
}

// count is how many series or values have something to show.
func (r result) count() int {
	n := len(r.values)
	for _, s := range r.series {
		if len(s.numbers()) > 0 {
			n++
		}
	}
	return n
}

func (g grafana) ask(ctx context.Context, a asked) (result, error) {
	at := func(moment time.Time) string { return strconv.FormatInt(moment.Unix(), 10) }
	start := at(g.end.Add(-g.span))
	switch a.kind {
	case "values":
		form := url.Values{"match[]": {a.expression}, "start": {start}, "end": {at(g.end)}}
		body, took, err := g.send(ctx, http.MethodGet, "label/"+a.label+"/values?"+form.Encode(), "")
		r := result{took: took}
		return r, read(body, err, &r.values)
	case "range":
		form := url.Values{"query": {a.expression}, "start": {start}, "end": {at(g.end)}, "step": {strconv.Itoa(int(a.step.Seconds()))}}
		body, took, err := g.send(ctx, http.MethodPost, "query_range", form.Encode())
		var data struct{ Result []series }
		err = read(body, err, &data)
		return result{series: data.Result, took: took}, err
	default:
		form := url.Values{"query": {a.expression}, "time": {at(g.end)}}
		body, took, err := g.send(ctx, http.MethodPost, "query", form.Encode())
		var data struct{ Result []series }
		err = read(body, err, &data)
		return result{series: data.Result, took: took}, err
	}
}

// send returns the whole answer, and how long it took to come.
func (g grafana) send(ctx context.Context, method, path, form string) ([]byte, time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+g.prometheus+"/api/v1/"+path, strings.NewReader(form))
	if err != nil {
		return nil, 0, err
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	began := time.Now()
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	took := time.Since(began)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	return body, took, err
}

func read(body []byte, err error, data any) error {
	if err != nil {
		return err
	}
	return json.Unmarshal(body, &struct{ Data any }{data})
}
