package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

// Of more nodes than anybody reads there is one alert for each pair of identities, and
// no node has both.
func TestManyNodesAlertAsOne(t *testing.T) {
	promtool := os.Getenv("PROMTOOL")
	switch {
	case promtool == "" && os.Getenv("CI") != "":
		t.Fatal("it needs PROMTOOL, which make test-alerts sets")
	case promtool == "":
		t.Skip("it needs PROMTOOL, which make test-alerts sets")
	}
	files, err := with(t, "nodeAlerts: 2\n")
	if err != nil {
		t.Fatal(err)
	}
	const plain, gmp = "alerts/workload-identity.rules.yaml", "deploy/kustomize/overlays/gmp/clusterrules.yaml"
	folder := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("rules.yaml", files[plain])

	type series struct {
		Series string `json:"series"`
		Values string `json:"values"`
	}
	type sample struct {
		Labels string  `json:"labels"`
		Value  float64 `json:"value"`
	}
	type query struct {
		Expr       string   `json:"expr"`
		EvalTime   string   `json:"eval_time"`
		ExpSamples []sample `json:"exp_samples"`
	}
	var given []series
	var asked []query
	for state, alert := range map[string]string{
		"node_fallback": "NodeFallback", "mismatch": "Mismatch", "unbound": "Unbound", "token_denied": "TokenDenied",
		"unavailable": "MetadataUnavailable", "unknown_expectation": "ExpectationUnknown",
	} {
		// One cluster has as many as alert by themselves, one has more, and so has one without a name.
		const who = `%sexpected="app",observed=%q,metadata_server="vm"`
		var want []sample
		for _, c := range []struct {
			labels string
			nodes  int
		}{{`cluster="two",`, 2}, {`cluster="four",`, 4}, {"", 3}} {
			identities := fmt.Sprintf(who, c.labels, state)
			if c.nodes > 2 {
				want = append(want, sample{"{" + identities + "}", float64(c.nodes)})
			}
			for i := range c.nodes {
				node := fmt.Sprintf(`,node="%s-%d"`, state, i)
				given = append(
					given,
					series{fmt.Sprintf("workload_identity_verdict_timestamp_seconds{state=%q,%s%s}", state, identities, node), "1x9"},
					series{fmt.Sprintf("workload_identity_state{state=%q,%s%s}", state, strings.TrimSuffix(c.labels, ","), strings.TrimPrefix(node, map[bool]string{true: ","}[c.labels == ""])), "1x9"},
				)
				if c.nodes == 2 {
					want = append(want, sample{"{" + identities + node + "}", 1})
				}
			}
		}
		for _, form := range []string{plain, gmp} {
			asked = append(asked, query{exprOf(t, files[form], "WorkloadIdentity"+alert), "1m", want})
		}
	}
	test, err := yaml.Marshal(map[string]any{
		"rule_files": []string{"rules.yaml"}, "evaluation_interval": "10s",
		"tests": []any{map[string]any{"interval": "10s", "input_series": given, "promql_expr_test": asked}},
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", write("many.yaml", string(test))).CombinedOutput()
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

// Its text names how many, and the identities that all of them have.
func TestTheTextOfManyNodes(t *testing.T) {
	rendering := newRendering(t)
	space := regexp.MustCompile(`\s+`)
	many := node("")
	delete(many, "node")
	blind := map[string]string{"cluster": "shop", "metadata_server": "unknown"}
	for _, tt := range []struct {
		alert  string
		labels map[string]string
		causes []string
		title  string
		has    string
	}{
		{"WorkloadIdentityNodeFallback", many, []string{"cilium_bpf_host_routing"}, "Pods on 612 nodes of cluster shop in europe-west1 in example get the node's identity", "Affected Pods on 612 nodes of cluster shop in europe-west1 in example get gke-node@example.iam.gserviceaccount.com instead of checkout@"},
		{"WorkloadIdentityNodeFallback", blind, nil, "Pods on 612 nodes of cluster shop get the node's identity", "get an unknown identity instead of theirs"},
		{"WorkloadIdentityMismatch", many, nil, "Pods on 612 nodes of cluster shop in europe-west1 in example get an unexpected identity", "Affected Pods on 612 nodes"},
		{"WorkloadIdentityUnbound", many, nil, "Pods on 612 nodes of cluster shop in europe-west1 in example get the workload pool instead of a service account", "On 612 nodes of cluster shop"},
		{"WorkloadIdentityTokenDenied", many, nil, "IAM refuses a token for the right identity on 612 nodes of cluster shop in europe-west1 in example", "on 612 nodes of cluster shop"},
		{"WorkloadIdentityMetadataUnavailable", blind, nil, "The metadata server gives no usable answer on 612 nodes of cluster shop", "Affected Pods on 612 nodes of cluster shop"},
		{"WorkloadIdentityExpectationUnknown", many, nil, "The expected identity of Pods on 612 nodes of cluster shop in europe-west1 in example is not known", "agent on 612 nodes"},
	} {
		one := rendering.alert(alertNamed(t, tt.alert), tt.labels, 612, tt.causes)
		text := space.ReplaceAllString(string(one.Annotations["description"]), " ")
		if string(one.Annotations["summary"]) != tt.title || !strings.Contains(text, tt.has) || strings.Contains(text, "<no value>") {
			t.Errorf("%s:\n%s\n%s", tt.alert, one.Annotations["summary"], text)
		}
	}
}

// exprOf is the expression of an alert in a rendered form.
func exprOf(t *testing.T, form, name string) string {
	t.Helper()
	var file struct {
		Groups []monitoringv1.RuleGroup
		Spec   monitoringv1.PrometheusRuleSpec
	}
	if err := yaml.Unmarshal([]byte(form), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range append(file.Groups, file.Spec.Groups...) {
		for _, r := range g.Rules {
			if r.Alert == name {
				return r.Expr.String()
			}
		}
	}
	t.Fatalf("there is no alert %s", name)
	return ""
}
