package dashboards

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

// startPrometheus runs one with this configuration on the data of the folder,
// and returns its address.
func startPrometheus(t testing.TB, folder string, config map[string]any, arguments ...string) string {
	t.Helper()
	address, err := program.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	p, err := program.StartPrometheus(folder, address, config, arguments...)
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
