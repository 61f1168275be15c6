package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// Names of the programs.
const (
	exporterName = "exporter"
	floorName    = "floor"
	blackboxName = "blackbox"
)

// needs is a sample, by program, without which its figures are void: an
// exporter that has no identity to judge has less to do.
var needs = map[string]sample{exporterName: {`workload_identity_state{state="match"}`, 1}, blackboxName: {"probe_success", 1}}

// program is what is measured.
type program struct {
	name, path string
	needs      sample
}

// environment is what the program gets besides what the world gives to all. The floor has
// the settings of Go's runtime that the exporter has by default.
func (p program) environment() []string {
	if p.name == floorName {
		return []string{"GOGC=50", "GOMAXPROCS=1"}
	}
	return nil
}

// arguments make the blackbox exporter ask what the others ask of their own accord, and log
// its address as they do.
func (p program) arguments(w *world) ([]string, error) {
	if p.name != blackboxName {
		return nil, nil
	}
	file := filepath.Join(w.api.Directory, "blackbox.yaml")
	const config = `modules:
  email: {prober: http, timeout: 3s, http: {preferred_ip_protocol: ip4, headers: {Metadata-Flavor: Google}, fail_if_body_not_matches_regexp: ["^app@"]}}
  token: {prober: http, timeout: 3s, http: {preferred_ip_protocol: ip4, headers: {Metadata-Flavor: Google}, fail_if_body_not_matches_regexp: ["access_token"]}}
`
	return []string{"--config.file=" + file, "--web.listen-address=127.0.0.1:0", "--log.format=json"}, os.WriteFile(file, []byte(config), 0o600)
}

// pages are what Prometheus scrapes.
func (p program) pages(w *world) []string {
	if p.name != blackboxName {
		return []string{"/metrics"}
	}
	var pages []string
	for _, module := range []string{"email", "token"} {
		target := "http://" + w.metadata.MetadataAddr().String() + "/computeMetadata/v1/instance/service-accounts/default/" + module
		pages = append(pages, "/probe?module="+module+"&target="+url.QueryEscape(target))
	}
	return pages
}

// measurement is all that was measured of a program.
type measurement struct {
	// binary is the size of its file in bytes.
	binary int64
	// ready is how long it took from the start until a scrape had what is needed.
	ready time.Duration
	// memory is that at the end.
	memory memory
	// cpu is the CPU time in the window, and cycles the number of probes made in it.
	cpu    cpuTime
	cycles int64
	// scrapes are those in the window, one a second.
	scrapes []scrape
	// minute is the CPU time for a minute at the default intervals.
	minute cpuTime
}

// measure runs the program against a metadata server and an API server of its
// own until the window is over, and again for a minute at the default intervals.
func measure(ctx context.Context, p program, warmUp, duration time.Duration) (m measurement, err error) {
	path, err := filepath.Abs(p.path) // a bare name would be looked up in PATH
	if err != nil {
		return m, err
	}
	file, err := os.Stat(path)
	if err != nil {
		return m, fmt.Errorf("%w: build it first, see make bench", err)
	}
	m.binary = file.Size()
	err = p.run(ctx, path, interval, interval, func(w *world, c *process, s *scraper) error { return m.busy(ctx, w, c, s, warmUp, duration) })
	if err != nil {
		return m, err
	}
	const probed, token = 10 * time.Second, time.Minute // the exporter's defaults
	return m, p.run(ctx, path, probed, token, func(_ *world, c *process, s *scraper) error { return m.quiet(ctx, c, s) })
}

// run runs the program, and what uses it.
func (p program) run(ctx context.Context, path string, probed, token time.Duration, use func(*world, *process, *scraper) error) (err error) {
	world, err := startWorld(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, world.stop()) }()
	arguments, err := p.arguments(world)
	if err != nil {
		return err
	}
	environment := append(world.environment(), "WI_PROBE_INTERVAL="+probed.String(), "WI_TOKEN_INTERVAL="+token.String())
	child, err := start(ctx, path, append(environment, p.environment()...), arguments...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, child.stop()) }()
	scraper := newScraper(child.address, p.needs, p.pages(world)...)
	defer scraper.close()
	if err := use(world, child, scraper); err != nil {
		return err
	}
	if world.reads() == 0 && p.name != blackboxName {
		return errors.New("it did not read its ServiceAccount")
	}
	return nil
}

func (m *measurement) busy(ctx context.Context, w *world, c *process, s *scraper, warmUp, duration time.Duration) (err error) {
	if m.ready, err = s.ready(ctx, c.began); err != nil {
		return err
	}
	// What a process does once, such as reading the ServiceAccount, and the heap's
	// way to its size, are in the warm-up.
	if _, err := s.scrapeFor(ctx, warmUp, interval); err != nil {
		return err
	}
	cyclesBefore := w.cycles()
	m.cpu, err = cpuOf(c.pid(), func() error {
		m.scrapes, err = s.scrapeFor(ctx, duration, interval)
		return err
	})
	if err != nil {
		return err
	}
	if m.cycles = w.cycles() - cyclesBefore; m.cycles == 0 {
		return errors.New("it made no probe")
	}
	m.memory, err = readMemory(c.pid())
	return err
}

// quiet is without the beginning: the first scrape comes at the end of an interval.
func (m *measurement) quiet(ctx context.Context, c *process, s *scraper) (err error) {
	const scraped = 15 * time.Second
	if _, err := s.scrapeFor(ctx, scraped, scraped); err != nil {
		return err
	}
	m.minute, err = cpuOf(c.pid(), func() error {
		_, err := s.scrapeFor(ctx, time.Minute, scraped)
		return err
	})
	return err
}

// cpuOf is the CPU time that the process takes while f runs.
func cpuOf(pid int, f func() error) (cpuTime, error) {
	before, err := readCPU(pid)
	if err != nil {
		return cpuTime{}, err
	}
	if err := f(); err != nil {
		return cpuTime{}, err
	}
	after, err := readCPU(pid)
	return after.since(before), err
}

// world is what a program meets on a healthy node: the GKE metadata server,
// and an API server that says that the identity it gives is the right one.
type world struct {
	metadata *simulator.Simulator
	api      *kubetest.Server

	cancel  context.CancelFunc
	running sync.WaitGroup
	err     error // of the simulator, known when it has ended
}

func startWorld(ctx context.Context) (*world, error) {
	directory, err := os.MkdirTemp("", "bench-credentials-")
	if err != nil {
		return nil, err
	}
	w := &world{}
	if w.api, err = kubetest.Start(directory); err != nil {
		return nil, errors.Join(err, os.RemoveAll(directory))
	}
	w.api.Annotate(map[string]string{"iam.gke.io/gcp-service-account": "app@" + kubetest.Project + ".iam.gserviceaccount.com"})
	w.metadata, err = simulator.New(simulator.Options{Node: simulator.DefaultNode(kubetest.Project)})
	if err != nil {
		w.api.Close()
		return nil, errors.Join(err, os.RemoveAll(directory))
	}
	// The servers outlive the interrupt, so that the program stops in peace.
	ctx, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	w.running.Go(func() { w.err = w.metadata.Run(ctx) })
	return w, nil
}

func (w *world) stop() error {
	w.cancel()
	w.running.Wait()
	w.api.Close()
	return errors.Join(w.err, os.RemoveAll(w.api.Directory))
}

// environment is all that a program gets. Nothing is inherited: a GOGC or a
// proxy of the shell would change the figures.
func (w *world) environment() []string {
	return append(w.api.Environment(),
		"WI_METADATA_HOST="+w.metadata.MetadataAddr().String(),
		"WI_LISTEN_ADDRESS=127.0.0.1:0",
	)
}

// cycles is the number of probes so far. Each asks for the email once.
func (w *world) cycles() int64 { return w.metadata.Requests("/email") }

// reads is the number of requests to the API server.
func (w *world) reads() int { return len(w.api.Requests()) }
