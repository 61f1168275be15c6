package cli_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/kube/kubetest"
)

// scene is what runs on behalf of a script or a test.
type scene struct {
	t         testing.TB
	processes map[string]*process
	// ctx ends shortly before the test is cut off by -timeout, which would leave
	// its processes behind, and kills them.
	ctx    context.Context
	cancel context.CancelFunc
	// environment is that of the agents to come.
	environment []string
	api         *kubetest.Server
	// slow is a connection that is not read to its end, and answer what it gets.
	slow   net.Conn
	answer *bufio.Reader
}

func newScene(t testing.TB) *scene {
	s := &scene{t: t, processes: map[string]*process{}, environment: slices.Clone(impatient)}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(t.Context()))
	if limited, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := limited.Deadline(); ok {
			s.ctx, s.cancel = context.WithDeadline(s.ctx, deadline.Add(-5*time.Second))
		}
	}
	return s
}

// end stops all of it and waits for that.
func (s *scene) end() {
	var all []*process
	for _, p := range s.processes {
		all = append(all, p)
	}
	stopAll(s.t, all)
	s.cancel()
	if s.api != nil {
		s.api.Close()
	}
	if s.slow != nil {
		s.slow.Close()
	}
}

func (s *scene) launch(name string, environment []string, program string, args ...string) (*process, error) {
	if s.processes[name] != nil {
		return nil, fmt.Errorf("%s runs already", name)
	}
	p, err := launch(s.ctx, append(environment, "GORACE="+os.Getenv("GORACE")), program, args...)
	if err == nil {
		s.processes[name] = p
	}
	return p, err
}

// simulator starts a simulator and returns the addresses of its metadata server
// and of its switches.
func (s *scene) simulator(name string, flags ...string) (metadata, switches string, err error) {
	p, err := s.launch(name, nil, "gke-metadata-simulator",
		append([]string{"-metadata-address", "127.0.0.1:0", "-control-address", "127.0.0.1:0", "-token", secret}, flags...)...)
	if err != nil {
		return "", "", err
	}
	if metadata, err = p.says(&p.stdout, `metadata server: http://(\S+)`); err != nil {
		return "", "", err
	}
	switches, err = p.says(&p.stdout, `switches: http://(\S+)`)
	return metadata, switches, err
}

// agent starts the exporter and returns its address.
func (s *scene) agent(name string, settings ...string) (string, error) {
	p, err := s.launch(name, slices.Concat(s.environment, settings), "workload-identity-exporter")
	if err != nil {
		return "", err
	}
	return p.says(&p.stderr, `Started.*address[":=]+([0-9.]+:[0-9]+)`)
}
