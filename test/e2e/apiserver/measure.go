package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gonum.org/v1/plot/plotter"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/curve"
)

// over is how long a burst is.
const over = 10 // seconds

// measurement is what each phase came to.
type measurement struct {
	ctx     context.Context
	cluster *cluster
	fleet   *fleet
	phases  []phase
	err     error
}

type phase struct {
	name        string
	from, to    int // seconds
	cpu         float64
	connections int
	states      string
}

func newMeasurement(ctx context.Context, c *cluster, f *fleet) *measurement {
	return &measurement{ctx: ctx, cluster: c, fleet: f}
}

// phase measures while f runs, unless something has failed before.
func (m *measurement) phase(name string, f func() error) { m.measure(name, f, false) }

// restarted is a phase at whose end the API server counts its CPU from its start.
func (m *measurement) restarted(name string, f func() error) { m.measure(name, f, true) }

func (m *measurement) measure(name string, f func() error, anew bool) {
	if m.err != nil {
		return
	}
	p := phase{name: name, from: int(time.Since(m.fleet.began).Seconds())}
	cpu, err := m.cluster.cpu(m.ctx)
	connections := m.cluster.connections()
	if m.err = err; err != nil {
		return
	}
	if m.err = f(); m.err != nil {
		return
	}
	after, err := m.cluster.cpu(m.ctx)
	if m.err = err; err != nil {
		return
	}
	if anew {
		cpu = 0
	}
	p.to, p.cpu, p.connections = int(time.Since(m.fleet.began).Seconds()), after-cpu, m.cluster.connections()-connections
	var states []string
	counts := m.fleet.states()
	for _, s := range slices.Sorted(maps.Keys(counts)) {
		states = append(states, fmt.Sprintf("%d %s", counts[s], s))
	}
	p.states = strings.Join(states, ", ")
	m.phases = append(m.phases, p)
	fmt.Printf("%s: %d s, %s\n", name, p.to-p.from, p.states)
}

// rates are all requests of each second.
func (m *measurement) rates() []float64 {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	rates := make([]float64, len(m.fleet.requests))
	for i, second := range m.fleet.requests {
		for _, n := range second {
			rates[i] += float64(n)
		}
	}
	return rates
}

func (m *measurement) table(w io.Writer) {
	rates := m.rates()
	fmt.Fprintf(w, "\n%d agents\n\n| phase | seconds | requests/s | most/s over %d s | connections/s | of them failed | API server's cores | states at the end |\n|---|---|---|---|---|---|---|---|\n", len(m.fleet.agents), over)
	for i, p := range m.phases {
		seconds := float64(p.to - p.from)
		all, most := 0.0, 0.0
		failed := map[kube.Reason]int{}
		for at := p.from; at < min(p.to, len(rates)); at++ {
			all += rates[at]
			if at+over <= min(p.to, len(rates)) {
				most = max(most, sum(rates[at:at+over])/over)
			}
			for r, n := range m.fleet.requests[at] {
				failed[r] += n
			}
		}
		var failures []string
		for _, r := range kube.Reasons() {
			if failed[r] > 0 {
				failures = append(failures, fmt.Sprintf("%d %s", failed[r], r))
			}
		}
		fmt.Fprintf(w, "| %d. %s | %.0f | %.1f | %.0f | %.1f | %s | %.2f | %s |\n", i+1, p.name, seconds, all/seconds, most, float64(p.connections)/seconds, strings.Join(failures, ", "), p.cpu/seconds, p.states)
	}
}

func sum(all []float64) float64 {
	total := 0.0
	for _, v := range all {
		total += v
	}
	return total
}

// draw draws requests over time.
func (m *measurement) draw(file string) error {
	rates := m.rates()
	var points plotter.XYs
	for i := over; i <= len(rates); i += over / 2 {
		points = append(points, plotter.XY{X: float64(i) / 60, Y: sum(rates[i-over:i]) / over})
	}
	p := curve.Picture{
		Title: fmt.Sprintf("Requests of %d agents to the API server", len(m.fleet.agents)), X: "minutes", Y: "requests each second, over 10 s",
		Lines: []curve.Line{{Name: "all requests", Points: points}}, LogY: true,
	}
	for i, phase := range m.phases {
		p.Marks = append(p.Marks, curve.Mark{Name: strconv.Itoa(i + 1), X: float64(phase.from) / 60})
	}
	return p.Write(file)
}
