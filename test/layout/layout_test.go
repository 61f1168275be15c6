// Package layout_test holds the house to its plan: who may import whom, and
// what must not be linked. The plan is explained in docs/how-it-works.md.
package layout_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/workload-identity-exporter/workload-identity-exporter/"

// allowed are the packages of this module that each room may import. Rooms that
// are not listed may import none.
var allowed = map[string][]string{
	"cmd/workload-identity-exporter": {"internal/app", "internal/config", "internal/exporter", "internal/identity", "internal/report"},
	"internal/app": {
		"internal/agent", "internal/config", "internal/diagnose", "internal/exporter", "internal/identity", "internal/kube",
		"internal/metadata", "internal/redact", "internal/report", "internal/web",
	},

	"cmd/gke-metadata-simulator": {"internal/kube/kubetest", "internal/simulator"},
	"internal/config":            {"internal/identity", "internal/redact"},
	"internal/identity":          {"internal/foreign"},
	"internal/metadata":          {"internal/foreign", "internal/identity"},
	"internal/diagnose":          {"internal/foreign", "internal/identity"},
	"internal/kube":              {"internal/diagnose", "internal/foreign", "internal/identity"},
	"internal/agent":             {"internal/diagnose", "internal/identity"},
	"internal/exporter":          {"internal/agent", "internal/diagnose", "internal/identity", "internal/kube", "internal/redact"},
	"internal/report":            {"internal/agent", "internal/diagnose", "internal/foreign", "internal/identity"},
	"internal/web":               {"internal/agent", "internal/identity", "internal/redact", "internal/report"},

	"cmd/kubectl-workload-identity": {"internal/plugin"},
	"internal/plugin":               {"internal/diagnose", "internal/foreign", "internal/identity", "internal/kube", "internal/report"},
}

func list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func TestImports(t *testing.T) {
	ours := map[string]bool{}
	for _, i := range list(t, module+"...") {
		ours[strings.TrimPrefix(i, module)] = true
	}
	for _, line := range list(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"cmd/...", module+"internal/...") {
		imports := strings.Fields(strings.ReplaceAll(line, module, ""))
		room := imports[0]
		for _, i := range imports[1:] {
			if ours[i] && !slices.Contains(allowed[room], i) {
				t.Errorf("%s imports %s, which the plan does not allow", room, i)
			}
		}
	}
}

// The verdict, and what is said about it, must not depend on anything but their
// arguments.
func TestTheVerdictAndItsCausesArePure(t *testing.T) {
	pure := []string{"bytes", "cmp", "errors", "fmt", "iter", "maps", "net/netip", "slices", "strconv", "strings", "sigs.k8s.io/yaml", module + "internal/foreign", module + "internal/identity"}
	for room, also := range map[string]string{"internal/identity": "time", "internal/diagnose": "time", "internal/foreign": ""} {
		for _, i := range list(t, "-f", `{{join .Imports "\n"}}`, module+room) {
			if i != also && !slices.Contains(pure, i) {
				t.Errorf("%s imports %s", room, i)
			}
		}
	}
}

// A program that can execute a template keeps every exported method it links:
// 3 MB of binary and 2 MiB of memory on every node.
func TestNoTemplatesAreLinked(t *testing.T) {
	for _, i := range list(t, "-deps", module+"cmd/workload-identity-exporter") {
		if i == "html/template" || i == "golang.org/x/net/trace" || i == "k8s.io/client-go/kubernetes" {
			t.Errorf("the exporter links %s", i)
		}
	}
}
