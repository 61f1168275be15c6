package exporter

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/procfs"
)

// process exports what Prometheus's client libraries export of every process, by the same
// names, as far as it changes or is asked for. The collector of client_golang reads
// /proc/stat with each scrape, which has a line for each core and each interrupt, for a
// time that stays the same, and limits and network counters besides.
type process struct {
	self procfs.Proc
	// started and most do not change.
	started, most                prometheus.Metric
	cpu, resident, virtual, open *prometheus.Desc
}

// NewProcess returns the collector of process_*; of one without metrics where there is no /proc.
func NewProcess() prometheus.Collector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc("process_"+name, help, nil, nil) }
	p := &process{
		cpu:      desc("cpu_seconds_total", "Total user and system CPU time spent in seconds."),
		resident: desc("resident_memory_bytes", "Resident memory size in bytes."),
		virtual:  desc("virtual_memory_bytes", "Virtual memory size in bytes."),
		open:     desc("open_fds", "Number of open file descriptors."),
	}
	self, err := procfs.Self()
	if err != nil {
		return p
	}
	p.self = self
	if stat, err := self.Stat(); err == nil {
		if at, err := stat.StartTime(); err == nil {
			p.started = prometheus.MustNewConstMetric(desc("start_time_seconds", "Start time of the process since unix epoch in seconds."), prometheus.GaugeValue, at)
		}
	}
	if limits, err := self.Limits(); err == nil {
		p.most = prometheus.MustNewConstMetric(desc("max_fds", "Maximum number of open file descriptors."), prometheus.GaugeValue, float64(limits.OpenFiles))
	}
	return p
}

// Describe describes the metrics that every process has.
func (p *process) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{p.cpu, p.resident, p.virtual, p.open} {
		ch <- d
	}
	for _, m := range []prometheus.Metric{p.started, p.most} {
		if m != nil {
			ch <- m.Desc()
		}
	}
}

// Collect reads two files of /proc. What cannot be read is absent.
func (p *process) Collect(ch chan<- prometheus.Metric) {
	if p.self.PID == 0 {
		return
	}
	if stat, err := p.self.Stat(); err == nil {
		ch <- prometheus.MustNewConstMetric(p.cpu, prometheus.CounterValue, stat.CPUTime())
		ch <- prometheus.MustNewConstMetric(p.resident, prometheus.GaugeValue, float64(stat.ResidentMemory()))
		ch <- prometheus.MustNewConstMetric(p.virtual, prometheus.GaugeValue, float64(stat.VirtualMemory()))
	}
	if n, err := p.self.FileDescriptorsLen(); err == nil {
		ch <- prometheus.MustNewConstMetric(p.open, prometheus.GaugeValue, float64(n))
	}
	for _, m := range []prometheus.Metric{p.started, p.most} {
		if m != nil {
			ch <- m
		}
	}
}
