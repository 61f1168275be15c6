package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// switches is the HTTP API by which the node is broken:
//
//	PUT /bypass?after=5s&for=20s            Pods are no longer redirected
//	PUT /bypass?source=IP&...               this Pod is no longer redirected
//	PUT /drop?source=IP&...                 what this Pod asks the metadata server is dropped
//	PUT /cut?address=IP:PORT&address=...    nobody reaches these addresses by way of the node
//
// A switch goes on after a while and off after another, so that a test can plan
// what it could not ask for while the API server, its own way in, is cut off.
func switches(ctx context.Context, r *rules) http.Handler {
	var mu sync.Mutex // rules are changed one at a time
	plan := func(w http.ResponseWriter, q url.Values, what string, on, off func() error) {
		var times []time.Duration
		for _, key := range []string{"after", "for"} {
			d, err := time.ParseDuration(q.Get(key))
			if err != nil {
				http.Error(w, fmt.Sprintf("%s=%q: want a duration, such as 20s", key, q.Get(key)), http.StatusBadRequest)
				return
			}
			times = append(times, d)
		}
		go func() {
			for i, change := range []func() error{on, off} {
				select {
				case <-time.After(times[i]):
				case <-ctx.Done():
					return // the table goes with the program
				}
				mu.Lock()
				err := change()
				mu.Unlock()
				slog.Info("Switched", "what", what, "on", i == 0, "error", err)
			}
		}()
		w.WriteHeader(http.StatusAccepted)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /bypass", func(w http.ResponseWriter, q *http.Request) {
		if !q.URL.Query().Has("source") {
			plan(w, q.URL.Query(), "bypass", r.bypass, r.redirect)
		} else if source, ok := sourceOf(w, q); ok {
			plan(w, q.URL.Query(), "bypass for "+source.String(), func() error { return r.bypassFor(source) }, r.restore)
		}
	})
	mux.HandleFunc("PUT /drop", func(w http.ResponseWriter, q *http.Request) {
		if source, ok := sourceOf(w, q); ok {
			plan(w, q.URL.Query(), "drop from "+source.String(), func() error { return r.drop(source) }, r.undrop)
		}
	})
	mux.HandleFunc("PUT /cut", func(w http.ResponseWriter, q *http.Request) {
		var addresses []netip.AddrPort
		for _, text := range q.URL.Query()["address"] {
			a, err := netip.ParseAddrPort(text)
			if err != nil || !a.Addr().Is4() {
				http.Error(w, fmt.Sprintf("address=%q: want IPv4:PORT", text), http.StatusBadRequest)
				return
			}
			addresses = append(addresses, a)
		}
		plan(w, q.URL.Query(), "cut "+strings.Join(q.URL.Query()["address"], ", "), func() error { return r.cut(addresses) }, r.mend)
	})
	return mux
}

func sourceOf(w http.ResponseWriter, q *http.Request) (netip.Addr, bool) {
	text := q.URL.Query().Get("source")
	source, err := netip.ParseAddr(text)
	if err != nil || !source.Is4() {
		http.Error(w, fmt.Sprintf("source=%q: want an IPv4 address", text), http.StatusBadRequest)
		return source, false
	}
	return source, true
}
