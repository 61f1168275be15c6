package web

import (
	"bytes"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/singleflight"
)

// rendersAtOnce bounds what scrapes cost, however many there are.
const rendersAtOnce = 2

// scrapes answers those who ask for the same at the same time by one page of metrics, and
// has it in memory before the first byte goes out: who reads slowly holds a connection, and
// nothing that others wait for.
type scrapes struct {
	next  http.Handler
	turns chan struct{}
	calls singleflight.Group
}

func newScrapes(next http.Handler) *scrapes {
	return &scrapes{next: next, turns: make(chan struct{}, rendersAtOnce)}
}

func (s *scrapes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	form := strings.Join([]string{r.URL.RawQuery, strings.Join(r.Header["Accept"], ","), strings.Join(r.Header["Accept-Encoding"], ",")}, "\n")
	made, _, _ := s.calls.Do(form, func() (any, error) {
		p := &inMemory{header: http.Header{}, code: http.StatusOK}
		select {
		case s.turns <- struct{}{}:
			defer func() { <-s.turns }()
			s.next.ServeHTTP(p, r)
			if acceptsGzip(r.Header.Values("Accept-Encoding")) {
				p.compress()
			}
		case <-time.After(5 * time.Second):
			http.Error(p, "too many scrapes at once", http.StatusServiceUnavailable)
		}
		return p, nil
	})
	p, _ := made.(*inMemory)
	maps.Copy(w.Header(), p.header)
	w.Header().Set("Content-Length", strconv.Itoa(p.body.Len()))
	w.WriteHeader(p.code)
	_, _ = w.Write(p.body.Bytes()) // fails only if the client has gone
}

// acceptsGzip reports whether the client names gzip and does not refuse it (RFC 9110,
// section 12.5.3).
func acceptsGzip(header []string) bool {
	for coding := range strings.SplitSeq(strings.Join(header, ","), ",") {
		name, weight, _ := strings.Cut(strings.ReplaceAll(coding, " ", ""), ";")
		if strings.EqualFold(name, "gzip") {
			q, err := strconv.ParseFloat(strings.TrimPrefix(strings.ToLower(weight), "q="), 64)
			return weight == "" || err == nil && q > 0
		}
	}
	return false
}

// compress needs no memory that stays, and makes a page a tenth larger than it could be:
// the compressor of promhttp is 800 kB, which are garbage by the next scrape, and takes
// longer to make than all else of a scrape.
func (p *inMemory) compress() {
	var small bytes.Buffer
	w, err := gzip.NewWriterLevel(&small, gzip.StatelessCompression)
	if err != nil {
		return // there is such a level
	}
	_, _ = w.Write(p.body.Bytes()) // a Buffer takes all
	_ = w.Close()
	p.body = small
	p.header.Set("Content-Encoding", "gzip")
}

// inMemory is an answer that is written later.
type inMemory struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (p *inMemory) Header() http.Header         { return p.header }
func (p *inMemory) WriteHeader(code int)        { p.code = code }
func (p *inMemory) Write(b []byte) (int, error) { return p.body.Write(b) }
