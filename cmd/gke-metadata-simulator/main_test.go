package main_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const secret = "ya29.the-secret-of-this-test"

// binary is built once; every test runs it as a process of its own.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		folder, err := os.MkdirTemp("", "gke-metadata-simulator")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(folder)
		binary = filepath.Join(folder, "gke-metadata-simulator")
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// execute runs the program to its end.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	command := exec.CommandContext(ctx, binary, args...)
	command.Stdout, command.Stderr = &out, &errs
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	tests := []struct {
		args string
		code int
		want string // in stdout for code 0, else in stderr
	}{
		{"-help", 0, "gke-metadata-simulator fault NAME [flags]"},
		{"-help", 0, "-metadata-address HOST:PORT"},
		{"-version", 0, "gke-metadata-simulator "},
		{"faults", 0, "bypass "},
		{"faults -help", 0, "Lists the faults"},
		{"fault -help", 0, "-control-address HOST:PORT"},
		{"-nonsense", 2, "flag provided but not defined: -nonsense"},
		{"serve", 2, `unexpected argument "serve"`},
		{"faults bypass", 2, `unexpected argument "bypass"`},
		{"fault bypass snat", 2, `unexpected argument "snat"`},
		{"-serve aws", 2, `serve "aws": want both, gke or vm`},
		{"-fault gremlins", 2, "want one of: healthy, bypass"},
		{"-fault bypass -every 5s", 2, "fault bypass takes no parameters"},
		{"-serve gke -fault bypass", 2, "fault bypass needs serve=vm"},
		{"-fault flap -every soon", 2, "every=soon: want a duration"},
		{"-every 5s", 2, "fault healthy takes no parameters"},
		{"-metadata-address here", 2, `-metadata-address "here": want HOST:PORT`},
		{"-token a\"b", 2, "RFC 6750"},
		{"-pod 127.0.0.1=app", 2, "want ADDRESS=NAMESPACE/KSA"},
		{"-pod here=demo/app", 2, "want an IP address or *"},
		{"-pod 127.0.0.1=a/b -pod 127.0.0.1=c/d", 2, "given twice"},
		{"fault gremlins", 2, "want one of: healthy, bypass"},
		{"fault bypass -delay 4s", 2, "fault bypass takes no parameters"},
		{"fault -delay 4s", 2, "parameters need the NAME of a fault"},
		{"fault -control-address here", 2, "want HOST:PORT"},
		{"fault -control-address 127.0.0.1:1", 1, "-control-address 127.0.0.1:1: "},
		{"fault snat -control-address 127.0.0.1:1", 1, "connection refused"},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			code, stdout, stderr := execute(t, strings.Fields(test.args)...)
			text, silent := stderr, stdout
			if test.code == 0 {
				text, silent = stdout, stderr
			}
			if code != test.code || !strings.Contains(text, test.want) || silent != "" {
				t.Errorf("got exit code %d, stdout %q, stderr %q; want %d and %q", code, stdout, stderr, test.code, test.want)
			}
			if test.code == 1 && strings.Count(stderr, "\n") != 1 {
				t.Errorf("got %q, want one line", stderr)
			}
		})
	}
}

func TestABusyPortIsNamedWithItsFlag(t *testing.T) {
	busy, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	flags := []string{"-metadata-address", "-control-address"}
	for i, flag := range flags {
		t.Run(flag, func(t *testing.T) {
			code, _, stderr := execute(t, flag, busy.Addr().String(), flags[1-i], "127.0.0.1:0")
			want := "gke-metadata-simulator: " + flag + " " + busy.Addr().String() + ": bind: address already in use; stop what listens there, or choose another address (port 0 picks a free one)\n"
			if code != 1 || stderr != want {
				t.Errorf("got exit code %d and %q, want 1 and %q", code, stderr, want)
			}
		})
	}
}

// process is a running simulator.
type process struct {
	command           *exec.Cmd
	metadata, control string
	lines             *bufio.Reader
	stderr            bytes.Buffer
	printed           strings.Builder
}

func launch(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{command: exec.CommandContext(t.Context(), binary,
		append([]string{"-metadata-address", "127.0.0.1:0", "-control-address", "127.0.0.1:0", "-token", secret}, args...)...)}
	p.command.Stderr = &p.stderr
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewReader(stdout)
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.command.Process.Kill()
		_ = p.command.Wait()
	})
	p.metadata = strings.TrimSpace(p.until(t, "metadata server: "))
	p.control, _, _ = strings.Cut(p.until(t, "switches: "), " ")
	return p
}

// until reads the output to the line with a text, and returns what follows that.
func (p *process) until(t *testing.T, text string) string {
	t.Helper()
	for {
		line, err := p.lines.ReadString('\n')
		p.printed.WriteString(line)
		if _, rest, ok := strings.Cut(line, text); ok {
			return rest
		}
		if err != nil {
			t.Fatalf("no line with %q: %v, stderr %q", text, err, p.stderr.String())
		}
	}
}

// ends waits for the process and returns how long that took.
func (p *process) ends(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	rest, _ := io.ReadAll(p.lines)
	p.printed.Write(rest)
	_ = p.command.Wait()
	return time.Since(begin)
}

func (p *process) ask(t *testing.T, path string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.metadata+"/computeMetadata/v1/instance/service-accounts/default/"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Metadata-Flavor", "Google")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestASimulatorIsSwitchedByTheCommand(t *testing.T) {
	p := launch(t, "-node-email", "nodes@p.example", "-fault", "snat")
	address := strings.TrimPrefix(p.control, "http://")
	steps := []struct {
		command, prints, email string
	}{
		{"fault", "snat", "nodes@p.example"},
		{"fault unannotated", "unannotated", "demo-project.svc.id.goog"},
		{"fault flap -every 1m -of swap", "flap every=1m0s of=swap", "other@demo-project.iam.gserviceaccount.com"},
		{"fault slow -delay 10ms", "slow delay=10ms", "app@demo-project.iam.gserviceaccount.com"},
		{"fault refused", "refused", "connect: connection refused"},
		{"fault healthy", "healthy", "app@demo-project.iam.gserviceaccount.com"},
	}
	for _, step := range steps {
		code, stdout, stderr := execute(t, append(strings.Fields(step.command), "-control-address", address)...)
		if code != 0 || stdout != step.prints+"\n" || stderr != "" {
			t.Fatalf("%s: got exit code %d, stdout %q, stderr %q", step.command, code, stdout, stderr)
		}
		if got := p.ask(t, "email"); !strings.HasSuffix(got, step.email) {
			t.Errorf("%s: got the email %q, want %q", step.command, got, step.email)
		}
		if step.command != "fault" {
			p.until(t, `msg="fault switched" fault=`)
		}
	}
	if got := p.ask(t, "token"); !strings.Contains(got, secret) {
		t.Errorf("token: got %q, want the one of the flag", got)
	}

	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.ends(t)
	if code := p.command.ProcessState.ExitCode(); code != 0 {
		t.Errorf("got exit code %d, stderr %q", code, p.stderr.String())
	}
	if all := p.printed.String() + p.stderr.String(); strings.Contains(all, secret) {
		t.Error("the output holds the token")
	}
}

func TestTheTableOfPodsIsReplaced(t *testing.T) {
	p := launch(t, "-pod", "127.0.0.1=shop/cart", "-pod", "127.0.0.2=shop/till=till@p.example", "-project", "shop-project")
	if got := p.ask(t, "email"); got != "shop-project.svc.id.goog" {
		t.Errorf("got %q", got)
	}
	p = launch(t, "-pod", "*=shop/till=till@p.example")
	if got := p.ask(t, "email"); got != "till@p.example" {
		t.Errorf("any source: got %q", got)
	}
	p = launch(t, "-pod", "127.0.0.1=shop/till=principal")
	if got := p.ask(t, "email"); !strings.HasSuffix(got, "/subject/ns/shop/sa/till") {
		t.Errorf("principal: got %q", got)
	}
}

func TestASignalStopsWithHangingClients(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			p := launch(t, "-fault", "trickle")
			address := strings.TrimPrefix(p.metadata, "http://")
			hanging, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer hanging.Close()
			if _, err := io.WriteString(hanging, "GET /computeMetadata/v1/ HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := hanging.Read(make([]byte, 1)); err != nil {
				t.Fatal(err) // the answer has begun
			}
			if err := p.command.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if took := p.ends(t); took > time.Second {
				t.Errorf("took %s to stop, want less than 1 s", took)
			}
			if code := p.command.ProcessState.ExitCode(); code != 0 || p.stderr.Len() != 0 {
				t.Errorf("got exit code %d, stderr %q", code, p.stderr.String())
			}
		})
	}
}
