package simulator_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	v1       = "/computeMetadata/v1/"
	account  = v1 + "instance/service-accounts/default/"
	email    = account + "email"
	token    = account + "token"
	machine  = v1 + "instance/machine-type"
	identity = account + "identity?audience=probe&format=full"

	appGSA  = "app@demo-project.iam.gserviceaccount.com"
	nodeGSA = "123456789012-compute@developer.gserviceaccount.com"
	secret  = "ya29.the-secret-of-this-test"
)

// start runs a simulator for the length of a test, on free ports.
func start(t *testing.T, options simulator.Options) *simulator.Simulator {
	t.Helper()
	options.Tokens.Secret = secret
	options.ControlAddress = "127.0.0.1:0"
	s, err := simulator.New(options)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return s
}

func set(t *testing.T, s *simulator.Simulator, fault simulator.Fault) {
	t.Helper()
	if err := s.SetFault(fault); err != nil {
		t.Fatalf("SetFault(%v): %v", fault, err)
	}
}

// answer is what a client got; err may come after a status, in the body.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

// clientFrom asks from a source address, on a new connection for each request,
// and follows no redirect.
func clientFrom(source string) *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: dialer(source).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// keepingClient asks on one connection as long as that lives.
func keepingClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: dialer("127.0.0.1").DialContext}}
}

// dialer gives up before a leak would be seen: the kernel drops a SYN that comes
// while a listener closes, the client sends it again after a second, and its
// transport goes on dialing when nobody waits any more.
func dialer(source string) *net.Dialer {
	return &net.Dialer{Timeout: 500 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
}

func ask(t *testing.T, s *simulator.Simulator, path string) answer {
	t.Helper()
	return askWith(t, clientFrom("127.0.0.1"), s, path, 5*time.Second)
}

func askWith(t *testing.T, client *http.Client, s *simulator.Simulator, path string, timeout time.Duration) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return do(t, client, request(ctx, t, http.MethodGet, "http://"+s.MetadataAddr().String()+path))
}

func request(ctx context.Context, t *testing.T, method, address string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Metadata-Flavor", "Google")
	return r
}

func do(t *testing.T, client *http.Client, r *http.Request) answer {
	t.Helper()
	response, err := client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body), err}
}

// headers compares all headers but those that HTTP itself adds.
func headers(t *testing.T, got answer, want map[string]string) {
	t.Helper()
	all := map[string]string{}
	for name := range got.header {
		if name != "Date" && name != "Content-Length" {
			all[name] = got.header.Get(name)
		}
	}
	if etag, ok := all["Etag"]; ok && want["Etag"] == "any" && len(etag) == 16 {
		all["Etag"] = "any"
	}
	if !maps.Equal(all, want) {
		t.Errorf("headers: got %v, want %v", all, want)
	}
}

// eventually asks again and again, for at most five seconds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); <-tick.C {
		if holds() {
			return
		}
	}
	t.Fatalf("not within 5 s: %s", what)
}

func TestNewTellsWhichAddressIsBusy(t *testing.T) {
	busy, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for listener, options := range map[string]simulator.Options{
		"metadata": {MetadataAddress: busy.Addr().String()},
		"control":  {ControlAddress: busy.Addr().String()},
	} {
		_, err := simulator.New(options)
		var failed *simulator.ListenError
		if !errors.As(err, &failed) || failed.Listener != listener || failed.Address != busy.Addr().String() {
			t.Errorf("%s: got %v, want a ListenError that names it", listener, err)
		}
	}
}

func TestNewRefusesWrongOptions(t *testing.T) {
	tests := []struct {
		name    string
		options simulator.Options
		want    string
	}{
		{"unknown servers", simulator.Options{Serve: "aws"}, "want both, gke or vm"},
		{"a secret that JSON would escape", simulator.Options{Tokens: simulator.Tokens{Secret: `a"b`}}, "RFC 6750"},
		{"an unknown fault", simulator.Options{Fault: simulator.Fault{Name: "gremlins"}}, "want one of: healthy, bypass"},
		{"a fault of a server that is not served", simulator.Options{Serve: simulator.ServeGKE, Fault: simulator.Fault{Name: "bypass"}}, "needs serve=vm"},
		{"a flap of such a fault", simulator.Options{Serve: simulator.ServeVM, Fault: simulator.Fault{Name: "flap", Of: "snat"}}, "needs serve=gke"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := simulator.New(test.options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestOneServerAlone(t *testing.T) {
	tests := []struct {
		serve       simulator.Serve
		email       string
		machineType int
	}{
		{simulator.ServeGKE, appGSA, http.StatusNotFound},
		{simulator.ServeVM, nodeGSA, http.StatusOK},
	}
	for _, test := range tests {
		t.Run(string(test.serve), func(t *testing.T) {
			s := start(t, simulator.Options{Serve: test.serve})
			if got := ask(t, s, email).body; got != test.email {
				t.Errorf("email: got %q, want %q", got, test.email)
			}
			if got := ask(t, s, machine).status; got != test.machineType {
				t.Errorf("machine-type: got %d, want %d", got, test.machineType)
			}
			set(t, s, simulator.Fault{Name: "expiring"})
			if got := ask(t, s, token).body; !strings.Contains(got, `"expires_in":20,`) {
				t.Errorf("expiring: got %s", got)
			}
		})
	}
}

func TestTheLogHoldsSwitchesAndNoSecret(t *testing.T) {
	var log lockedText
	s := start(t, simulator.Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	for _, kind := range simulator.Faults() {
		set(t, s, simulator.Fault{Name: kind.Name})
		if !strings.Contains(log.String(), kind.Name) {
			t.Errorf("%s: no line about it", kind.Name)
		}
		askWith(t, clientFrom("127.0.0.1"), s, token, 20*time.Millisecond)
	}
	if strings.Contains(log.String(), secret) {
		t.Error("the log holds the secret")
	}
}

type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
