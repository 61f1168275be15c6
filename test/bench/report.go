package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// row is a figure of the report, and the most that it may be for the exporter.
type row struct {
	figure string
	value  func(measurement) float64
	format string // of the value and of the most
	// most, and ofFloor and ofBlackbox, as multiples of their values, are the targets.
	// Most rows have none.
	most, ofFloor, ofBlackbox float64
}

var none = math.Inf(1)

const (
	mib = 1 << 20
	mb  = 1e6
	kb  = 1e3
)

// rows is the report from top to bottom. The targets are what the exporter
// promises to those who run it on each node.
var rows = []row{
	{"RSS at the end", func(m measurement) float64 { return float64(m.memory.rss) / mib }, "%.1f MiB", none, 1.15, 0.6},
	{"  anonymous", func(m measurement) float64 { return float64(m.memory.anonymous) / mib }, "%.1f MiB", none, none, none},
	{"  of files (the binary)", func(m measurement) float64 { return float64(m.memory.file) / mib }, "%.1f MiB", none, none, none},
	{"  peak", func(m measurement) float64 { return float64(m.memory.peak) / mib }, "%.1f MiB", none, none, none},
	{"CPU per cycle", func(m measurement) float64 { return milliseconds(m.cpu.total()) / float64(m.cycles) }, "%.2f ms", none, 1.15, 0.4},
	{"  cycles", func(m measurement) float64 { return float64(m.cycles) }, "%.0f", none, none, none},
	{"  CPU in all", func(m measurement) float64 { return milliseconds(m.cpu.total()) }, "%.0f ms", none, none, none},
	{"CPU for a minute by default", func(m measurement) float64 { return milliseconds(m.minute.total()) }, "%.0f ms", none, none, none},
	{"start to what is needed", func(m measurement) float64 { return milliseconds(m.ready) }, "%.0f ms", none, none, none},
	{"scrape p50", func(m measurement) float64 { return milliseconds(percentile(latencies(m), 50)) }, "%.2f ms", none, none, none},
	{"scrape p99", func(m measurement) float64 { return milliseconds(percentile(latencies(m), 99)) }, "%.2f ms", none, 1.2, none},
	{"scrape max", func(m measurement) float64 { return milliseconds(percentile(latencies(m), 100)) }, "%.2f ms", none, none, none},
	{"scrape size", func(m measurement) float64 { return float64(m.lastScrape().size) / kb }, "%.1f kB", 30, none, none},
	{"  as sent", func(m measurement) float64 { return float64(m.lastScrape().sent) / kb }, "%.1f kB", none, none, none},
	{"binary", func(m measurement) float64 { return float64(m.binary) / mb }, "%.1f MB", 14.5, none, none},
	{"goroutines at the beginning", func(m measurement) float64 { return float64(first(goroutines(m))) }, "%.0f", none, none, none},
	{"goroutines at the end", func(m measurement) float64 { return float64(last(goroutines(m))) }, "%.0f", none, none, none},
	{"  growth", func(m measurement) float64 { return float64(last(goroutines(m)) - first(goroutines(m))) }, "%.0f", 0, none, none},
}

// writeReport prints the table of what was measured, by program, and where it
// comes from.
func writeReport(w io.Writer, measured map[string]measurement) {
	const line = "%-28s %10s %10s %6s %10s %6s  %-36s %s\n"
	fmt.Fprintf(w, "\n"+line, "", exporterName, floorName, "ratio", blackboxName, "ratio", "target", "verdict")
	for _, r := range rows {
		c := r.cells(measured)
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf(line, r.figure, c[0], c[1], c[2], c[3], c[4], c[5], c[6]), " \n"))
	}
	fmt.Fprint(w, `
MiB are 2^20 bytes, MB 10^6, kB 10^3. A cycle is one probe with its requests, and the scrapes made
meanwhile (about one; two pages of the blackbox exporter, which asks for the email and the token when it is
scraped). Goroutines are the median of the first and the last quarter of the scrapes. The floor has the
exporter's GOGC and GOMAXPROCS, the blackbox exporter Go's. By default there are a probe each ten seconds, a
scrape each fifteen and a token each minute. What is needed is the first verdict, or the first page of the others.
`)
	for _, name := range []string{exporterName, floorName, blackboxName} {
		if m, ok := measured[name]; ok {
			fmt.Fprintf(w, "CPU of the %s: %s\n", name, m.cpu.source())
		}
	}
}

// source says where the total is from.
func (c cpuTime) source() string {
	if c.exact() {
		return fmt.Sprintf("%v from schedstat of its threads (utime+stime: %v)", c.threads.Round(10*time.Microsecond), c.ticks)
	}
	return fmt.Sprintf("%v from utime+stime, in ticks of %v, because a thread ended or there is no schedstat", c.ticks, tick)
}

// cells are the exporter's value, those of the others with the exporter's ratio to them,
// the target and the verdict. What was not measured is "-", and judges nothing.
func (r row) cells(measured map[string]measurement) [7]string {
	cells := [7]string{"-", "-", "-", "-", "-", r.target(), ""}
	exporter, has := measured[exporterName]
	missed := false
	if has {
		cells[0] = fmt.Sprintf(r.format, r.value(exporter))
		missed = r.value(exporter) > r.most
	}
	for i, other := range []struct {
		name string
		most float64
	}{{floorName, r.ofFloor}, {blackboxName, r.ofBlackbox}} {
		m, ok := measured[other.name]
		if !ok {
			continue
		}
		cells[1+2*i] = fmt.Sprintf(r.format, r.value(m))
		if has && r.value(m) > 0 {
			ratio := r.value(exporter) / r.value(m)
			cells[2+2*i] = fmt.Sprintf("%.2f", ratio)
			missed = missed || ratio > other.most
		}
	}
	switch {
	case !has || r.target() == "":
	case missed:
		cells[6] = "MISSED"
	default:
		cells[6] = "ok"
	}
	return cells
}

func (r row) target() string {
	var targets []string
	if r.most != none {
		targets = append(targets, fmt.Sprintf(r.format, r.most))
	}
	if r.ofFloor != none {
		targets = append(targets, fmt.Sprintf("%.2f x floor", r.ofFloor))
	}
	if r.ofBlackbox != none {
		targets = append(targets, fmt.Sprintf("%.1f x blackbox", r.ofBlackbox))
	}
	if targets == nil {
		return ""
	}
	return "<= " + strings.Join(targets, ", ")
}

// percentile is the nearest-rank percentile, the least value that p percent of
// the values do not exceed, and the zero value of none.
func percentile[T cmp.Ordered](values []T, p float64) T {
	if len(values) == 0 {
		var zero T
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

func latencies(m measurement) []time.Duration {
	var d []time.Duration
	for _, s := range m.scrapes {
		d = append(d, s.took)
	}
	return d
}

func goroutines(m measurement) []int {
	var n []int
	for _, s := range m.scrapes {
		n = append(n, s.goroutines)
	}
	return n
}

// first is the median of the first quarter. Single counts are higher during a
// probe, and differ by how many of the scrape's own goroutines have ended.
func first(counts []int) int { return percentile(counts[:(len(counts)+3)/4], 50) }

// last is the median of the last quarter.
func last(counts []int) int { return percentile(counts[len(counts)*3/4:], 50) }

func (m measurement) lastScrape() scrape { return m.scrapes[len(m.scrapes)-1] }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
