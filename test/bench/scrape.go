package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// accept is what Prometheus 3 sends by default.
const accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6," +
	"application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4," +
	"text/plain;version=0.0.4;q=0.3,*/*;q=0.2"

// scrape is what one scrape showed.
type scrape struct {
	// took is from the request to the last byte of the answer.
	took time.Duration
	// size and sent are the bytes of the answer, as text and as compressed.
	size, sent int
	// goroutines is go_goroutines.
	goroutines int
}

// sample is a series as a scrape writes it, with its value.
type sample struct {
	series string
	value  float64
}

// scraper scrapes as Prometheus does: compressed OpenMetrics over a connection
// that is kept.
type scraper struct {
	urls   []string
	needs  sample
	client *http.Client
}

// newScraper returns a scraper that finds fault with a scrape without the needed
// sample, unless that is empty, and makes all of the pages one scrape.
func newScraper(address string, needs sample, pages ...string) *scraper {
	var urls []string
	for _, p := range pages {
		urls = append(urls, "http://"+address+p)
	}
	return &scraper{
		urls: urls, needs: needs,
		// The transport would decompress by itself, and the time would be taken for the program's.
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableCompression: true}},
	}
}

func (s *scraper) close() { s.client.CloseIdleConnections() }

// ready scrapes again and again until what the program needs is there, and returns how
// long after the start of the program that was.
func (s *scraper) ready(ctx context.Context, began time.Time) (time.Duration, error) {
	for {
		_, text, err := s.scrape(ctx)
		took := time.Since(began)
		switch {
		case err != nil:
			return 0, fmt.Errorf("scrape: %w", err)
		case s.has(text):
			return took, nil
		case took > startTimeout:
			return 0, fmt.Errorf("%s is not %g %s after the start", s.needs.series, s.needs.value, took)
		}
		if !sleep(ctx, 2*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
}

func (s *scraper) has(text []byte) bool {
	return s.needs.series == "" || value(text, s.needs.series) == s.needs.value
}

// scrapeFor scrapes at the end of each of the times of the duration. What the
// program needs must be there in the last scrape.
func (s *scraper) scrapeFor(ctx context.Context, duration, each time.Duration) ([]scrape, error) {
	scrapes := make([]scrape, duration/each)
	var text []byte
	ticker := time.NewTicker(each)
	defer ticker.Stop()
	for i := range scrapes {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		var err error
		if scrapes[i], text, err = s.scrape(ctx); err != nil {
			return nil, fmt.Errorf("scrape: %w", err)
		}
	}
	if !s.has(text) {
		return nil, fmt.Errorf("%s is not %g in\n%s", s.needs.series, s.needs.value, text)
	}
	return scrapes, nil
}

func (s *scraper) scrape(ctx context.Context) (all scrape, text []byte, err error) {
	for _, url := range s.urls {
		var one scrape
		if one, text, err = s.page(ctx, url); err != nil {
			return all, nil, err
		}
		all = scrape{all.took + one.took, all.size + one.size, all.sent + one.sent, all.goroutines + one.goroutines}
	}
	return all, text, nil
}

func (s *scraper) page(ctx context.Context, url string) (scrape, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return scrape{}, nil, err
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("Accept-Encoding", "gzip")
	began := time.Now()
	answer, err := s.client.Do(request)
	if err != nil {
		return scrape{}, nil, err
	}
	defer answer.Body.Close()
	sent, err := io.ReadAll(answer.Body)
	took := time.Since(began)
	if err != nil {
		return scrape{}, nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return scrape{}, nil, fmt.Errorf("the answer is %s", answer.Status)
	}
	text := sent // a program may choose not to compress
	if answer.Header.Get("Content-Encoding") == "gzip" {
		if text, err = unzip(sent); err != nil {
			return scrape{}, nil, err
		}
	}
	goroutines := int(value(text, "go_goroutines"))
	if goroutines == 0 && request.URL.Path == "/metrics" { // the pages of the blackbox exporter's probes have none
		return scrape{}, nil, errors.New("there is no go_goroutines")
	}
	return scrape{took: took, size: len(text), sent: len(sent), goroutines: goroutines}, text, nil
}

func unzip(compressed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// value is that of the series, written exactly like this, and 0 without it.
func value(text []byte, series string) float64 {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				return 0
			}
			return v
		}
	}
	return 0
}
