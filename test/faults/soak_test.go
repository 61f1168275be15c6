package faults_test

import (
	"crypto/tls"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What a soak does, and how often.
const (
	// Each fault comes for so long, and in the next turn stays until it is stated.
	faultEach   = 500 * time.Millisecond
	faultStays  = 3 * time.Second
	restartEach = 10 * time.Second // of the API server, with another CA and another token
	rotateEach  = 7 * time.Second  // of the certificate of the HTTP server
	scrapers    = 8
	// A shorter soak has as many fewer.
	scrapesOf20Minutes = 100_000
)

// TestSoak is the agent under all that changes at once, for a long time: what it has
// must not grow, and what it counts must be what was done.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("make soak takes minutes")
	}
	s := newStage(t)
	s.serveKubernetes()
	web := &rotated{stage: s}
	web.rotate()
	s.settings = append(s.settings, "WI_LOG_LEVEL=debug", "WI_WEB_CONFIG_FILE="+filepath.Join(s.folder, "web", "web.yml"))
	s.scheme = "https"
	transport := &http.Transport{MaxIdleConnsPerHost: scrapers, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	s.client = &http.Client{Transport: transport}
	s.start(nil)
	s.becomes("match")

	load := &load{stage: s}
	load.start()
	points := map[string][]point{}
	states := map[string]int{}
	began := time.Now()
	warm := began.Add(max(*soak/6, 20*time.Second))
	nextFault, nextSample, nextRestart, nextRotation := began, warm, began.Add(restartEach), began.Add(rotateEach)
	away := false
	for kinds, n := soakFaults(), 0; time.Since(began) < *soak; time.Sleep(50 * time.Millisecond) {
		now := time.Now()
		if now.After(nextFault) {
			nextFault = nextFault.Add(faultEach)
			if n%(2*len(kinds)) >= len(kinds) {
				nextFault = now.Add(faultStays)
			}
			s.metadata.heals()
			kinds[n%len(kinds)](s.metadata)
			n++
		}
		if now.After(nextRestart) {
			nextRestart = nextRestart.Add(restartEach / 2)
			if away = !away; away {
				s.api.away()
			} else {
				s.api.rotateCA(true)
				s.api.rotateToken(true)
				s.api.back()
			}
		}
		if now.After(nextRotation) {
			nextRotation = nextRotation.Add(rotateEach)
			web.rotate()
			transport.CloseIdleConnections()
		}
		if now.After(nextSample) {
			nextSample = nextSample.Add(time.Second)
			for name, v := range s.has() {
				points[name] = append(points[name], point{now.Sub(began).Seconds(), v})
			}
			states[s.status().State]++
			s.alive()
		}
	}
	load.end()
	if away {
		s.api.back()
	}
	s.metadata.heals()
	s.becomes("match")
	s.examine()

	var table strings.Builder
	table.WriteString("\n| | mean | grew by | bound |\n|---|---|---|---|\n")
	for _, of := range []struct {
		name  string
		floor float64
	}{{"RSS, KiB", 1024}, {"anonymous memory, KiB", 1024}, {"goroutines", 1}, {"open files", 1}} {
		f := fit(points[of.name])
		bound := max(of.floor, 4*f.uncertainty)
		fmt.Fprintf(&table, "| %s | %.1f | %.2f | %.2f |\n", of.name, f.mean, f.growth, bound)
		if f.growth > bound {
			t.Errorf("%s grew by %.2f in %s, want at most %.2f", of.name, f.growth, *soak, bound)
		}
	}
	t.Logf("%s of it\n%s\nstates seen each second: %v", *soak, table.String(), states)
	// In a moment without a request in flight both sides have counted the same.
	counted, same := s.counted()
	for end := time.Now().Add(patience); !same && time.Now().Before(end); time.Sleep(80 * time.Millisecond) {
		counted, same = s.counted()
	}
	if !same {
		t.Errorf("not the same was counted: %s", counted)
	}
	t.Logf("%s\n%d scrapes, %d of them failed, in %d rotations of the certificate; %d bytes of log",
		counted, load.scrapes.Load(), load.failed.Load(), web.rotations, len(s.agent.log.String()))
	if want := int64(scrapesOf20Minutes * soak.Minutes() / 20); load.scrapes.Load() < want*9/10 {
		t.Errorf("%d scrapes, want about %d", load.scrapes.Load(), want)
	}
	// The toolkit reads two files at each handshake, and the kubelet replaces both meanwhile.
	if load.failed.Load() > int64(web.rotations) {
		t.Errorf("%d scrapes failed, want none but one for each of %d rotations: %v", load.failed.Load(), web.rotations, load.err.Load())
	}
	row{logs: 4 << 20}.finish(s)
}

// soakFaults are of all kinds. None of them is at the time when a connection is accepted,
// where no endpoint can be told that was asked for.
func soakFaults() []func(*metadataServer) {
	all := []string{"email", "token", "machine-type"}
	fails := func(reason string, a answer, endpoints ...string) func(*metadataServer) {
		return func(m *metadataServer) { m.fails(reason, a, endpoints...) }
	}
	return []func(*metadataServer){
		func(*metadataServer) {},
		func(m *metadataServer) {
			m.gives(node)
			m.becomes(ok("projects/1/machineTypes/e2-small"), "machine-type")
		},
		func(*metadataServer) {},
		func(m *metadataServer) { m.gives(other) },
		fails("server_error", code("500 Internal Server Error"), all...),
		fails("throttled", code("429 Too Many Requests"), all...),
		func(m *metadataServer) { m.gives("demo-project.svc.id.goog") },
		fails("unreachable", reset(""), all...),
		fails("timeout", held("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), all...),
		fails("", late(300*time.Millisecond, right), all...),
		fails("malformed", endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"), all...),
		fails("denied", says("403 Forbidden", "IAM returned 403 Forbidden"), "token"),
		fails("malformed", ok("<!DOCTYPE html><html>"), all...),
		fails("timeout", drip("HTTP/1.1 200 OK\r\n", strings.Repeat("x", 100), 20*time.Millisecond), all...),
	}
}

// rotated is the folder of the HTTP server's files, replaced as the kubelet does it.
type rotated struct {
	stage     *stage
	rotations int
}

func (r *rotated) rotate() {
	r.stage.Helper()
	old, _ := os.Readlink(filepath.Join(r.stage.folder, "web")) // none at first
	r.rotations++
	name := fmt.Sprintf("web-%d", r.rotations)
	r.stage.folderNamed(name)
	r.stage.webFiles().placeIn(r.stage, name)
	link := filepath.Join(r.stage.folder, "web")
	if err := os.Symlink(name, link+".new"); err != nil {
		r.stage.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		r.stage.Fatal(err)
	}
	if old != "" {
		r.stage.removeAll(old)
	}
}

// load are clients that scrape.
type load struct {
	stage           *stage
	running         sync.WaitGroup
	stopped         chan struct{}
	scrapes, failed atomic.Int64
	err             atomic.Value
}

var isState = regexp.MustCompile(`(?m)^workload_identity_state\{state="[a-z_]+"\} (\d)$`)

func (l *load) start() {
	l.stopped = make(chan struct{})
	each := time.Duration(float64(20*time.Minute) / scrapesOf20Minutes * scrapers)
	for range scrapers {
		l.running.Go(func() {
			for tick := time.NewTicker(each); ; {
				select {
				case <-l.stopped:
					tick.Stop()
					return
				case <-tick.C:
				}
				l.scrapes.Add(1)
				page, err := l.stage.get("/metrics")
				if err != nil {
					l.failed.Add(1)
					l.err.Store(err)
					continue
				}
				sum := 0
				for _, m := range isState.FindAllStringSubmatch(page, -1) {
					one, _ := strconv.Atoi(m[1]) // is a digit
					sum += one
				}
				if sum != 1 || strings.Contains(page, l.stage.metadata.token[10:]) {
					l.stage.Errorf("%d states hold, want 1, and no token:\n%s", sum, page)
				}
			}
		})
	}
}

func (l *load) end() {
	close(l.stopped)
	l.running.Wait()
}

// has is what the process has now.
func (s *stage) has() map[string]float64 {
	s.Helper()
	process := fmt.Sprintf("/proc/%d/", s.agent.command.Process.Pid)
	status, err := os.ReadFile(process + "status")
	if err != nil {
		s.Fatal(err)
	}
	files, err := os.ReadDir(process + "fd")
	if err != nil {
		s.Fatal(err)
	}
	has := map[string]float64{"open files": float64(len(files)), "goroutines": s.samples()["go_goroutines{}"]}
	for field, name := range map[string]string{"VmRSS": "RSS, KiB", "RssAnon": "anonymous memory, KiB"} {
		m := regexp.MustCompile(field + `:\s+(\d+) kB`).FindSubmatch(status)
		if m == nil {
			s.Fatalf("no %s:\n%s", field, status)
		}
		has[name], _ = strconv.ParseFloat(string(m[1]), 64) // are digits
	}
	return has
}

// counted compares what the agent counted with what the servers did. Where the machine is
// so busy that a request ends before it is read, or an answer comes after its time, it may
// have been counted on one side only, or as late, and no more than these may.
func (s *stage) counted() (text string, same bool) {
	s.Helper()
	v := s.samples()
	s.metadata.mu.Lock()
	defer s.metadata.mu.Unlock()
	s.api.mu.Lock()
	defer s.api.mu.Unlock()
	// A probe that the process did not run for is not counted, and made again.
	void, unread := strings.Count(s.agent.log.String(), "A probe says nothing"), s.metadata.unread
	words := []string{fmt.Sprintf("%d connections without a request, %d void probes", unread, void)}
	same = true
	for label, endpoint := range map[string]string{"email": "email", "token": "token", "server": "machine-type"} {
		counts := map[string]int{"": int(v["workload_identity_probes_total{endpoint="+label+"}"])}
		for name, n := range v {
			reason, ok := strings.CutPrefix(name, "workload_identity_probe_failures_total{endpoint="+label+",reason=")
			// GKE's metadata server answers so to the machine type, which is right beside the others.
			if ok && n > 0 && reason != "not_found}" {
				counts[strings.TrimSuffix(reason, "}")] = int(n)
				counts[""] -= int(n)
			}
		}
		given := map[string]int{}
		for name, n := range s.metadata.given {
			if reason, ok := strings.CutPrefix(name, endpoint+"/"); ok {
				given[reason] = n
			}
		}
		missed, late := 0, counts["timeout"]-given["timeout"]
		for reason, n := range given {
			if reason != "timeout" {
				missed += max(0, n-counts[reason])
			}
		}
		same = same && late >= -void && missed <= max(0, late)+void
		for reason, n := range counts {
			same = same && (reason == "timeout" || n <= given[reason]+unread)
		}
		words = append(words, fmt.Sprintf("%s: %v counted, %v answered", label, counts, given))
	}
	slices.Sort(words)
	good, failed := int(v["workload_identity_kubernetes_requests_total{resource=serviceaccounts}"]), 0
	for name, n := range v {
		if strings.HasPrefix(name, "workload_identity_kubernetes_request_failures_total{") && strings.Contains(name, "resource=serviceaccounts") {
			failed += int(n)
		}
	}
	good -= failed
	words = append(words, fmt.Sprintf("ServiceAccount: %d reads that succeeded, of %d that were answered", good, s.api.given))
	return strings.Join(words, "; "), same && good <= s.api.given && s.api.given <= good+failed
}

type point struct{ x, y float64 }

// line is what a fit by least squares says of points: by how much they grow from the first
// to the last, and the standard error of that.
type line struct{ mean, growth, uncertainty float64 }

func fit(points []point) line {
	n := float64(len(points))
	if n < 3 {
		return line{growth: math.Inf(1)}
	}
	var mx, my, xx, xy float64
	for _, p := range points {
		mx, my = mx+p.x/n, my+p.y/n
	}
	for _, p := range points {
		xx, xy = xx+(p.x-mx)*(p.x-mx), xy+(p.x-mx)*(p.y-my)
	}
	slope, off := xy/xx, 0.0
	for _, p := range points {
		d := p.y - my - slope*(p.x-mx)
		off += d * d
	}
	whole := points[len(points)-1].x - points[0].x
	return line{my, slope * whole, math.Sqrt(off/(n-2)/xx) * whole}
}

func TestGrowthIsSeenInNoise(t *testing.T) {
	var flat, growing []point
	for x := range 160 {
		noise := 500 * math.Sin(float64(x*x))
		flat = append(flat, point{float64(x), 20_000 + noise})
		growing = append(growing, point{float64(x), 20_000 + noise + 10*float64(x)})
	}
	if f := fit(flat); f.growth > 4*f.uncertainty {
		t.Errorf("noise is said to grow: %+v", f)
	}
	if f := fit(growing); f.growth < 4*f.uncertainty || math.Abs(f.growth-1590) > 3*f.uncertainty {
		t.Errorf("what grows by 1590 is %+v", f)
	}
}
