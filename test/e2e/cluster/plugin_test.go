package cluster

import (
	"encoding/json"
	"errors"
	"os/exec"
	"testing"
	"time"
)

// What `kubectl workload-identity nodes` says, while one of them is broken.
func TestAllNodesAreAskedAtOnce(t *testing.T) {
	c := shared
	c.healthy(t)
	nodes := func(wantExit int) map[string]string {
		t.Helper()
		var said struct {
			Nodes []struct{ Node, State, Agent, Cause string }
		}
		plugin(t, wantExit, &said, "nodes", "-n", namespace, "-l", enabledLabel+"=true")
		states := map[string]string{}
		for _, n := range said.Nodes { // the worst first
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

// plugin runs it, and decodes what it says.
func plugin(t *testing.T, wantExit int, into any, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "../../../bin/kubectl-workload_identity", append(args, "-o", "json")...).Output()
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, into); err != nil || code != wantExit {
		t.Fatalf("%v: exit code %d (%v), want %d: %s", args, code, err, wantExit, out)
	}
}
