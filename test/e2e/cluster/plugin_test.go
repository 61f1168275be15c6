package cluster

import (
	"encoding/json"
	"os"
	"testing"
	"time"
)

// What `kubectl workload-identity nodes` says, while one of them is broken.
func TestAllNodesAreAskedAtOnce(t *testing.T) {
	c := shared
	c.healthy(t)
	nodes := func(wantExit int) map[string]string {
		t.Helper()
		var all struct {
			Nodes []struct{ Node, State, Agent, Cause string }
		}
		said(t, wantExit, &all, "nodes", "-n", namespace, "-l", enabledLabel+"=true")
		states := map[string]string{}
		for _, n := range all.Nodes { // the worst first
			if states[n.Node] != "" {
				t.Errorf("%s has a second agent, %+v", n.Node, n)
				continue
			}
			states[n.Node] = n.State
		}
		return states
	}
	if got := nodes(0); got[c.nodes[0]] != "match" || got[c.nodes[1]] != "match" {
		t.Errorf("nodes are %v, want both to match", got)
	}
	broken := time.Now()
	c.plan(t, c.nodes[1], "bypass", 0, 30*time.Second, nil)
	c.awaits(t, c.nodes[1], "node_fallback", broken)
	if got := nodes(1); got[c.nodes[0]] != "match" || got[c.nodes[1]] != "node_fallback" {
		t.Errorf("nodes are %v, want the second one to be in node_fallback", got)
	}
	c.awaits(t, c.nodes[1], "match", broken.Add(30*time.Second))
}

// said is what the plugin says, decoded.
func said(t *testing.T, wantExit int, into any, args ...string) {
	t.Helper()
	out, code := plugin(t, os.Getenv("KUBECONFIG"), append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil || code != wantExit {
		t.Fatalf("%v: exit code %d (%v), want %d: %s", args, code, err, wantExit, out)
	}
}
