package main

import (
	"context"
	"errors"
	"fmt"
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
)

// needs is a sample, by program, without which its figures are void: an
// exporter that has no identity to judge has less to do.
var needs = map[string]sample{exporterName: {`workload_identity_state{state="match"}`, 1}}

// program is what is measured.
type program struct {
	name, path string
	needs      sample
}

// measurement is all that was measured of a program.
type measurement struct {
	// binary is the size of its file in bytes.
	binary int64
	// memory is that at the end.
	memory memory
	// cpu is the CPU time in the window, and cycles the number of probes made in it.
	cpu    cpuTime
	cycles int64
	// scrapes are those in the window, one a second.
	scrapes []scrape
}

// measure runs the program against a metadata server and an API server of its
// own until the window is over.
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

	world, err := startWorld(ctx)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, world.stop()) }()
	child, err := start(ctx, path, world.environment())
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, child.stop()) }()

	scraper := newScraper(child.address, p.needs)
	defer scraper.close()
	// What a process does once, such as reading the ServiceAccount, and the heap's
	// way to its size, are in the warm-up.
	if _, err := scraper.scrapeFor(ctx, warmUp); err != nil {
		return m, err
	}
	cpuBefore, err := readCPU(child.pid())
	if err != nil {
		return m, err
	}
	cyclesBefore := world.cycles()
	if m.scrapes, err = scraper.scrapeFor(ctx, duration); err != nil {
		return m, err
	}
	cpuAfter, err := readCPU(child.pid())
	if err != nil {
		return m, err
	}
	m.cpu, m.cycles = cpuAfter.since(cpuBefore), world.cycles()-cyclesBefore
	if m.memory, err = readMemory(child.pid()); err != nil {
		return m, err
	}
	switch {
	case m.cycles == 0:
		return m, errors.New("it made no probe")
	case world.reads() == 0:
		return m, errors.New("it did not read its ServiceAccount")
	}
	return m, nil
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
		"WI_PROBE_INTERVAL="+interval.String(),
		"WI_TOKEN_INTERVAL="+interval.String(), // a token with each probe
	)
}

// cycles is the number of probes so far. Each asks for the email once.
func (w *world) cycles() int64 { return w.metadata.Requests("/email") }

// reads is the number of requests to the API server.
func (w *world) reads() int { return len(w.api.Requests()) }
