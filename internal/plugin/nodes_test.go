package plugin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/report"
)

// apiServer answers for nodes and Pods in pages, and passes on to agents.
type apiServer struct {
	nodes, pods, accounts, policies []any
	agents                          map[string]http.HandlerFunc // by the path of the proxy
	lists                           map[string][]any            // others, by path
	objects                         map[string]any              // single ones, by path
	forbidden                       []string                    // paths
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page := func(items []any) {
		first, _ := strconv.Atoi(r.URL.Query().Get("continue"))
		limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
		if err != nil {
			http.Error(w, "no limit", http.StatusBadRequest)
			return
		}
		more, last := "", min(first+limit, len(items))
		if last < len(items) {
			more = strconv.Itoa(last)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"continue": more}, "items": items[first:last]})
	}
	switch agent := a.agents[r.URL.Path]; {
	case slices.Contains(a.forbidden, r.URL.Path):
		http.Error(w, "no", http.StatusForbidden)
	case a.lists[r.URL.Path] != nil:
		page(a.lists[r.URL.Path])
	case a.objects[r.URL.Path] != nil:
		_ = json.NewEncoder(w).Encode(a.objects[r.URL.Path])
	case r.URL.Path == "/api/v1/nodes":
		page(a.nodes)
	case r.URL.Path == "/api/v1/serviceaccounts":
		page(a.accounts)
	case r.URL.Path == "/apis/networking.k8s.io/v1/networkpolicies":
		page(a.policies)
	case r.URL.Path == "/api/v1/pods": // all are agents, if it is asked for those
		page(a.pods)
	case agent != nil:
		agent(w, r)
	default:
		http.NotFound(w, r)
	}
}

type object = map[string]any

func (a *apiServer) node(name string, labels object, taints ...string) {
	l := object{"kubernetes.io/os": "linux", "iam.gke.io/gke-metadata-server-enabled": "true"}
	maps.Copy(l, labels)
	all := []object{}
	for _, t := range taints {
		all = append(all, object{"key": t, "effect": "NoSchedule"})
	}
	a.nodes = append(a.nodes, object{
		"metadata": object{"name": name, "labels": l}, "spec": object{"taints": all},
		"status": object{"conditions": []object{{"type": "Ready", "status": "True"}}},
	})
}

// agent is a Pod on the node, which says what it is told to.
func (a *apiServer) agent(node, waiting string, says http.HandlerFunc) {
	status := object{"phase": "Running"}
	if waiting != "" {
		status["containerStatuses"] = []object{{"state": object{"waiting": object{"reason": waiting}}}}
	}
	a.pods = append(a.pods, object{
		"metadata": object{"name": "agent-" + node, "namespace": "wie"},
		"spec":     object{"nodeName": node, "containers": []object{{"ports": []object{{"name": "metrics", "containerPort": 9000}}}}}, "status": status,
	})
	a.agents["/api/v1/namespaces/wie/pods/agent-"+node+":9000/proxy/status.json"] = says
}

func says(r report.Report) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(r) }
}

const app = "app@demo-project.iam.gserviceaccount.com"

func stated(s identity.State, causes ...report.Cause) report.Report {
	return report.Report{
		State: s, Since: time.Now().Add(-3 * time.Hour), Expected: app, Observed: app, MetadataServer: identity.ServerGKE,
		Causes: causes, About: report.About{Version: "1.2.3"},
	}
}

func cluster(t testing.TB, a *apiServer) *plugin.Cluster {
	t.Helper()
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	c, err := plugin.NewCluster(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEveryNodeHasARow(t *testing.T) {
	a := &apiServer{agents: map[string]http.HandlerFunc{}}
	routing := report.Cause{Cause: diagnose.CiliumBPFHostRouting, Title: "eBPF host routing bypasses the GKE metadata server"}
	for name, status := range map[string]report.Report{
		"right": stated(identity.Match), "wrong": stated(identity.NodeFallback, routing), "blind": stated(identity.UnknownExpectation),
		"later": {State: "gone_to_lunch"},
	} {
		a.node(name, nil)
		a.agent(name, "", says(status))
	}
	risky := stated(identity.Match)
	risky.Risks = []report.Cause{routing}
	a.node("risky", nil)
	a.agent("risky", "", says(risky))
	a.node("crashing", nil)
	a.agent("crashing", "CrashLoopBackOff", says(stated(identity.Match)))
	a.node("cut-off", nil)
	a.agent("cut-off", "", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no route to the kubelet", http.StatusBadGateway)
	})
	a.node("windows", object{"kubernetes.io/os": "windows"})
	a.node("gce", object{"iam.gke.io/gke-metadata-server-enabled": "false"})
	a.node("tainted", nil, "gpu")
	a.node("empty", nil)

	var answered, agents int
	rows, err := plugin.Nodes(t.Context(), cluster(t, a), plugin.Where{Progress: func(n, of int) { answered, agents = n, of }})
	if err != nil {
		t.Fatal(err)
	}
	if answered != len(a.pods) || agents != len(a.pods) {
		t.Errorf("%d of %d agents, want %d", answered, agents, len(a.pods))
	}
	var got []string
	for _, r := range rows {
		got = append(got, fmt.Sprintf("%s %s: %s", r.Node, r.State, r.Cause))
	}
	want := []string{
		"wrong node_fallback: eBPF host routing bypasses the GKE metadata server",
		"crashing no_answer: the agent does not run: CrashLoopBackOff",
		"cut-off no_answer: the agent does not answer: ",
		"empty no_answer: no agent: no Pod of it is here",
		"gce no_answer: no agent: the node has no GKE metadata server (its pool is not in the mode GKE_METADATA)",
		"later no_answer: the agent does not answer: it is in no state that is known here: \"gone_to_lunch\"",
		"tainted no_answer: no agent: the node has the taint gpu, which the agent may not tolerate",
		"windows no_answer: no agent: it is a Windows node",
		"blind unknown_expectation: ",
		"right match: ",
		"risky match: at risk: eBPF host routing bypasses the GKE metadata server",
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if code := plugin.ExitCode(rows); code != report.ExitWrong {
		t.Errorf("exit code %d, want %d", code, report.ExitWrong)
	}
	for code, of := range map[int][]plugin.NodeRow{
		report.ExitMatch: rows[len(rows)-1:], report.ExitInconclusive: rows[1:], report.ExitWrong: rows[:1],
	} {
		if got := plugin.ExitCode(of); got != code {
			t.Errorf("%v: exit code %d, want %d", of, got, code)
		}
	}
	if plugin.ExitCode(nil) != report.ExitInconclusive {
		t.Error("no node is no match")
	}

	var wide, coloured, plain bytes.Buffer
	for format, w := range map[string]*bytes.Buffer{"wide": &wide, "table": &plain} {
		if err := plugin.PrintNodes(w, rows, format, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := plugin.PrintNodes(&coloured, rows, "table", true); err != nil {
		t.Fatal(err)
	}
	if bare := regexp.MustCompile("\x1b\\[[0-9]+m").ReplaceAllString(coloured.String(), ""); strings.Join(strings.Fields(bare), " ") != strings.Join(strings.Fields(plain.String()), " ") {
		t.Errorf("in colour it is\n%s\nwithout\n%s", bare, plain.String())
	}
	for line := range strings.Lines(wide.String()) {
		if strings.HasPrefix(line, "wrong") && !regexp.MustCompile(`^wrong +node_fallback +3h +`+app+` +`+app+` +eBPF .* gke +wie/agent-wrong +1\.2\.3\n$`).MatchString(line) {
			t.Errorf("the line of a wrong node is %q", line)
		}
	}
	for _, format := range []string{"json", "yaml"} {
		var b bytes.Buffer
		if err := plugin.PrintNodes(&b, rows[:1], format, true); err != nil || !strings.Contains(b.String(), "cilium_bpf_host_routing") || strings.Contains(b.String(), "\x1b") {
			t.Errorf("%s: %v\n%s", format, err, b.String())
		}
	}
	if err := plugin.PrintNodes(&plain, rows, "xml", false); err == nil || !strings.Contains(err.Error(), "table, wide, json, yaml") {
		t.Errorf("xml: %v", err)
	}
}

// Any Pod may have the label.
func TestAnAgentThatLiesIsText(t *testing.T) {
	a := &apiServer{agents: map[string]http.HandlerFunc{}}
	const token = "ya29.a0AfH6SMBx-0123456789abcdefghijklmnopqrstuvwxyz"
	lie := stated(identity.NodeFallback, report.Cause{Title: "\x1b[2Jall is well " + token, Cause: "x\ny"})
	lie.Observed, lie.Expected, lie.About.Version = "\x1b]0;owned\a"+token, strings.Repeat("x", 1<<20), "\r1"
	a.node("liar", nil)
	a.agent("liar", "", says(lie))
	a.node("prose", nil)
	a.agent("prose", "", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "\x1b[2J"+token) })
	rows, err := plugin.Nodes(t.Context(), cluster(t, a), plugin.Where{})
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range plugin.Formats() {
		var b bytes.Buffer
		if err := plugin.PrintNodes(&b, rows, format, false); err != nil {
			t.Fatal(err)
		}
		if out := b.String(); strings.ContainsAny(out, "\x1b\a\r") || strings.Contains(out, token) || len(out) > 10_000 {
			t.Errorf("%s: %.2000q", format, out)
		}
	}
}

func TestTheApiServerSaysNo(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"nodes is forbidden: User \"dev\" cannot list resource \"nodes\""}`)
	}))
	defer s.Close()
	c, err := plugin.NewCluster(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plugin.Nodes(t.Context(), c, plugin.Where{}); err == nil || !strings.Contains(err.Error(), `User "dev" cannot list resource "nodes"`) {
		t.Errorf("%v, want what the API server says", err)
	}
}

// 5,000 nodes: what it takes, and in how much memory.
func BenchmarkNodes(b *testing.B) {
	a := &apiServer{agents: map[string]http.HandlerFunc{}}
	status := stated(identity.Match)
	for i := range 60 {
		status.Probes = append(status.Probes, report.Probe{At: time.Now().Add(time.Duration(i) * time.Second), State: identity.Match})
	}
	for i := range 5000 {
		name := fmt.Sprintf("gke-prod-eu-default-pool-0123456789abcdef-%04d", i)
		a.node(name, nil)
		a.agent(name, "", says(status))
	}
	c := cluster(b, a)
	b.ReportAllocs()
	for b.Loop() {
		rows, err := plugin.Nodes(b.Context(), c, plugin.Where{})
		if err != nil || len(rows) != 5000 || plugin.ExitCode(rows) != 0 {
			b.Fatalf("%d rows, %v", len(rows), err)
		}
	}
}
