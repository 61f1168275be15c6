// Command flame shows where the CPU of the exporter goes: it runs many of them in one
// process, each probing and being scraped once a second, and draws a flame graph of
// their profile without the servers around them.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/google/pprof/profile"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/app"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/config"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/exporter"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// part is the label of the profile that the exporters' goroutines have, and those that
// they start.
const part = "part"

func main() {
	exporters := flag.Int("exporters", 50, "how many exporters run")
	lasts := flag.Duration("for", time.Minute, "how long")
	picture := flag.String("picture", "", "file for the flame graph, as SVG")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *exporters, *lasts, *picture)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "flame:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, exporters int, lasts time.Duration, picture string) error {
	debug.SetGCPercent(50) // as the exporter does
	p, err := profiled(ctx, exporters, lasts)
	if err != nil {
		return err
	}
	own, err := labelled(p)
	if err != nil {
		return err
	}
	shares(os.Stdout, own, float64(exporters)*lasts.Seconds())
	if picture == "" {
		return nil
	}
	return os.WriteFile(picture, draw(own), 0o644) //nolint:gosec // a picture for all
}

// profiled runs so many exporters, and profiles the process.
func profiled(ctx context.Context, exporters int, lasts time.Duration) (*profile.Profile, error) {
	directory, err := os.MkdirTemp("", "flame")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(directory)
	api, err := kubetest.Start(directory)
	if err != nil {
		return nil, err
	}
	defer api.Close()
	api.Annotate(map[string]string{"iam.gke.io/gcp-service-account": "app@" + kubetest.Project + ".iam.gserviceaccount.com"})
	metadata, err := simulator.New(simulator.Options{Node: simulator.DefaultNode(kubetest.Project)})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return metadata.Run(ctx) })
	for _, v := range append(api.Environment(), "WI_METADATA_HOST="+metadata.MetadataAddr().String(), "WI_LISTEN_ADDRESS=127.0.0.1:0", "WI_PROBE_INTERVAL=1s") {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			cancel()
			return nil, err
		}
	}
	for range exporters {
		if err := start(ctx, all); err != nil {
			cancel()
			return nil, errors.Join(err, all.Wait())
		}
	}
	time.Sleep(5 * time.Second) // what each does once
	runtime.GC()
	var out bytes.Buffer
	if err := pprof.StartCPUProfile(&out); err != nil {
		cancel()
		return nil, errors.Join(err, all.Wait())
	}
	select {
	case <-ctx.Done():
	case <-time.After(lasts):
	}
	pprof.StopCPUProfile()
	cancel()
	if err := all.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return nil, err
	}
	return profile.Parse(&out)
}

// start starts one exporter, and who scrapes it.
func start(ctx context.Context, all *errgroup.Group) error {
	c, err := config.Load()
	if err != nil {
		return err
	}
	a, err := app.New(app.Options{
		Config: c, Environment: config.EnvironmentOf(os.Environ()), Build: exporter.Build{Version: "flame"},
		Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	if err != nil {
		return err
	}
	all.Go(func() error {
		var err error
		pprof.Do(ctx, pprof.Labels(part, "exporter"), func(ctx context.Context) { err = a.Run(ctx) })
		return err
	})
	all.Go(func() error {
		page := "http://" + a.Addr().String() + "/metrics"
		for t := time.NewTicker(time.Second); ; {
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
				if err := scrape(ctx, page); err != nil && ctx.Err() == nil {
					return err
				}
			}
		}
	})
	return nil
}

func scrape(ctx context.Context, page string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept-Encoding", "gzip")
	r.Header.Set("Accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// labelled is the part of the profile that the exporters caused. What the garbage collector
// does in goroutines of its own has no label, and is not in it.
func labelled(p *profile.Profile) (*profile.Profile, error) {
	var own []*profile.Sample
	for _, s := range p.Sample {
		if s.HasLabel(part, "exporter") {
			own = append(own, s)
		}
	}
	if len(own) == 0 {
		return nil, errors.New("the profile has no samples of the exporters")
	}
	p.Sample = own
	return p, nil
}

// name is the function without the path of its package.
func name(full string) string { return filepath.Base(full) }
