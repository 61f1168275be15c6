package dashboards

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	stale "github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
)

// feed sends series to Prometheus by remote write, each at its interval: first what is
// past, as fast as it is taken, and then what comes.
type feed struct {
	// only is the metric that it sends, all if it is empty.
	only string
	// due are the series by the interval and by when in it they are sent.
	due     map[time.Duration][][]fed
	series  int
	samples int
}

type fed struct {
	labels    []prompb.Label
	value     func(age time.Duration) float64
	histogram func(age time.Duration) *histogram.Histogram // instead of a value
}

func (f *feed) add(l labels.Labels, interval time.Duration, value func(time.Duration) float64, h func(time.Duration) *histogram.Histogram) {
	name := l.Get("__name__")
	if strings.Contains(name, ":") || name == "ALERTS" || f.only != "" && f.only != name {
		return // what is recorded is what the rules are to do
	}
	if f.due == nil {
		f.due = map[time.Duration][][]fed{}
	}
	if f.due[interval] == nil {
		f.due[interval] = make([][]fed, interval/time.Second)
	}
	// What is scraped together has one time.
	hash := fnv.New32a()
	for _, part := range []string{"cluster", "node", "namespace"} {
		_, _ = hash.Write([]byte(l.Get(part)))
	}
	second := int(hash.Sum32() % uint32(interval/time.Second))
	f.due[interval][second] = append(f.due[interval][second], fed{prompb.FromLabels(l, nil), value, h})
	f.series++
}

// roll gives all series of agents another instance, as a rolling update of all of them
// does: those that they had end at that time.
func (f *feed) roll(address string, at time.Time) error {
	const agents = "workload-identity-exporter"
	for _, seconds := range f.due {
		for _, all := range seconds {
			var ended []fed
			for i := range all {
				b := labels.NewBuilder(labels.EmptyLabels())
				for _, l := range all[i].labels {
					b.Set(l.Name, l.Value)
				}
				own := b.Labels()
				if own.Get("job") != agents {
					continue
				}
				ended = append(ended, fed{labels: all[i].labels, value: func(time.Duration) float64 { return math.Float64frombits(stale.StaleNaN) }})
				b.Set("instance", "new-"+own.Get("instance"))
				all[i].labels = prompb.FromLabels(b.Labels(), nil)
			}
			for ; len(ended) > 0; ended = ended[min(batch, len(ended)):] {
				if err := send(address, at.UnixMilli(), 0, ended[:min(batch, len(ended))]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// batch is how many series are sent at once.
const batch = 2000

// second sends what is due at the time, which is age before the end of the fleet.
func (f *feed) second(address string, at time.Time, age time.Duration) error {
	const senders = 2
	batches := make(chan []fed)
	var running sync.WaitGroup
	errs := make([]error, senders)
	for i := range senders {
		running.Go(func() {
			for b := range batches {
				if errs[i] == nil {
					errs[i] = send(address, at.UnixMilli(), age, b)
				}
			}
		})
	}
	for interval, seconds := range f.due {
		all := seconds[at.Unix()%int64(interval/time.Second)]
		f.samples += len(all)
		for ; len(all) > batch; all = all[batch:] {
			batches <- all[:batch]
		}
		batches <- all
	}
	close(batches)
	running.Wait()
	return errors.Join(errs...)
}

func send(address string, at int64, age time.Duration, series []fed) error {
	w := prompb.WriteRequest{Timeseries: make([]prompb.TimeSeries, 0, len(series))}
	for _, s := range series {
		one := prompb.TimeSeries{Labels: s.labels}
		if s.histogram != nil {
			one.Histograms = []prompb.Histogram{prompb.FromIntHistogram(at, s.histogram(age))}
		} else {
			one.Samples = []prompb.Sample{{Value: s.value(age), Timestamp: at}}
		}
		w.Timeseries = append(w.Timeseries, one)
	}
	text, err := w.Marshal()
	if err != nil {
		return err
	}
	r, err := http.NewRequest(http.MethodPost, "http://"+address+"/api/v1/write", bytes.NewReader(snappy.Encode(nil, text))) //nolint:noctx // ends with Prometheus
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("Content-Encoding", "snappy")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("remote write: %s: %s", answer.Status, body)
	}
	return err
}
