package web

import "testing"

// A page that is compressed for somebody who cannot read it is no scrape.
func TestOnlyWhoAcceptsGzipGetsIt(t *testing.T) {
	for _, tt := range []struct {
		header []string
		want   bool
	}{
		{nil, false},
		{[]string{""}, false},
		{[]string{"gzip"}, true}, // Prometheus
		{[]string{"gzip, deflate, br"}, true},
		{[]string{"deflate", "GZIP"}, true},
		{[]string{"gzip;q=1.0, *;q=0"}, true},
		{[]string{"gzip ; q=0.001"}, true},
		{[]string{"gzip;q=0"}, false},
		{[]string{"gzip; Q=0.000"}, false},
		{[]string{"gzip;q=much"}, false},
		{[]string{"*"}, false}, // nobody who scrapes says so
		{[]string{"identity"}, false},
		{[]string{"xgzip, gzipped"}, false},
	} {
		if got := acceptsGzip(tt.header); got != tt.want {
			t.Errorf("Accept-Encoding %q: %v, want %v", tt.header, got, tt.want)
		}
	}
}
