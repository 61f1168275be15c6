package plugin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

const (
	// Selector finds the agents' Pods.
	Selector = "app.kubernetes.io/name=workload-identity-exporter"
	// atOnce is how many agents are asked at the same time, and patience how long each
	// may take: the API server passes it on to a kubelet, and the agent answers at once.
	atOnce, patience = 20, 10 * time.Second
	// longest is how much of a foreign word is shown. The answer comes from whatever
	// Pod has the label.
	longest = 256
)

// Silent is where no agent says anything. It is none of the agents' states.
const Silent identity.State = "no_answer"

// NodeRow is what there is to say of one node.
type NodeRow struct {
	Node  string         `json:"node"`
	State identity.State `json:"state"`
	// Since is when the state was entered; none where no agent answers.
	Since    *time.Time `json:"since,omitempty"`
	Expected string     `json:"expected,omitempty"`
	Observed string     `json:"observed,omitempty"`
	// Server is which metadata server answered the agent.
	Server identity.Server `json:"metadata_server,omitempty"`
	// Cause is the title of the likeliest one, or why there is no answer; Name is its
	// label value in the metrics, empty for the latter.
	Cause   string `json:"cause,omitempty"`
	Name    string `json:"cause_name,omitempty"`
	Agent   string `json:"agent,omitempty"` // NAMESPACE/POD
	Version string `json:"version,omitempty"`
	Runbook string `json:"runbook,omitempty"`
}

// Where is which nodes and agents are asked.
type Where struct {
	// Namespace is that of the agents; empty for any. NodeSelector selects nodes by
	// their labels; empty for all.
	Namespace, NodeSelector string
	// Progress is told how many of the agents have answered; it may be nil.
	Progress func(answered, agents int)
}

// Nodes asks the agent of each node for what it says, by the Pod proxy of the API
// server. It returns a row for each node, the worst first: an agent that does not
// answer is a row that says why. It fails if the nodes or Pods cannot be listed.
func Nodes(ctx context.Context, c *Cluster, w Where) ([]NodeRow, error) {
	nodes := map[string]Node{}
	for n, err := range list[Node](ctx, c, "/api/v1/nodes", w.NodeSelector, "") {
		if err != nil {
			return nil, err
		}
		nodes[n.Metadata.Name] = n
	}
	path := "/api/v1/pods"
	if w.Namespace != "" {
		path = "/api/v1/namespaces/" + w.Namespace + "/pods"
	}
	agents := map[string][]Pod{}
	asked := 0
	for p, err := range list[Pod](ctx, c, path, Selector, "") {
		if err != nil {
			return nil, err
		}
		if _, ok := nodes[p.Spec.NodeName]; ok {
			agents[p.Spec.NodeName] = append(agents[p.Spec.NodeName], p)
			asked++
		}
	}

	var rows []NodeRow
	for name, n := range nodes {
		if len(agents[name]) == 0 {
			rows = append(rows, NodeRow{Node: name, State: Silent, Cause: "no agent: " + whyNone(n)})
		}
	}
	var mu sync.Mutex // guards what follows
	answered := 0
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, pods := range agents {
		for _, p := range pods {
			group.Go(func() error {
				row := ask(ctx, c, p)
				mu.Lock()
				defer mu.Unlock()
				rows = append(rows, row)
				answered++
				if w.Progress != nil {
					w.Progress(answered, asked)
				}
				return nil
			})
		}
	}
	_ = group.Wait() // a row has its own error
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slices.SortFunc(rows, func(a, b NodeRow) int {
		return cmp.Or(cmp.Compare(badness(a.State), badness(b.State)), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Agent, b.Agent))
	})
	return rows, nil
}

// ask is what the agent in the Pod says.
func ask(ctx context.Context, c *Cluster, p Pod) NodeRow {
	row := NodeRow{Node: p.Spec.NodeName, State: Silent, Agent: p.Metadata.Namespace + "/" + p.Metadata.Name}
	if why := whyDown(p); why != "" {
		row.Cause = why
		return row
	}
	r, err := status(ctx, c, p)
	if err != nil {
		row.Cause = "the agent does not answer: " + shown(err.Error())
		return row
	}
	row.State, row.Since = r.State, &r.Since
	row.Expected, row.Observed, row.Server = shown(r.Expected), shown(r.Observed), identity.Server(shown(string(r.MetadataServer)))
	row.Version, row.Runbook = shown(r.About.Version), report.Runbook(r.State)
	if causes := slices.Concat(r.Causes, r.Risks); len(causes) > 0 {
		row.Cause, row.Name = shown(causes[0].Title), shown(string(causes[0].Cause))
		if r.State == identity.Match {
			row.Cause = "at risk: " + row.Cause
		}
	}
	return row
}

// status is what the agent in the Pod reports. All words in it are foreign.
func status(ctx context.Context, c *Cluster, p Pod) (report.Report, error) {
	var r report.Report
	body, err := c.get(ctx, "/api/v1/namespaces/"+p.Metadata.Namespace+"/pods/"+address(p)+"/proxy/status.json", nil, "", patience)
	if err == nil {
		err = json.Unmarshal(body, &r)
	}
	if err == nil && !slices.Contains(identity.States(), r.State) {
		err = fmt.Errorf("it is in no state that is known here: %q", shown(string(r.State)))
	}
	return r, err
}

// address is the Pod as the proxy of the API server knows it: with the scheme, if it
// is not HTTP, and the port.
func address(p Pod) string {
	scheme, port := "", 10988
	for _, container := range p.Spec.Containers {
		for _, q := range container.Ports {
			if q.Name == "metrics" {
				port = q.ContainerPort
			}
		}
		for _, e := range container.Env {
			if e.Name == "WI_WEB_CONFIG_FILE" {
				scheme = "https:"
			}
		}
	}
	return scheme + p.Metadata.Name + ":" + strconv.Itoa(port)
}

// whyDown says why the Pod cannot be asked, empty if it can.
func whyDown(p Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil {
			return "the agent does not run: " + shown(w.Reason)
		}
	}
	if p.Status.Phase != "Running" {
		return "the agent does not run: " + shown(cmp.Or(p.Status.Reason, p.Status.Phase, "its Pod has no status"))
	}
	return ""
}

// whyNone says why the node has no agent, as far as the Node tells.
func whyNone(n Node) string {
	labels := n.Metadata.Labels
	switch {
	case labels["kubernetes.io/os"] == "windows":
		return "it is a Windows node"
	case !is(n.Status.Conditions, "Ready"):
		return "the node is not ready"
	case labels["iam.gke.io/gke-metadata-server-enabled"] != "true":
		return "the node has no GKE metadata server (its pool is not in the mode GKE_METADATA)"
	}
	for _, t := range n.Spec.Taints {
		if t.Effect == "NoSchedule" || t.Effect == "NoExecute" {
			return "the node has the taint " + shown(t.Key) + ", which the agent may not tolerate"
		}
	}
	return "no Pod of it is here"
}

// badness sorts the worst first, and what says nothing before what is right.
func badness(s identity.State) int {
	states := identity.States()
	if s == Silent {
		return 2 * slices.Index(states, identity.Unavailable) // beside it
	}
	return 2*slices.Index(states, s) + 1
}

// ExitCode is that of `check` for the worst of the nodes.
func ExitCode(rows []NodeRow) int {
	if len(rows) == 0 || rows[0].State == Silent {
		return report.ExitInconclusive
	}
	return report.ExitCode(rows[0].State)
}

func shown(s string) string { return foreign.Text(s, longest) }
