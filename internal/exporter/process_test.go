package exporter_test

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
)

// gathered are the families of one collector by name.
func gathered(t *testing.T, c prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]*dto.MetricFamily{}
	for _, f := range families {
		by[f.GetName()] = f
	}
	return by
}

// Who has dashboards of processes has them of this one, too.
func TestTheProcessIsExportedAsEveryOther(t *testing.T) {
	ours, theirs := gathered(t, exporter.NewProcess()), gathered(t, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if runtime.GOOS != "linux" {
		t.Skip("/proc is Linux's")
	}
	value := func(f *dto.MetricFamily) float64 {
		m := f.GetMetric()[0]
		return m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	for _, name := range []string{
		"process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds", "process_max_fds", "process_start_time_seconds",
	} {
		our, their := ours[name], theirs[name]
		if our == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		if our.GetHelp() != their.GetHelp() || our.GetType() != their.GetType() {
			t.Errorf("%s is a %s, %q; want a %s, %q", name, our.GetType(), our.GetHelp(), their.GetType(), their.GetHelp())
		}
		if v, w := value(our), value(their); v < w/2-1 || v > 2*w+1 {
			t.Errorf("%s is %v, want about %v", name, v, w)
		}
	}
	if n := len(ours); n != 6 {
		t.Errorf("%d families, want 6: each costs in every scrape of every node", n)
	}
}

func TestTheProcessIsThatOfNow(t *testing.T) {
	p := exporter.NewProcess()
	fds := func() float64 { return gathered(t, p)["process_open_fds"].GetMetric()[0].GetGauge().GetValue() }
	cpu := func() float64 {
		return gathered(t, p)["process_cpu_seconds_total"].GetMetric()[0].GetCounter().GetValue()
	}
	if runtime.GOOS != "linux" {
		t.Skip("/proc is Linux's")
	}
	files, used := fds(), cpu()
	for range 10 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	if got := fds() - files; got < 5 {
		t.Errorf("%v more files are open, want about ten", got)
	}
	for began := time.Now(); cpu()-used < 0.02; {
		if time.Since(began) > time.Minute {
			t.Fatal("a minute of work took no CPU")
		}
	}
}
