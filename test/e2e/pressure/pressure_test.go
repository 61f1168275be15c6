// Package pressure attacks the agent's HTTP server, as whoever reaches its port can, and
// looks at what is left for those whom it is there for: the agent has the memory that the
// manifests give it, and all attacks come from the address of the one who scrapes, which
// leaves the agent no way to tell them apart. Each lasts for PRESSURE, 30 s by default.
package pressure

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

const (
	email = "app@demo-project.iam.gserviceaccount.com"
	// memoryLimit is that of the container, and most what the agent may take of it.
	memoryLimit, most = "51MiB", 48 << 20
)

// least are the shares of scrapes and probes that must be left: the first second of an attack
// may cost some, which a short one has fewer to set against.
func least(lasts time.Duration) (scrapes, probes float64) {
	if lasts < time.Minute {
		return 0.8, 0.8
	}
	return 0.99, 0.95
}

var exporter string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "pressure")
	if err == nil {
		exporter, err = program.Build("../../..", folder)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pressure:", err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// target is the agent under attack.
type target struct {
	address string
	tls     *tls.Config // nil without
}

func (a target) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", a.address)
	if err != nil || a.tls == nil {
		return c, err
	}
	return tls.Client(c, a.tls), nil
}

const request = "GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n"

// attacks run until the context ends. They are what was seen to end an agent, or to keep
// it from answering.
var attacks = []struct {
	name   string
	secure bool
	run    func(context.Context, target)
}{
	{"nobody", false, func(ctx context.Context, _ target) { <-ctx.Done() }},
	{"nobody, with TLS and a password", true, func(ctx context.Context, _ target) { <-ctx.Done() }},
	{"9,000 connections that stay open after an answer", false, func(ctx context.Context, a target) {
		many(ctx, 9000, a, func(c net.Conn) {
			fmt.Fprint(c, request)
			_, _ = io.Copy(io.Discard, c)
		})
	}},
	{"9,000 connections that say nothing", false, func(ctx context.Context, a target) {
		many(ctx, 9000, a, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	}},
	{"2,000 connections that send a byte a second", false, func(ctx context.Context, a target) {
		many(ctx, 2000, a, func(c net.Conn) {
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := io.WriteString(c, request[i%10:i%10+1]); err != nil {
					return
				}
				pause(ctx, time.Second)
			}
		})
	}},
	{"1,000 scrapers without a pause", false, func(ctx context.Context, a target) {
		many(ctx, 1000, a, func(c net.Conn) {
			fmt.Fprint(c, request)
			r := bufio.NewReader(c)
			for ctx.Err() == nil {
				answer, err := http.ReadResponse(r, nil)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, answer.Body)
				if answer.Close {
					return
				}
				fmt.Fprint(c, request)
			}
		})
	}},
	{"60 clients that never read", false, func(ctx context.Context, a target) {
		many(ctx, 60, a, func(c net.Conn) {
			if t, ok := c.(*net.TCPConn); ok {
				_ = t.SetReadBuffer(1 << 10)
			}
			fmt.Fprint(c, strings.Repeat(request, 200))
			<-ctx.Done()
		})
	}},
	{"scrapes that are aborted", false, func(ctx context.Context, a target) {
		many(ctx, 50, a, func(c net.Conn) {
			fmt.Fprint(c, request)
			if t, ok := c.(*net.TCPConn); ok {
				_ = t.SetLinger(0)
			}
		})
	}},
	{"20 clients that try HTTP/2 and reset its streams", true, func(ctx context.Context, a target) {
		a.tls = a.tls.Clone()
		a.tls.NextProtos = []string{"h2", "http/1.1"}
		many(ctx, 20, a, func(c net.Conn) {
			fmt.Fprint(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
			// HEADERS (GET / by the static table) and RST_STREAM.
			for stream := uint32(1); ctx.Err() == nil && stream < 1<<30; stream += 2 {
				id := string([]byte{byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)})
				if _, err := io.WriteString(c, "\x00\x00\x03\x01\x05"+id+"\x82\x84\x87"+"\x00\x00\x04\x03\x00"+id+"\x00\x00\x00\x08"); err != nil {
					return
				}
			}
		})
	}},
	{"1,000 connections with TLS that say nothing after the handshake", true, func(ctx context.Context, a target) {
		many(ctx, 1000, a, func(c net.Conn) {
			if t, ok := c.(*tls.Conn); ok && t.HandshakeContext(ctx) == nil {
				_, _ = io.Copy(io.Discard, c)
			}
		})
	}},
	{"200 clients that try passwords", true, func(ctx context.Context, a target) {
		many(ctx, 200, a, func(c net.Conn) {
			r := bufio.NewReader(c)
			for i := 0; ctx.Err() == nil; i++ {
				q, _ := http.NewRequest(http.MethodGet, "https://agent/metrics", http.NoBody)
				q.SetBasicAuth("prometheus", strconv.Itoa(i))
				if q.Write(c) != nil {
					return
				}
				answer, err := http.ReadResponse(r, q)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, answer.Body)
				if answer.Close {
					return
				}
			}
		})
	}},
}

// many has so many clients at once. Who is cut off comes again a while later, the later the
// more they are: a thousand new connections a second are what the cores leave, which the attackers
// share with the agent.
func many(ctx context.Context, clients int, a target, with func(net.Conn)) {
	again := time.Duration(clients) * time.Millisecond
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				c, err := a.dial(ctx)
				if err == nil {
					stop := context.AfterFunc(ctx, func() { _ = c.Close() })
					with(c)
					stop()
					_ = c.Close()
				}
				pause(ctx, again)
			}
		})
	}
	all.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func TestPressure(t *testing.T) {
	lasts := 30 * time.Second
	if text := os.Getenv("PRESSURE"); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatalf("PRESSURE: %v, want a duration such as 2m", err)
		}
	}
	fmt.Println("| attack | scrapes answered within 1 s | slowest | probes | memory, highest | lines logged |\n|---|---|---|---|---|---|")
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) { endure(t, attack.name, attack.secure, lasts, attack.run) })
	}
}

func endure(t *testing.T, name string, secure bool, lasts time.Duration, attack func(context.Context, target)) {
	metadata := program.Simulate(t, simulator.Options{Lookup: func(netip.Addr) (simulator.Pod, bool) {
		return simulator.Pod{Namespace: "demo", ServiceAccount: "app", GSA: email}, true
	}})
	environment := []string{"GOMEMLIMIT=" + memoryLimit, "WI_EXPECTED_EMAILS=" + email, "WI_PROBE_INTERVAL=1s"}
	scheme, config := "http", (*tls.Config)(nil)
	if secure {
		environment = append(environment, "WI_WEB_CONFIG_FILE="+webConfig(t))
		scheme, config = "https", &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the certificate of the test
	}
	agent, address := program.StartAgent(t, "the agent", exporter, metadata, environment...)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 1}, Timeout: time.Second}
	scrape := func() (string, error) {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+"://"+address+"/metrics", http.NoBody)
		r.SetBasicAuth("prometheus", "secret")
		answer, err := client.Do(r)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close() //nolint:errcheck // read only
		body, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", answer.Status, body)
		}
		return string(body), err
	}
	first := eventually(t, scrape) // it scraped before the attack, too
	lines := strings.Count(agent.Log.String(), "\n")

	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	began := time.Now()
	var attacking sync.WaitGroup
	attacking.Go(func() { attack(ctx, target{address, config}) })
	var took []time.Duration
	var failed []error
	for turn := time.NewTicker(250 * time.Millisecond); ctx.Err() == nil; <-turn.C {
		at := time.Now()
		if _, err := scrape(); err != nil {
			failed = append(failed, err)
		}
		took = append(took, time.Since(at))
	}
	attacking.Wait()
	last := eventually(t, scrape)
	over := time.Since(began)

	answered := 1 - float64(len(failed))/float64(len(took))
	probes := (probesOf(t, last) - probesOf(t, first)) / over.Seconds()
	memory := peak(t, agent)
	lines = strings.Count(agent.Log.String(), "\n") - lines
	fmt.Printf("| %s | %.1f %% of %d | %.0f ms | %.0f %% | %.1f MiB | %d |\n", name, 100*answered, len(took), float64(slices.Max(took).Microseconds())/1e3, 100*probes, float64(memory)/(1<<20), lines)
	scrapesAnswered, probesMade := least(lasts)
	if answered < scrapesAnswered {
		t.Errorf("%.1f %% of %d scrapes are answered within a second, want %.0f %%: %v", 100*answered, len(took), 100*scrapesAnswered, failed[len(failed)-1])
	}
	if probes < probesMade {
		t.Errorf("it probes %.2f times a second, want %.2f", probes, probesMade)
	}
	if memory > most {
		t.Errorf("it has had %d bytes of memory, want at most %d", memory, most)
	}
	if allowed := int(over.Seconds()) + 20; lines > allowed {
		t.Errorf("it wrote %d lines, want at most %d", lines, allowed)
	}
	if err := agent.Stop(); err != nil {
		t.Errorf("%v\n%s", err, &agent.Log)
	}
}

func eventually(t *testing.T, scrape func() (string, error)) string {
	t.Helper()
	var page string
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) { // another process
		if page, err = scrape(); err == nil && strings.Contains(page, `workload_identity_state{state="match"} 1`) {
			return page
		}
	}
	t.Fatalf("no scrape says match: %v", err)
	return ""
}

func probesOf(t *testing.T, page string) float64 {
	t.Helper()
	return number(t, page, `(?m)^workload_identity_probes_total\{endpoint="email"\} (\d+)$`)
}

// peak is the most memory that the process has had, in bytes.
func peak(t *testing.T, p *program.Program) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return int64(number(t, string(status), `(?m)^VmHWM:\s+(\d+) kB$`)) << 10
}

func number(t *testing.T, text, pattern string) float64 {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("there is no %s in %q", pattern, text)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// webConfig has a certificate, and the password "secret" for prometheus.
func webConfig(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.DefaultCost)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for name, content := range map[string]string{
		"crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})),
		"key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"web": fmt.Sprintf("tls_server_config: {cert_file: crt, key_file: key}\nbasic_auth_users: {prometheus: %q}\n", hash),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(folder, "web")
}
