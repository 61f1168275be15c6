package cluster

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// After a node was wrong for half a minute, its Pods are named, and not those of a node
// that was right; what -o name prints restarts them.
func TestPodsThatHadAWrongIdentityAreNamed(t *testing.T) {
	c := shared
	c.healthy(t)
	pods := c.threePods(t) // on the first node
	broken := time.Now()
	const lasts = 25 * time.Second
	c.plan(t, c.nodes[0], "bypass", 0, lasts, nil)
	c.awaits(t, c.nodes[0], "node_fallback", broken)
	c.awaits(t, c.nodes[0], "match", broken.Add(lasts))

	began := time.Now()
	exposed := func(wantExit int) (still, gone []string, out string) {
		t.Helper()
		out, code := plugin(t, os.Getenv("KUBECONFIG"), "exposed", "-n", checked, "--since", time.Since(broken).Round(time.Second).String(), "-o", "json")
		var said struct {
			Windows []struct {
				Node        string
				From, Until time.Time
				Observed    []string
			}
			Pods []struct {
				Pod  string
				Runs bool
			}
			Queries []string
		}
		if err := json.Unmarshal([]byte(out), &said); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if code != wantExit || len(said.Windows) != 1 || said.Windows[0].Node != c.nodes[0] || !slices.Equal(said.Windows[0].Observed, []string{nodeEmail}) ||
			said.Windows[0].From.Before(broken.Add(-time.Second)) || said.Windows[0].Until.After(time.Now()) || len(said.Queries) != 1 {
			t.Errorf("exit code %d, want %d: %s", code, wantExit, out)
		}
		for _, p := range said.Pods {
			if p.Runs {
				still = append(still, p.Pod)
			} else {
				gone = append(gone, p.Pod)
			}
		}
		return still, gone, out
	}
	still, gone, out := exposed(1)
	t.Logf("after %s", time.Since(began).Round(10*time.Millisecond))
	if len(still) != len(pods) || len(gone) > 0 || !slices.Contains(still, pods[0].Name) {
		t.Errorf("Pods %v still run, want the three: %s", still, out)
	}
	names, _ := plugin(t, os.Getenv("KUBECONFIG"), "exposed", "-n", checked, "-o", "name")
	if !strings.Contains(names, "-n "+checked+" pod/"+pods[0].Name+"\n") || strings.Count(names, "\n") != len(pods) {
		t.Errorf("by name they are %q", names)
	}
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Log("no kubectl is in PATH, so they are not deleted by it")
		return
	}
	remove := exec.CommandContext(t.Context(), "xargs", "-r", "-L", "1", kubectl, "delete")
	remove.Stdin = strings.NewReader(names)
	if said, err := remove.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if still, _, out := exposed(3); len(still) > 0 { // deleted ones are known to Prometheus alone
		t.Errorf("after kubectl delete: %s", out)
	}
}
