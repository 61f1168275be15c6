package main

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// frame is a function, called by the frame above it.
type frame struct {
	name   string
	value  int64 // nanoseconds
	called map[string]*frame
}

// stack returns the functions of a sample, the outermost first.
func stack(s *profile.Sample) []string {
	var names []string
	for _, l := range slices.Backward(s.Location) {
		for _, line := range slices.Backward(l.Line) {
			names = append(names, line.Function.Name)
		}
	}
	return names
}

// draw is the flame graph: each function is as wide as the time in it and in what it calls.
func draw(p *profile.Profile) []byte {
	const width, height, least = 1200.0, 16, 0.8
	root := &frame{name: "exporter", called: map[string]*frame{}}
	deepest := 0
	for _, s := range p.Sample {
		at := root
		value := s.Value[len(s.Value)-1]
		at.value += value
		names := stack(s)
		deepest = max(deepest, len(names))
		for _, n := range names {
			next := at.called[n]
			if next == nil {
				next = &frame{name: n, called: map[string]*frame{}}
				at.called[n] = next
			}
			next.value += value
			at = next
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="sans-serif" font-size="11">`+"\n", width, (deepest+2)*height)
	fmt.Fprintf(&b, "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n")
	var rectangle func(f *frame, x float64, depth int)
	rectangle = func(f *frame, x float64, depth int) {
		w := width * float64(f.value) / float64(root.value)
		if w < least {
			return
		}
		share := 100 * float64(f.value) / float64(root.value)
		fmt.Fprintf(&b, `<g><title>%s %.1f %%</title><rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s" stroke="#fff" stroke-width=".5"/>`,
			escaped(f.name), share, x, depth*height, w, height, colour(f.name))
		if letters := int(w / 6.2); letters >= 4 {
			fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s</text>`, x+2, depth*height+12, escaped(shortened(name(f.name), letters)))
		}
		b.WriteString("</g>\n")
		called := slices.SortedFunc(maps.Values(f.called), func(a, b *frame) int { return strings.Compare(a.name, b.name) })
		for _, c := range called {
			rectangle(c, x, depth+1)
			x += width * float64(c.value) / float64(root.value)
		}
	}
	rectangle(root, 0, 0)
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func shortened(s string, letters int) string {
	if len(s) <= letters {
		return s
	}
	return s[:letters-1] + "…"
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes all
	return b.String()
}

// colour tells whose code it is.
func colour(function string) string {
	switch {
	case strings.Contains(function, "workload-identity-exporter"):
		return "#e69f00"
	case strings.HasPrefix(function, "github.com/"), strings.HasPrefix(function, "google.golang.org/"), strings.HasPrefix(function, "k8s.io/"):
		return "#56b4e9"
	case strings.HasPrefix(function, "runtime."), strings.HasPrefix(function, "syscall."), strings.HasPrefix(function, "internal/"):
		return "#cccccc"
	}
	return "#9fd8c4"
}

// kinds are what the time is spent on: the first of them whose function is in the stack.
var kinds = []struct{ name, function string }{
	{"garbage collection", "runtime.gcAssistAlloc"},
	{"dialing and closing connections", "metadata.connect"},
	{"collecting process_*", "processCollector"},
	{"collecting process_*", "exporter.(*process)"},
	{"collecting go_*", "goCollector"},
	{"compressing a scrape", "gzip."},
	{"compressing a scrape", "flate."},
	{"writing a scrape's text", "expfmt"},
	{"collecting our metrics", "internal/exporter."},
	{"gathering", "prometheus.(*Registry).Gather"},
	{"the API server", "internal/kube."},
	{"history and snapshot", "agent.(*Agent).publish"},
	{"verdict", "identity.Judge"},
	{"diagnosis", "internal/diagnose."},
	{"dialing and closing connections", "metadata.(*connection).close"},
	{"HTTP of a request for metadata", "internal/metadata."},
	{"HTTP of a scrape", "net/http.(*conn)"},
	{"the loop", "internal/agent."},
}

// shares prints what a cycle with its scrape is spent on.
func shares(w io.Writer, p *profile.Profile, cycles float64) {
	by := map[string]int64{}
	var all int64
	for _, s := range p.Sample {
		value := s.Value[len(s.Value)-1]
		all += value
		by[kind(stack(s))] += value
	}
	fmt.Fprintf(w, "%.2f ms of CPU for a cycle and a scrape\n\n| what | share | ms |\n|---|---|---|\n", float64(all)/cycles/1e6)
	for _, k := range slices.SortedFunc(maps.Keys(by), func(a, b string) int { return cmp.Compare(by[b], by[a]) }) {
		fmt.Fprintf(w, "| %s | %.1f %% | %.2f |\n", k, 100*float64(by[k])/float64(all), float64(by[k])/cycles/1e6)
	}
}

func kind(functions []string) string {
	for _, k := range kinds {
		for _, f := range functions {
			if strings.Contains(f, k.function) {
				return k.name
			}
		}
	}
	return "the rest"
}
