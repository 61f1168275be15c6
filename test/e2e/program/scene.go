package program

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/simulator"
)

// Simulate runs the metadata servers of a node until the end of the test.
func Simulate(t *testing.T, options simulator.Options) *simulator.Simulator {
	t.Helper()
	s, err := simulator.New(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the metadata servers: %v", err)
		}
	})
	return s
}

// StartAgent runs an exporter that asks these metadata servers, and returns its address,
// too. Who starts it ends it.
func StartAgent(t *testing.T, name, path string, servers *simulator.Simulator, environment ...string) (agent *Program, address string) {
	t.Helper()
	agent, err := Start(name, path, append([]string{"WI_METADATA_HOST=" + servers.MetadataAddr().String(), "WI_LISTEN_ADDRESS=127.0.0.1:0"}, environment...))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) { // another process
		if _, after, ok := strings.Cut(agent.Log.String(), `"address":"`); ok {
			address, _, _ = strings.Cut(after, `"`)
			return agent, address
		}
	}
	t.Fatalf("%s does not tell its address: %s", name, &agent.Log)
	return nil, ""
}

// StartPrometheus runs the one that PROMETHEUS names on the data of the folder, with this
// configuration, and returns when it is ready.
func StartPrometheus(folder, address string, config map[string]any, arguments ...string) (*Program, error) {
	text, err := yaml.Marshal(config)
	if err != nil {
		return nil, err
	}
	file := folder + ".yaml"
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	p, err := Start("Prometheus", os.Getenv("PROMETHEUS"), nil,
		append([]string{"--config.file=" + file, "--storage.tsdb.path=" + folder, "--web.listen-address=" + address}, arguments...)...)
	if err != nil {
		return nil, err
	}
	return p, p.Ready("http://" + address + "/-/ready")
}
