package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i) // 100 to 1: the order must not matter
	}
	tests := []struct {
		name   string
		values []time.Duration
		p      float64
		want   time.Duration
	}{
		{"of no values", nil, 99, 0},
		{"of one value", hundred[:1], 50, 100},
		{"the median of two is the lower one", []time.Duration{2, 1}, 50, 1},
		{"p50 of 1 to 100", hundred, 50, 50},
		{"p99 of 1 to 100", hundred, 99, 99},
		{"p100 is the greatest", hundred, 100, 100},
		{"p99 of few is the greatest", hundred[:20], 99, 100},
		{"p0 is the least", hundred, 0, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := percentile(tt.values, tt.p); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
	if hundred[0] != 100 {
		t.Error("percentile has sorted the caller's values")
	}
}

func TestMemoryIsReadFromStatus(t *testing.T) {
	const status = "Name:\tfloor\nVmPeak:\t 1260476 kB\nVmHWM:\t   14332 kB\nVmRSS:\t   14000 kB\nRssAnon:\t    5000 kB\n" +
		"RssFile:\t    9000 kB\nRssShmem:\t       0 kB\nThreads:\t7\n"
	got, err := parseMemory(status)
	if err != nil {
		t.Fatal(err)
	}
	if want := (memory{rss: 14000 << 10, anonymous: 5000 << 10, file: 9000 << 10, peak: 14332 << 10}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}

	for name, bad := range map[string]string{
		"of a zombie, which has none": "Name:\tfloor\nState:\tZ (zombie)\nThreads:\t1\n",
		"that is no number":           strings.Replace(status, "14000", "much", 1),
	} {
		if got, err := parseMemory(bad); err == nil {
			t.Errorf("memory %s: got %+v, want an error", name, got)
		}
	}
}

func TestCPUTimeIsReadFromStat(t *testing.T) {
	rest := " S 1 31163 31163 0 -1 4194560 2188 0 0 0 65 17 9 9 20 0 7 0 273080 5124096 943"
	for _, name := range []string{"(floor)", "(a name)", "(odd) 1 2 (3)"} {
		got, err := parseStat("31163 " + name + rest)
		if want := 820 * time.Millisecond; err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "31163 (floor) S 1 2", "31163 (floor)" + strings.Replace(rest, "65", "x", 1)} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func TestCPUTimeIsReadFromSchedstat(t *testing.T) {
	got, err := parseSchedstat("28858889 5196624 72\n")
	if want := 28858889 * time.Nanosecond; err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if got, err := parseSchedstat("\n"); err == nil {
		t.Errorf("of an empty file: got %v, want an error", got)
	}
}

func TestTicksCountWhenAThreadHasEnded(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name string
		used cpuTime
		want time.Duration
	}{
		{"all threads live, so theirs is the finer figure", cpuTime{threads: 247 * ms, ticks: 250 * ms}, 247 * ms},
		{"ticks are rounded down", cpuTime{threads: 268 * ms, ticks: 250 * ms}, 268 * ms},
		{"a thread has ended with its time", cpuTime{threads: 200 * ms, ticks: 250 * ms}, 250 * ms},
		{"the kernel has no schedstat", cpuTime{threads: 0, ticks: 250 * ms}, 250 * ms},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.used.total(); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	earlier, later := cpuTime{threads: 5 * ms, ticks: 10 * ms}, cpuTime{threads: 25 * ms, ticks: 20 * ms}
	if got, want := later.since(earlier), (cpuTime{threads: 20 * ms, ticks: 10 * ms}); got != want {
		t.Errorf("since: got %+v, want %+v", got, want)
	}
}

func TestValueIsThatOfTheExactSeries(t *testing.T) {
	const text = "# HELP go_goroutines Number.\n# TYPE go_goroutines gauge\ngo_goroutines 9.0\ngo_goroutines_max 12\n" +
		"workload_identity_state{state=\"match\"} 1.0\nworkload_identity_state{state=\"starting\"} 0.0\n# EOF\n"
	for series, want := range map[string]float64{
		"go_goroutines": 9, "go_goroutines_max": 12, "go": 0, "absent": 0,
		needs[exporterName].series: needs[exporterName].value,
	} {
		if got := value([]byte(text), series); got != want {
			t.Errorf("%s: got %g, want %g", series, got, want)
		}
	}
}

func TestAddressIsFoundInTheLog(t *testing.T) {
	l := &startLog{address: make(chan string, 1)}
	for _, line := range []string{
		"not JSON\n",
		`{"severity":"WARNING","message":"WI_METADATA_HOST=\"127.0.0.1:9\""}` + "\n",
		`{"severity":"INFO","message":"Started","address":"127.0.0.1:4711"}` + "\n",
		`{"severity":"INFO","message":"Another","address":"127.0.0.1:1"}` + "\n",
	} {
		if _, err := l.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := <-l.address, "127.0.0.1:4711"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := l.end(), "Another"; !strings.Contains(got, want) {
		t.Errorf("the end of the log is %q, want %q in it", got, want)
	}
}

// example is a measurement with RSS in MiB, CPU per cycle, and go_goroutines of each scrape.
func example(rss int64, cpu time.Duration, goroutines ...int) measurement {
	m := measurement{
		binary: 14_200_000, memory: memory{rss: rss << 20, anonymous: 5 << 20, file: 9 << 20, peak: rss << 20},
		cpu: cpuTime{threads: 100 * cpu, ticks: 100 * cpu}, cycles: 100,
	}
	for _, n := range goroutines {
		m.scrapes = append(m.scrapes, scrape{took: 1500 * time.Microsecond, size: 22_040, sent: 4_010, goroutines: n})
	}
	return m
}

func TestReportJudgesEachTarget(t *testing.T) {
	exporter := example(16, 2*time.Millisecond, 9, 9, 10, 12, 20, 20, 20, 20, 20, 11, 11, 14)
	floor := example(13, time.Millisecond, 8)
	blackbox := example(32, 5*time.Millisecond, 0)
	tests := []struct {
		name     string
		measured map[string]measurement
		want     []string
	}{
		{"all", map[string]measurement{exporterName: exporter, floorName: floor, blackboxName: blackbox}, []string{
			"                               exporter      floor  ratio   blackbox  ratio  target                               verdict",
			"RSS at the end                 16.0 MiB   13.0 MiB   1.23   32.0 MiB   0.50  <= 1.15 x floor, 0.6 x blackbox      MISSED",
			"CPU per cycle                   2.00 ms    1.00 ms   2.00    5.00 ms   0.40  <= 1.15 x floor, 0.4 x blackbox      MISSED",
			"scrape p99                      1.50 ms    1.50 ms   1.00    1.50 ms   1.00  <= 1.20 x floor                      ok",
			"scrape size                     22.0 kB    22.0 kB   1.00    22.0 kB   1.00  <= 30.0 kB                           ok",
			"  as sent                        4.0 kB     4.0 kB   1.00     4.0 kB   1.00",
			"goroutines at the beginning           9          8   1.12          0      -",
			"  growth                              2          0      -          0      -  <= 0                                 MISSED",
			"CPU of the floor: 100ms from schedstat of its threads (utime+stime: 100ms)",
		}},
		{"a ratio that was not measured is not judged", map[string]measurement{exporterName: exporter, blackboxName: blackbox}, []string{
			"RSS at the end                 16.0 MiB          -      -   32.0 MiB   0.50  <= 1.15 x floor, 0.6 x blackbox      ok",
		}},
		{"the floor alone is not judged", map[string]measurement{floorName: floor}, []string{
			"RSS at the end                        -   13.0 MiB      -          -      -  <= 1.15 x floor, 0.6 x blackbox",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			writeReport(&out, tt.measured)
			for _, line := range tt.want {
				if !strings.Contains(out.String(), "\n"+line+"\n") {
					t.Errorf("got:\n%s\nwant the line:\n%s", out.String(), line)
				}
			}
		})
	}
}

func TestWrongArgumentsAreRefused(t *testing.T) {
	for _, args := range []string{"-programs other", "-programs floor,floor", "-duration 1s", "-warmup 0s", "-exporter absent -programs exporter"} {
		if err := run(t.Context(), strings.Fields(args), &bytes.Buffer{}, &bytes.Buffer{}); err == nil {
			t.Errorf("%s: got no error", args)
		}
	}
}
