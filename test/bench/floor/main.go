// Command floor is the least that any such agent does: the same three requests
// on new connections each second, a histogram of them, one read of a
// ServiceAccount with client-go's rest, and /metrics. It judges nothing, and
// leaves out what a real agent needs besides: timeouts of its server, names for
// what fails, a page for people. Go's runtime has its defaults in it. The bench
// measures the exporter against it.
//
// It takes the exporter's variables, all of which the bench sets.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube"
)

func main() {
	// Even the least agent handles SIGTERM: as the first process of a container
	// it would not be ended by it otherwise.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	each, err := time.ParseDuration(os.Getenv("WI_PROBE_INTERVAL"))
	if err == nil {
		err = run(ctx, each, os.Getenv("WI_METADATA_HOST"), os.Getenv("WI_LISTEN_ADDRESS"), os.Getenv("WI_SERVICE_ACCOUNT_DIRECTORY"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1) //nolint:gocritic // the signals need no release any more
	}
}

func run(ctx context.Context, each time.Duration, metadataHost, address, credentials string) error {
	if err := readServiceAccount(ctx, credentials); err != nil {
		return fmt.Errorf("read the ServiceAccount: %w", err)
	}
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "floor_duration_seconds", Help: "Duration of requests.",
		Buckets: []float64{0.01, 0.1, 1}, NativeHistogramBucketFactor: 1.1,
	}, []string{"path"})
	if err := serve(ctx, address, durations); err != nil {
		return err
	}
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		began := time.Now()
		for _, path := range []string{"service-accounts/default/email", "service-accounts/default/token", "machine-type"} {
			asked := time.Now()
			// The status is not looked at: GKE's server has no machine type, and answers 404.
			if _, err := get(ctx, client, "http://"+metadataHost+"/computeMetadata/v1/instance/"+path); err != nil && ctx.Err() == nil {
				return err
			}
			durations.WithLabelValues(path).Observe(time.Since(asked).Seconds())
		}
		// The exporter's jitter. Without it a scrape would meet the same moment of
		// each cycle here, and all moments in turn there.
		interval := time.Duration(float64(each) * (1 - 0.1*rand.Float64())) //nolint:gosec // no secret
		select {
		case <-time.After(interval - time.Since(began)):
		case <-ctx.Done():
			return nil
		}
	}
}

// serve has /metrics answered until the process ends, and logs the address as
// the exporter does.
func serve(ctx context.Context, address string, durations prometheus.Collector) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(durations, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).Info("Started", "address", listener.Addr().String())
	go func() { _ = http.Serve(listener, nil) }() //nolint:gosec // a bench has no slow clients
	return nil
}

// readServiceAccount reads it once, and fails without credentials: a floor that
// never met TLS would be smaller than any real agent.
func readServiceAccount(ctx context.Context, credentials string) error {
	config, err := kube.Config(os.Getenv, credentials)
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	status, err := get(ctx, client, config.Host+"/api/v1/namespaces/demo/serviceaccounts/app?resourceVersion=0")
	if err == nil && status != http.StatusOK {
		return fmt.Errorf("the API server answers with status %d", status)
	}
	return err
}

func get(ctx context.Context, client *http.Client, url string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Metadata-Flavor", "Google") // the API server ignores it
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}
