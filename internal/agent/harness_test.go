package agent_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/agent"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	app      = identity.Identity("app@project.iam.gserviceaccount.com")
	other    = identity.Identity("other@project.iam.gserviceaccount.com")
	nodeSA   = identity.Identity("1-compute@developer.gserviceaccount.com")
	customSA = identity.Identity("nodes@project.iam.gserviceaccount.com")

	interval = 10 * time.Second
)

var errAway = errors.New("the API server is away")

// world is what the agent lives in: a metadata server and an API server, whose
// answers a test changes while time, which is that of a synctest bubble, goes by.
type world struct {
	*agent.Agent
	logs bytes.Buffer
	stop func()

	mu          sync.Mutex
	answer      func(withToken bool) identity.Observation
	expected    identity.Reading
	expectErr   error
	reads       []time.Time
	probes      []time.Time
	tokenProbes []time.Time
	judged      map[identity.State]int
	panics      int
}

// start runs an agent; adjust may change its options. The first probe is as soon as time goes by.
func start(t *testing.T, adjust func(*agent.Options)) *world {
	t.Helper()
	w := &world{expected: identity.Reading{Expectation: annotated(app)}, judged: map[identity.State]int{}}
	w.answers(gke(app))
	o := w.options()
	if adjust != nil {
		adjust(&o)
	}
	w.Agent = agent.New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(time.Nanosecond) // so that what the test sets now is there before
		w.Run(ctx)
	}()
	w.stop = func() { cancel(); <-done }
	t.Cleanup(w.stop)
	return w
}

// after lets time pass. The lock tells the race detector that what the test has
// read so far, it has read before.
func (w *world) after(d time.Duration) {
	w.mu.Lock()
	w.mu.Unlock() //nolint:staticcheck // see above
	time.Sleep(d) // time of the bubble
	synctest.Wait()
}

// answers sets what every probe observes from now on.
func (w *world) answers(o identity.Observation) {
	w.answersBy(func(bool) identity.Observation { return o })
}

func (w *world) answersBy(f func(withToken bool) identity.Observation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

// thenAnswers has these observations in turn, the last one for ever.
func (w *world) thenAnswers(o ...identity.Observation) {
	w.answersBy(func(bool) identity.Observation {
		next := o[0]
		if len(o) > 1 {
			o = o[1:]
		}
		return next
	})
}

func (w *world) expects(e identity.Expectation, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expected, w.expectErr = identity.Reading{Expectation: e}, err
}

func (w *world) Probe(_ context.Context, withToken bool) identity.Observation {
	w.mu.Lock()
	w.probes = append(w.probes, time.Now())
	if withToken {
		w.tokenProbes = append(w.tokenProbes, time.Now())
	}
	answer := w.answer
	w.mu.Unlock()
	o := answer(withToken)
	if !withToken {
		o.Token = identity.Token{}
	}
	return o
}

func (w *world) read(context.Context) (identity.Reading, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads = append(w.reads, time.Now())
	if w.expectErr != nil {
		return w.expected, w.expectErr
	}
	now := w.expected
	if !now.Changed.IsZero() {
		now.Age = time.Since(now.Changed)
	}
	return now, nil
}

func (w *world) Probed(identity.Observation) {}
func (w *world) Judged(s identity.State)     { w.mu.Lock(); w.judged[s]++; w.mu.Unlock() }
func (w *world) Panicked()                   { w.mu.Lock(); w.panics++; w.mu.Unlock() }

func (w *world) wants(t *testing.T, want identity.State) {
	t.Helper()
	if got, _ := w.Snapshot().State(); got != want {
		t.Errorf("after %s the state is %s (%s), want %s", w.lived(), got, w.Snapshot().Verdict.Why, want)
	}
}

// lived is the time since the first probe.
func (w *world) lived() time.Duration {
	if len(w.probes) == 0 {
		return 0
	}
	return time.Since(w.probes[0])
}

// changes are the states that were stated, the oldest first.
func (w *world) changes() []identity.State {
	var s []identity.State
	for _, c := range w.Snapshot().Changes {
		s = append([]identity.State{c.To.State}, s...)
	}
	return s
}

func ok() identity.Request { return identity.Request{Origin: identity.Asked, Took: time.Millisecond} }

func failed(r identity.Reason) identity.Request {
	return identity.Request{Origin: identity.Asked, Failure: &identity.Failure{Reason: r, Detail: "because"}}
}

func from(s identity.Server, id identity.Identity) identity.Observation {
	return identity.Observation{
		Email:  identity.Email{Request: ok(), Identity: id},
		Token:  identity.Token{Request: ok(), Type: "Bearer", Lifetime: time.Hour},
		Server: identity.Responder{Request: ok(), Server: s},
	}
}

func gke(id identity.Identity) identity.Observation { return from(identity.ServerGKE, id) }
func vm(id identity.Identity) identity.Observation  { return from(identity.ServerVM, id) }

func down() identity.Observation {
	r := failed(identity.Timeout)
	return identity.Observation{Email: identity.Email{Request: r}, Token: identity.Token{Request: r}, Server: identity.Responder{Request: r, Server: identity.ServerUnknown}}
}

func denied() identity.Observation {
	o := gke(app)
	o.Token = identity.Token{Request: failed(identity.Denied)}
	return o
}

// proberFunc is a prober that is always content, and is told of each probe.
type proberFunc func()

func (f proberFunc) Probe(context.Context, bool) identity.Observation { f(); return gke(app) }

type observed func() identity.Observation

func (f observed) Probe(context.Context, bool) identity.Observation { return f() }

// nobody counts.
type nobody struct{}

func (nobody) Probed(identity.Observation) {}
func (nobody) Judged(identity.State)       {}
func (nobody) Panicked()                   {}

// serial lets one of many agents probe at a time.
type serial struct {
	turn   chan struct{}
	prober agent.Prober
}

func (s serial) Probe(ctx context.Context, withToken bool) identity.Observation {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.prober.Probe(ctx, withToken)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// annotated is the expectation by an annotation, which somebody may change.
func annotated(id identity.Identity) identity.Expectation {
	e := identity.Expect(id)
	e.Source = identity.SourceAnnotation
	return e
}

// options are those of the agent that lives in the world.
func (w *world) options() agent.Options {
	return agent.Options{
		Prober: w, Recorder: w, Expect: w.read, Logger: slog.New(slog.NewTextHandler(&w.logs, nil)),
		Nodes:    identity.DefaultNodeAccounts(),
		Interval: interval, Timeout: 3 * time.Second, TokenInterval: time.Minute,
		ExpectationInterval: 10 * time.Minute, AnnotationGrace: 2 * time.Minute, StartupGrace: time.Minute,
		Random: func() float64 { return 0 },
	}
}
