package dashboards

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

// startPrometheus runs one with this configuration on the data of the folder,
// and returns its address.
func startPrometheus(t *testing.T, folder string, config map[string]any, arguments ...string) string {
	t.Helper()
	text, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "prometheus.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	address, err := program.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	arguments = append([]string{"--config.file=" + file, "--storage.tsdb.path=" + folder, "--web.listen-address=" + address}, arguments...)
	p, err := program.Start("Prometheus", os.Getenv("PROMETHEUS"), nil, arguments...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("Prometheus's log:\n%s", &p.Log)
		}
	})
	if err := p.Ready("http://" + address + "/-/ready"); err != nil {
		t.Fatal(err)
	}
	return address
}

// hurriedRules are the committed ones, evaluated every second.
func hurriedRules(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(repository + "alerts/workload-identity.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^( *interval:) .*$`).ReplaceAll(text, []byte("$1 1s"))
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
