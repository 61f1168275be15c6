package cli_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
)

// commands are those that scripts have besides the ones of testscript, see the
// documentation of the package.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"simulator":   command(1, simulatorCommand),
	"agent":       command(1, agentCommand),
	"logs":        command(1, logsCommand),
	"signal":      command(2, signalCommand),
	"insist":      command(2, insistCommand),
	"ended":       command(2, endedCommand),
	"exitcode":    command(2, exitcodeCommand),
	"stopping":    command(1, stoppingCommand),
	"get":         command(1, requestCommand(http.MethodGet)),
	"put":         command(1, requestCommand(http.MethodPut)),
	"wait-for":    command(2, waitForCommand),
	"emails":      command(1, emailsCommand),
	"slow-read":   command(1, slowReadCommand),
	"finish-read": command(0, finishReadCommand),
	"kubernetes":  command(0, kubernetesCommand),
	"annotate":    command(0, annotateCommand),
	"api-server":  command(1, apiServerCommand),
	"certificate": command(0, certificateCommand),
	"tokenless":   command(1, tokenlessCommand),
}

// command is what testscript wants of a function that needs so many arguments.
func command(arguments int, f func(*testscript.TestScript, *scene, []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, not bool, args []string) {
		if not || len(args) < arguments {
			ts.Fatalf("want at least %d arguments and no !, see go doc ./test/cli", arguments)
		}
		ts.Check(f(ts, ts.Value("scene").(*scene), args))
	}
}

func simulatorCommand(ts *testscript.TestScript, s *scene, args []string) error {
	metadata, switches, err := s.simulator(args[0], args[1:]...)
	_, port, _ := strings.Cut(metadata, ":")
	ts.Setenv(args[0], metadata)
	ts.Setenv(args[0]+"_PORT", port)
	ts.Setenv(args[0]+"_SWITCHES", switches)
	return err
}

func agentCommand(ts *testscript.TestScript, s *scene, args []string) error {
	address, err := s.agent(args[0], args[1:]...)
	ts.Setenv(args[0], address)
	return err
}

func (s *scene) named(name string) (*process, error) {
	if p := s.processes[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("no program is named %s, only %q", name, slices.Sorted(maps.Keys(s.processes)))
}

func logsCommand(ts *testscript.TestScript, s *scene, args []string) error {
	p, err := s.named(args[0])
	if err != nil {
		return err
	}
	fmt.Fprint(ts.Stdout(), p.stderr.String())
	return nil
}

func signalCommand(_ *testscript.TestScript, s *scene, args []string) error {
	p, err := s.named(args[0])
	if err != nil {
		return err
	}
	signal, ok := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT}[args[1]]
	if !ok {
		return fmt.Errorf("signal %q: want TERM or INT", args[1])
	}
	return p.signal(signal)
}

// insistCommand repeats the signal until the program ends: the kernel makes one of two
// that are pending at the same time, and the program has taken its handler away.
func insistCommand(ts *testscript.TestScript, s *scene, args []string) error {
	if err := signalCommand(ts, s, args); err != nil {
		return err
	}
	p := s.processes[args[0]]
	first := p.signalled
	for end := time.Now().Add(patience); !p.wait(10*time.Millisecond) && time.Now().Before(end); {
		if err := signalCommand(ts, s, args); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	p.signalled = first
	return nil
}

// stoppingCommand waits until the program no longer listens.
func stoppingCommand(ts *testscript.TestScript, _ *scene, args []string) error {
	return refused(ts.Getenv(args[0]))
}

func endedCommand(ts *testscript.TestScript, s *scene, args []string) error {
	p, err := s.named(args[0])
	if err != nil {
		return err
	}
	limit := patience
	if len(args) > 2 {
		if limit, err = time.ParseDuration(args[2]); err != nil {
			return err
		}
	}
	if !p.wait(patience) {
		return fmt.Errorf("%s still runs", p)
	}
	p.expected = true
	fmt.Fprint(ts.Stdout(), p.stdout.String())
	fmt.Fprint(ts.Stderr(), p.stderr.String())
	took := p.endedAt.Sub(p.signalled)
	ts.Logf("%s ended %s after the signal", args[0], took)
	s.t.Logf("%s ended %s after the signal", args[0], took.Round(time.Millisecond))
	if got := p.outcome(); got != args[1] {
		return fmt.Errorf("%s ended with %s, want %s", args[0], got, args[1])
	}
	if took > limit && took > limit+20*slowness() {
		return fmt.Errorf("%s ended after %s, want less than %s", args[0], took, limit)
	}
	return nil
}

func exitcodeCommand(ts *testscript.TestScript, _ *scene, args []string) error {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		return err
	}
	if want := args[0]; strconv.Itoa(got) != want {
		return fmt.Errorf("got exit code %d, want %s", got, want)
	}
	return nil
}

func requestCommand(method string) func(*testscript.TestScript, *scene, []string) error {
	return func(ts *testscript.TestScript, _ *scene, args []string) error {
		q := query{method: method}
		flags := flag.NewFlagSet(method, flag.ContinueOnError)
		flags.Func("header", "", func(h string) error {
			q.header, q.value, _ = strings.Cut(h, ": ")
			return nil
		})
		flags.StringVar(&q.user, "user", "", "")
		ca := flags.String("ca", "", "")
		if err := flags.Parse(args); err != nil {
			return err
		}
		if *ca != "" {
			q.ca = ts.ReadFile(*ca)
		}
		response, body, err := q.ask(flags.Arg(0))
		if err != nil {
			return err
		}
		fmt.Fprint(ts.Stdout(), body)
		fmt.Fprintln(ts.Stderr(), response.Status)
		_ = response.Header.Write(ts.Stderr()) // cannot fail
		if response.Header.Get("Content-Type") == "application/json" && !json.Valid([]byte(body)) {
			return errors.New("the body is not JSON")
		}
		return nil
	}
}

// tokenlessCommand fails if any page of the agent holds the secret of the tokens.
func tokenlessCommand(ts *testscript.TestScript, s *scene, args []string) error {
	p, err := s.named(args[0])
	if err != nil {
		return err
	}
	held := map[string]string{"log": p.stderr.String() + p.stdout.String()}
	for path, accept := range map[string]string{"/metrics": "", "/metrics in OpenMetrics": "application/openmetrics-text", "/": "", "/status.json": ""} {
		url := "http://" + ts.Getenv(args[0]) + strings.TrimSuffix(path, " in OpenMetrics")
		response, body, err := query{header: "Accept", value: accept}.ask(url)
		if err != nil || response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %w", path, err)
		}
		held[path] = body + fmt.Sprint(response.Header)
	}
	for place, text := range held {
		if strings.Contains(text, secret) {
			return fmt.Errorf("%s holds a token:\n%s", place, text)
		}
	}
	return nil
}

func waitForCommand(ts *testscript.TestScript, _ *scene, args []string) error {
	expression, err := regexp.Compile("(?m)" + args[1])
	if err != nil {
		return err
	}
	limit := patience
	if len(args) > 2 {
		if limit, err = time.ParseDuration(args[2]); err != nil {
			return err
		}
	}
	body, err := poll(args[0], limit, expression.MatchString)
	fmt.Fprint(ts.Stdout(), body)
	if err != nil {
		return fmt.Errorf("no match for %q in %s: %w", args[1], limit, err)
	}
	return nil
}

// emailsCommand makes a setting so long that the status with it does not fit into
// the buffers of a connection.
func emailsCommand(ts *testscript.TestScript, _ *scene, args []string) error {
	ts.Setenv(args[0], strings.Repeat(","+app, 2500)[1:])
	return nil
}

func kubernetesCommand(ts *testscript.TestScript, s *scene, _ []string) error {
	directory := ts.MkAbs("serviceaccount")
	if err := mkdir(directory); err != nil {
		return err
	}
	var err error
	if s.api, err = kubetest.Start(directory); err == nil {
		s.environment = append(s.environment, s.api.Environment()...)
		for _, v := range s.api.Environment() { // for programs that a script runs itself
			name, value, _ := strings.Cut(v, "=")
			ts.Setenv(name, value)
		}
	}
	return err
}

func annotateCommand(_ *testscript.TestScript, s *scene, args []string) error {
	annotations := map[string]string{}
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		annotations[key] = value
	}
	s.api.Annotate(annotations)
	return nil
}

func apiServerCommand(ts *testscript.TestScript, s *scene, args []string) error {
	switch args[0] {
	case "away":
		s.api.Close()
	case "requests":
		for _, r := range s.api.Requests() {
			fmt.Fprintln(ts.Stdout(), r.Method, r.URL, r.UserAgent())
		}
	default:
		var status int
		if _, err := fmt.Sscan(args[0], &status); err != nil || http.StatusText(status) == "" {
			return fmt.Errorf("api-server %q: want a status, away or requests", args[0])
		}
		s.api.Answer(status, 0)
	}
	return nil
}
