package main

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	"sigs.k8s.io/yaml"
)

// schema has the arguments of google_monitoring_alert_policy that the module may
// set, by block, and what Terraform itself knows (terraform-provider-google,
// website/docs/r/monitoring_alert_policy.html.markdown, August 2026).
var schema = map[string][]string{
	"":                                    {"project", "display_name", "enabled", "severity", "notification_channels", "user_labels", "combiner", "conditions", "documentation", "alert_strategy", "for_each", "lifecycle"},
	"conditions":                          {"display_name", "condition_prometheus_query_language"},
	"condition_prometheus_query_language": {"query", "duration", "evaluation_interval", "labels", "rule_group", "alert_rule", "disable_metric_validation"},
	"documentation":                       {"content", "mime_type", "subject", "links"},
	"links":                               {"display_name", "url"},
	"alert_strategy":                      {"auto_close", "notification_prompts"},
	"lifecycle":                           {"precondition"},
	"precondition":                        {"condition", "error_message"},
}

// module is what the files of the Terraform module say.
type module struct {
	variables map[string]hcl.Expression // the defaults; nil where there is none
	alerts    map[string]cty.Value
	resource  *hclsyntax.Body
	used      []string // variables
}

func readModule(t *testing.T) module {
	t.Helper()
	paths, err := filepath.Glob(repository + "/alerts/terraform/*.tf")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no module: %v", err)
	}
	m := module{variables: map[string]hcl.Expression{}}
	files := hclparse.NewParser()
	for _, path := range paths {
		f, diags := files.ParseHCLFile(path)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		body := f.Body.(*hclsyntax.Body)
		for _, b := range body.Blocks {
			switch b.Type {
			case "variable":
				m.variables[b.Labels[0]] = nil
				if d := b.Body.Attributes["default"]; d != nil {
					m.variables[b.Labels[0]] = d.Expr
				}
				continue // its own validation is no use of it
			case "locals":
				// Without variables and functions: what is not escaped is an error.
				value, diags := b.Body.Attributes["alerts"].Expr.Value(nil)
				if diags.HasErrors() {
					t.Fatal(diags)
				}
				m.alerts = value.AsValueMap()
			case "resource":
				m.resource = b.Body
			}
			_ = hclsyntax.VisitAll(b.Body, func(n hclsyntax.Node) hcl.Diagnostics {
				if e, is := n.(*hclsyntax.ScopeTraversalExpr); is && e.Traversal.RootName() == "var" {
					m.used = append(m.used, e.Traversal[1].(hcl.TraverseAttr).Name)
				}
				return nil
			})
		}
	}
	return m
}

// policies are what Terraform would send for each alert, with the variables' defaults
// and what else is given. An argument of a nested block has its path.
func (m module) policies(t *testing.T, given map[string]cty.Value) map[string]map[string]cty.Value {
	t.Helper()
	vars := maps.Clone(given)
	for name, expr := range m.variables {
		if _, is := vars[name]; is || expr == nil {
			continue
		}
		value, diags := expr.Value(nil)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		vars[name] = value
	}
	ctx := &hcl.EvalContext{
		Variables: map[string]cty.Value{"var": cty.ObjectVal(vars), "local": cty.ObjectVal(map[string]cty.Value{"alerts": cty.ObjectVal(m.alerts)})},
		Functions: map[string]function.Function{
			"concat": stdlib.ConcatFunc, "join": stdlib.JoinFunc, "keys": stdlib.KeysFunc, "length": stdlib.LengthFunc,
			"lookup": stdlib.LookupFunc, "merge": stdlib.MergeFunc, "setsubtract": stdlib.SetSubtractFunc,
			"trimspace": stdlib.TrimSpaceFunc,
		},
	}
	all := map[string]map[string]cty.Value{}
	for alert, data := range m.alerts {
		ctx.Variables["each"] = cty.ObjectVal(map[string]cty.Value{"key": cty.StringVal(alert), "value": data})
		all[alert] = map[string]cty.Value{}
		evaluate(t, ctx, m.resource, "", "", all[alert])
	}
	return all
}

func evaluate(t *testing.T, ctx *hcl.EvalContext, body *hclsyntax.Body, block, path string, into map[string]cty.Value) {
	t.Helper()
	for name, a := range body.Attributes {
		if !slices.Contains(schema[block], name) {
			t.Errorf("%s%s: no such argument", path, name)
		}
		value, diags := a.Expr.Value(ctx)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		into[path+name] = value
	}
	for _, b := range body.Blocks {
		if !slices.Contains(schema[block], b.Type) {
			t.Errorf("%s%s: no such block", path, b.Type)
		}
		evaluate(t, ctx, b.Body, b.Type, path+b.Type+".", into)
	}
}

var given = map[string]cty.Value{
	"project":               cty.StringVal("p"),
	"notification_channels": cty.ListVal([]cty.Value{cty.StringVal("projects/p/notificationChannels/1")}),
}

const condition = "conditions.condition_prometheus_query_language."

func TestEveryVariableOfTheModuleIsDeclaredAndUsed(t *testing.T) {
	m := readModule(t)
	slices.Sort(m.used)
	if declared := slices.Sorted(maps.Keys(m.variables)); !slices.Equal(slices.Compact(m.used), declared) {
		t.Errorf("used %v, declared %v", slices.Compact(m.used), declared)
	}
}

func TestWhatPagesIsAPolicyOfCloudMonitoring(t *testing.T) {
	paging := map[string]string{}
	for _, a := range alerts(t) {
		if a.Labels["severity"] == "critical" {
			paging[a.Alert] = a.Annotations["runbook_url"]
		}
	}
	policies := readModule(t).policies(t, given)
	if got, want := slices.Sorted(maps.Keys(policies)), slices.Sorted(maps.Keys(paging)); !slices.Equal(got, want) {
		t.Fatalf("policies %v, want %v", got, want)
	}
	for alert, p := range policies {
		group := "workload-identity"
		if alert == "WorkloadIdentityPartlyWrong" {
			group += ".answers"
		}
		for name, want := range map[string]string{
			"display_name": alert, "severity": "CRITICAL", "project": "p", "combiner": "OR",
			condition + "alert_rule": alert, condition + "rule_group": group,
			"documentation.mime_type": "text/markdown", "documentation.links.url": paging[alert],
		} {
			if got := p[name].AsString(); got != want {
				t.Errorf("%s: %s is %q, want %q", alert, name, got, want)
			}
		}
		if !p["enabled"].True() || !p["lifecycle.precondition.condition"].True() || p["notification_channels"].LengthInt() != 1 {
			t.Errorf("%s is off, is refused, or tells nobody", alert)
		}
		for _, name := range []string{condition + "duration", condition + "evaluation_interval", "alert_strategy.auto_close"} {
			if text := p[name].AsString(); !strings.HasSuffix(text, "s") || strings.Contains(text, "m") {
				t.Errorf("%s: %s %s is not in seconds", alert, name, text)
			}
		}
		if every := span(t, p[condition+"evaluation_interval"].AsString()); every <= 0 || every%(30*time.Second) != 0 {
			t.Errorf("%s is evaluated every %v, and Cloud Monitoring knows multiples of 30s", alert, every)
		}
		for name, most := range map[string]int{"documentation.subject": 255, "documentation.content": 8192, "documentation.links.display_name": 63} {
			text := p[name].AsString()
			if text == "" || len(text) > most || strings.Contains(text, "{{") {
				t.Errorf("%s: %s is empty, too long, or has a template of Prometheus: %s", alert, name, text)
			}
		}
		if !strings.Contains(p["documentation.content"].AsString(), "**First:** ") || !strings.Contains(p["documentation.content"].AsString(), paging[alert]) {
			t.Errorf("%s does not say what to do first, and where to read on", alert)
		}
	}
}

// Cloud Monitoring records no series of rules, and a variable stands for a label of
// the query's result.
func TestPoliciesAskForWhatAgentsExport(t *testing.T) {
	for alert, p := range readModule(t).policies(t, given) {
		query := p[condition+"query"].AsString()
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
		if err != nil {
			t.Errorf("%s: %v", alert, err)
			continue
		}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if s, is := n.(*parser.VectorSelector); is && strings.Contains(s.Name, ":") {
				t.Errorf("%s asks for %s, which no agent exports", alert, s.Name)
			}
			return nil
		})
		text := p["documentation.subject"].AsString() + p["documentation.content"].AsString()
		for _, after := range strings.Split(text, "${")[1:] {
			label, _, _ := strings.Cut(after, "}")
			if name, is := strings.CutPrefix(label, "metric_or_resource.label."); !is || !strings.Contains(query, name) {
				t.Errorf("%s: its query has no label for ${%s}", alert, label)
			}
		}
	}
}

func TestPoliciesOverride(t *testing.T) {
	vars := maps.Clone(given)
	one := func(value cty.Value) cty.Value {
		return cty.MapVal(map[string]cty.Value{"WorkloadIdentityMismatch": value})
	}
	vars["enabled"], vars["durations"], vars["severities"] = one(cty.False), one(cty.StringVal("90s")), one(cty.StringVal("ERROR"))
	vars["user_labels"] = cty.MapVal(map[string]cty.Value{"team": cty.StringVal("a")})
	vars["runbooks"], vars["auto_close"] = cty.StringVal("https://wiki"), cty.StringVal("3600s")
	policies := readModule(t).policies(t, vars)
	p, other := policies["WorkloadIdentityMismatch"], policies["WorkloadIdentityNodeFallback"]
	if p["enabled"].True() || p[condition+"duration"].AsString() != "90s" || p["severity"].AsString() != "ERROR" {
		t.Errorf("got %v", p)
	}
	if !other["enabled"].True() || other[condition+"duration"].AsString() != "10s" || other["severity"].AsString() != "CRITICAL" {
		t.Errorf("another alert: got %v", other)
	}
	if labels := p["user_labels"].AsValueMap(); labels["team"].AsString() != "a" || labels["app"].AsString() != "workload-identity-exporter" {
		t.Errorf("labels %v", labels)
	}
	if p["documentation.links.url"].AsString() != "https://wiki/WorkloadIdentityMismatch.md" || p["alert_strategy.auto_close"].AsString() != "3600s" {
		t.Errorf("got %v", p)
	}

	vars["enabled"] = cty.MapVal(map[string]cty.Value{"Mismatch": cty.False})
	if readModule(t).policies(t, vars)["WorkloadIdentityMismatch"]["lifecycle.precondition.condition"].True() {
		t.Error("an alert that does not exist can be turned off")
	}
}

// A query leaves out what the inhibition of alerts/alertmanager.yaml would.
func TestPoliciesInhibitAsAlertmanagerDoes(t *testing.T) {
	var config struct {
		InhibitRules []struct {
			Source []string `json:"source_matchers"`
			Target []string `json:"target_matchers"`
			Equal  []string `json:"equal"`
		} `json:"inhibit_rules"`
	}
	if err := yaml.Unmarshal(read(t, "alerts/alertmanager.yaml"), &config); err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`^alertname=~?"(\w+)(?:\(([\w|]+)\))?"$`)
	alertsOf := func(matcher string) (names []string) {
		m := named.FindStringSubmatch(matcher)
		if m == nil {
			t.Fatalf("matcher %s: want alertname and a list of names", matcher)
		}
		for end := range strings.SplitSeq(m[2], "|") {
			names = append(names, m[1]+end)
		}
		return names
	}
	policies := readModule(t).policies(t, given)
	want := map[string][]string{}
	for _, r := range config.InhibitRules {
		if len(r.Source) > 1 { // no policy stands for many nodes
			continue
		}
		for _, target := range alertsOf(r.Target[0]) {
			for _, source := range alertsOf(r.Source[0]) {
				if policies[target] == nil || policies[source] == nil {
					continue
				}
				want[target] = append(want[target], source)
				each, err := eachNode(gmpExpr(t, source))
				if err != nil {
					t.Fatal(err)
				}
				other, err := parser.NewParser(parser.Options{}).ParseExpr(each)
				if err != nil {
					t.Fatal(err)
				}
				without := "unless on (" + strings.Join(r.Equal, ", ") + ") (" + other.String() + ")"
				if !strings.Contains(policies[target][condition+"query"].AsString(), without) {
					t.Errorf("%s does not leave out where %s holds, by %v", target, source, r.Equal)
				}
			}
		}
	}
	if !maps.EqualFunc(want, explained, slices.Equal[[]string]) || len(want) == 0 {
		t.Errorf("explained %v, want %v", explained, want)
	}
}

// gmpExpr is the expression of an alert in the ClusterRules.
func gmpExpr(t *testing.T, alert string) string {
	t.Helper()
	var form clusterRulesForm
	if err := yaml.Unmarshal(read(t, gmpRules), &form); err != nil {
		t.Fatal(err)
	}
	for _, g := range form.Spec.Groups {
		for _, r := range g.Rules {
			if r.Alert == alert {
				return r.Expr
			}
		}
	}
	t.Fatalf("no %s in %s", alert, gmpRules)
	return ""
}

func TestLiteralsAreKeptFromTerraform(t *testing.T) {
	rules := `spec: {groups: [{name: g, interval: 45s, rules: [{alert: WorkloadIdentityMetadataUnavailableClusterWide, expr: 'a{b="${c}%{d}\"\n"}', for: 2m, labels: {severity: critical, x: '${y}"'}}]}]}`
	files, err := terraform([]byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	f, diags := hclparse.NewParser().ParseHCL(files[0].content, files[0].path)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	value, diags := f.Body.(*hclsyntax.Body).Blocks[0].Body.Attributes["alerts"].Expr.Value(nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	alert := value.AsValueMap()["WorkloadIdentityMetadataUnavailableClusterWide"].AsValueMap()
	for name, want := range map[string]string{"query": "a{b=\"${c}%{d}\\\"\\n\"}\n", "interval": "60s", "duration": "120s"} {
		if got := alert[name].AsString(); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := alert["labels"].AsValueMap()["x"].AsString(); got != `${y}"` {
		t.Errorf("label is %q", got)
	}
}

// docs/gmp.md drops what nobody asks for, and more of what no page is for.
func TestNobodyAsksForWhatMayBeDropped(t *testing.T) {
	list := regexp.MustCompile(`(?m)^    regex: (.+)$`).FindAllStringSubmatch(string(read(t, "docs/gmp.md")), -1)
	if len(list) != 2 {
		t.Fatalf("docs/gmp.md drops %d lists of metrics, want two", len(list))
	}
	all := []string{"alerts/workload-identity.rules.yaml", gmpRules, "dashboards/workload-identity-fleet.json", "dashboards/workload-identity-cluster.json", "dashboards/workload-identity-node.json"}
	whole := string(read(t, "alerts/workload-identity.rules.yaml"))
	paging, _, found := strings.Cut(whole, "- name: workload-identity.tickets")
	if !found || !strings.Contains(paging, "severity: critical") || strings.Contains(paging, "severity: warning") {
		t.Fatal("the group that pages does not come first, or does not page alone")
	}
	for i, drops := range list {
		pattern := regexp.MustCompile("^(?:" + drops[1] + ")$")
		dropped := 0
		for _, name := range exported(t) {
			if !pattern.MatchString(name) {
				continue
			}
			dropped++
			if i == 1 {
				if strings.Contains(paging, name) {
					t.Errorf("what pages asks for %s", name)
				}
				continue
			}
			for _, path := range all {
				if strings.Contains(string(read(t, path)), name) {
					t.Errorf("%s asks for %s", path, name)
				}
			}
		}
		if want := []int{4, 10}[i]; dropped != want {
			t.Errorf("%s drops %d metrics of the agent, want %d", drops[1], dropped, want)
		}
	}
}
