package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/alertmanager/alert"
	alertmanager "github.com/prometheus/alertmanager/template"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	prometheus "github.com/prometheus/prometheus/template"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the generated part of docs/alerting.md again")

// phone is how many characters it has in a line: one that is 390 points wide has about
// 340 between the margins of a message, and letters of 16 points are about 7 wide.
const phone = 48

// Nobody scrolls to find out what to do.
func TestTheCauseAndWhatToDoFirstAreInSixLines(t *testing.T) {
	rendering := newRendering(t)
	named := regexp.MustCompile(`eq \$\S*cause "(\w+)"`)
	told := regexp.MustCompile(`^(?:(?:Suspected|Likely cause): .+ )?First: .+?\.(?: |$)`)
	for _, path := range []string{"alerts/workload-identity.rules.yaml", "deploy/kustomize/overlays/gmp/clusterrules.yaml"} {
		for _, a := range alertsIn(t, path) {
			var causes []string
			for _, m := range named.FindAllStringSubmatch(a.Annotations["description"], -1) {
				if !slices.Contains(causes, m[1]) {
					causes = append(causes, m[1])
				}
			}
			suspects := [][]string{nil}
			for i, c := range causes {
				suspects = append(suspects, []string{c})
				for _, other := range causes[i+1:] {
					suspects = append(suspects, []string{c, other}, []string{other, c})
				}
			}
			for _, suspected := range suspects {
				servers := []string{"vm", "gke", "unknown"}
				if len(suspected) > 0 { // then it does not matter
					servers = servers[:1]
				}
				for _, server := range servers {
					l := node("1")
					l["metadata_server"] = server
					if strings.Contains(a.Annotations["summary"], ".cause") { // which is that of the alert
						if len(suspected) != 1 {
							continue
						}
						l["cause"] = suspected[0]
					}
					one := rendering.alert(a, l, 12, suspected)
					read := rendering.slack(one)
					first := lines(read.text)
					first = first[:min(6, len(first))]
					text := string(one.Annotations["description"])
					begin := told.FindString(text)
					if begin == "" || strings.HasPrefix(begin, "First: ") != (l["cause"] != "") {
						t.Errorf("%s: want a cause, and then what to do first: %s", a.Alert, text)
						continue
					}
					for _, c := range suspected[:min(1, len(suspected))] {
						if !strings.Contains(read.title+begin, " ("+c+")") {
							t.Errorf("%s: %s is not named: %s", a.Alert, c, begin)
						}
					}
					if !strings.HasPrefix(strings.Join(first, " ")+" ", strings.TrimSpace(begin)+" ") {
						t.Errorf("%s by %v, %s: it takes %d lines of %d characters: %s", a.Alert, suspected, server, len(lines(begin)), phone, begin)
					}
				}
			}
		}
	}
}

// lines are those of a text on a phone.
func lines(text string) []string {
	var all []string
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := ""
		for word := range strings.FieldsSeq(paragraph) {
			if line != "" && len(line)+1+len(word) > phone {
				all, line = append(all, line), ""
			}
			line = strings.TrimSpace(line + " " + word)
		}
		all = append(all, line)
	}
	return all
}

func TestNotificationsOfGroups(t *testing.T) {
	rendering := newRendering(t)
	fallback := alertNamed(t, "WorkloadIdentityNodeFallback")
	var many []*alert.Alert
	for i := range 25 {
		many = append(many, rendering.alert(fallback, node(strconv.Itoa(i)), 1, nil))
	}
	over := *many[0]
	over.EndsAt = time.Now().Add(-time.Second)
	var risks []*alert.Alert
	for _, cause := range []string{"cilium_bpf_host_routing", "cilium_no_conntrack"} {
		risks = append(risks, rendering.alert(alertNamed(t, "WorkloadIdentityMasqueradeRisk"), map[string]string{"cluster": "shop", "cause": cause}, 3, nil))
	}
	const place = " of cluster shop in europe-west1 in example"
	for _, tt := range []struct {
		name        string
		alerts      []*alert.Alert
		title       string
		has, hasNot []string
	}{
		{"one", many[:1], "Pods on gke-shop-0 get the node's identity", []string{place}, []string{"Also"}},
		{"three", many[:3], "Pods on 3 nodes" + place + " get the node's identity", []string{"\nAlso gke-shop-1 gke-shop-2\n"}, []string{" more"}},
		{"25", many, "Pods on 25 nodes" + place + " get the node's identity", []string{"\nAlso gke-shop-1 ", " gke-shop-20 and 4 more\n"}, []string{"gke-shop-21"}},
		{"two of three", []*alert.Alert{&over, many[1], many[2]}, "Pods on 2 nodes" + place + " get the node's identity", []string{"\nAlso gke-shop-2\n"}, []string{"gke-shop-0"}},
		{"over", []*alert.Alert{&over}, "RESOLVED: Pods on gke-shop-0 get the node's identity", []string{"What is left to do is in the runbook", "WorkloadIdentityNodeFallback.md#over"}, nil},
		{
			"without nodes", risks,
			"A setting will break Workload Identity of cluster shop: eBPF host routing bypasses the GKE metadata server (cilium_bpf_host_routing), and 1 more",
			[]string{"\nAlso A setting will break Workload Identity of cluster shop: Cilium's"},
			[]string{"; A"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, dashboard := range []model.LabelValue{"", "https://grafana.example.com/d/node"} {
				for _, a := range tt.alerts {
					a.Annotations["dashboard_url"] = dashboard
				}
				page, slack := rendering.pagerDuty(tt.alerts...), rendering.slack(tt.alerts...)
				if page.title != slack.title || page.text != slack.text {
					t.Errorf("PagerDuty and Slack tell different things:\n%+v\n%+v", page, slack)
				}
				if slack.title != tt.title {
					t.Errorf("title %q, want %q", slack.title, tt.title)
				}
				for _, s := range tt.has {
					if !strings.Contains(slack.text, s) {
						t.Errorf("the text lacks %q:\n%s", s, slack.text)
					}
				}
				for _, s := range append(tt.hasNot, "<no value>", "\n\n\n") {
					if strings.Contains(slack.text, s) {
						t.Errorf("%q is in the text:\n%s", s, slack.text)
					}
				}
				last := slack.text[strings.LastIndex(slack.text, "\n")+1:]
				runbook := "Runbook " + slack.links[0]
				if want := map[bool]string{true: "Dashboard " + string(dashboard), false: runbook}[dashboard != ""]; last != want || !strings.Contains(slack.text, "\n"+runbook) {
					t.Errorf("the text ends with %q, want %q after the runbook", last, want)
				}
				if want := []string{slack.links[0], string(dashboard)}; !slices.Equal(page.links, want) {
					t.Errorf("links %q, want %q", page.links, want)
				}
			}
		})
	}
}

// What people read, in the documentation as well.
func TestWhatTheOnCallReads(t *testing.T) {
	rendering := newRendering(t)
	a := rendering.alert(alertNamed(t, "WorkloadIdentityNodeFallback"), node("1"), 1, []string{"cilium_bpf_host_routing"})
	b := rendering.alert(alertNamed(t, "WorkloadIdentityNodeFallback"), node("2"), 1, []string{"cilium_bpf_host_routing"})
	cluster := node("")
	delete(cluster, "node")
	wide := rendering.alert(alertNamed(t, "WorkloadIdentityClusterWideFallback"), cluster, 0.4, []string{"cilium_bpf_host_routing", "node_pool_gce_metadata"})
	ended := []*alert.Alert{a, b}
	var part strings.Builder
	for _, tt := range []struct {
		name   string
		alerts []*alert.Alert
	}{{"A node", []*alert.Alert{a}}, {"A cluster", []*alert.Alert{wide}}, {"Two nodes, when it is over", ended}} {
		if len(tt.alerts) > 1 {
			for _, x := range tt.alerts {
				x.EndsAt = time.Now().Add(-time.Second)
			}
		}
		page, slack := rendering.pagerDuty(tt.alerts...), rendering.slack(tt.alerts...)
		if page.title != slack.title || page.text != slack.text {
			t.Errorf("PagerDuty and Slack tell different things:\n%+v\n%+v", page, slack)
		}
		fmt.Fprintf(&part, "%s:\n\n```text\n%s\n\n%s\n```\n\n", tt.name, strings.Join(lines(slack.title), "\n"), strings.Join(lines(slack.text), "\n"))
	}
	const file, begin, end = "docs/alerting.md", "<!-- begin generated: notifications -->\n", "<!-- end generated -->"
	before, rest, ok := strings.Cut(string(read(t, file)), begin)
	had, after, ok2 := strings.Cut(rest, end)
	want := strings.TrimSuffix(part.String(), "\n")
	switch {
	case !ok || !ok2:
		t.Fatalf("%s lacks the markers of the part", file)
	case had == want:
	case !*update:
		t.Errorf("%s is out of date: run `make generate`", file)
	default:
		if err := os.WriteFile(repository+"/"+file, []byte(before+begin+want+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// node has the labels of an alert about a node.
func node(number string) map[string]string {
	return map[string]string{
		"project_id": "example", "location": "europe-west1", "cluster": "shop", "node": "gke-shop-" + number, "job": "agents", "metadata_server": "vm",
		"observed": "gke-node@example.iam.gserviceaccount.com", "expected": "checkout@example.iam.gserviceaccount.com",
	}
}

// alertsIn are those of a form.
func alertsIn(t *testing.T, path string) []monitoringv1.Rule {
	t.Helper()
	var file struct {
		Groups []monitoringv1.RuleGroup
		Spec   monitoringv1.PrometheusRuleSpec
	}
	if err := yaml.Unmarshal(read(t, path), &file); err != nil {
		t.Fatal(err)
	}
	var all []monitoringv1.Rule
	for _, g := range append(file.Groups, file.Spec.Groups...) {
		all = append(all, slices.DeleteFunc(g.Rules, func(r monitoringv1.Rule) bool { return r.Alert == "" })...)
	}
	if len(all) == 0 {
		t.Fatalf("%s has no alerts", path)
	}
	return all
}

// alertNamed is one of the form that has the most labels for a cluster.
func alertNamed(t *testing.T, name string) monitoringv1.Rule {
	t.Helper()
	all := alertsIn(t, "deploy/kustomize/overlays/gmp/clusterrules.yaml")
	i := slices.IndexFunc(all, func(r monitoringv1.Rule) bool { return r.Alert == name })
	if i < 0 {
		t.Fatalf("there is no alert %s", name)
	}
	return all[i]
}

// rendering renders alerts by Prometheus's templates and the notifications of the
// example by Alertmanager's.
type rendering struct {
	t        *testing.T
	template *alertmanager.Template
	page     struct {
		Description string
		Details     map[string]any
		Links       []struct{ Href string }
	}
	ticket struct {
		Title, Text string
		Link        string `json:"title_link"`
	}
}

func newRendering(t *testing.T) rendering {
	t.Helper()
	r := rendering{t: t}
	var example struct {
		Receivers []struct {
			PagerDuty []struct {
				Description string
				Details     map[string]any
				Links       []struct{ Href string }
			} `json:"pagerduty_configs"`
			Slack []struct {
				Title, Text string
				Link        string `json:"title_link"`
			} `json:"slack_configs"`
		}
	}
	if err := yaml.Unmarshal(read(t, "alerts/alertmanager.yaml"), &example); err != nil {
		t.Fatal(err)
	}
	for _, receiver := range example.Receivers {
		for _, p := range receiver.PagerDuty {
			r.page = p
		}
		for _, s := range receiver.Slack {
			r.ticket = s
		}
	}
	var err error
	if r.template, err = alertmanager.FromGlobs([]string{repository + "/alerts/workload-identity.tmpl"}); err != nil {
		t.Fatal(err)
	}
	r.template.ExternalURL = &url.URL{}
	return r
}

// alert fires with these labels, this value, and these causes as the answer to a query.
func (r rendering) alert(rule monitoringv1.Rule, values map[string]string, value float64, causes []string) *alert.Alert {
	r.t.Helper()
	query := func(context.Context, string, time.Time) (promql.Vector, error) {
		var found promql.Vector
		for i, c := range causes {
			found = append(found, promql.Sample{Metric: labels.FromStrings("cause", c), F: float64(1200 - 1199*i)})
		}
		return found, nil
	}
	fires := &alert.Alert{Alert: model.Alert{Labels: model.LabelSet{"alertname": model.LabelValue(rule.Alert)}, Annotations: model.LabelSet{}, StartsAt: time.Now()}}
	for name, v := range values {
		fires.Labels[model.LabelName(name)] = model.LabelValue(v)
	}
	data := prometheus.AlertTemplateData(values, nil, "", promql.Sample{F: value})
	for name, text := range rule.Annotations {
		// The variables are those that Prometheus puts before each text (rules/alerting.go).
		text = "{{$labels := .Labels}}{{$value := .Value}}" + text
		expanded, err := prometheus.NewTemplateExpander(r.t.Context(), text, rule.Alert, data, model.Now(), query, &url.URL{}, nil).Expand()
		if err != nil {
			r.t.Fatal(err)
		}
		fires.Annotations[model.LabelName(name)] = model.LabelValue(expanded)
	}
	return fires
}

// message is what people read, and the links beside it.
type message struct {
	title, text string
	links       []string
}

func (r rendering) pagerDuty(alerts ...*alert.Alert) message {
	r.t.Helper()
	n := message{title: r.execute(r.page.Description, alerts)}
	details, err := alertmanager.DeepCopyWithTemplate(r.page.Details["what"], func(text string) (string, error) {
		return r.execute(text, alerts), nil
	})
	text, ok := details.(string)
	if err != nil || !ok {
		r.t.Errorf("details for PagerDuty are no text: %v, %v", details, err)
	}
	n.text = text
	for _, l := range r.page.Links {
		n.links = append(n.links, r.execute(l.Href, alerts))
	}
	return n
}

func (r rendering) slack(alerts ...*alert.Alert) message {
	r.t.Helper()
	return message{r.execute(r.ticket.Title, alerts), r.execute(r.ticket.Text, alerts), []string{r.execute(r.ticket.Link, alerts)}}
}

func (r rendering) execute(text string, alerts []*alert.Alert) string {
	r.t.Helper()
	out, err := r.template.ExecuteTextString(text, r.template.Data("", nil, nil, "", alerts...))
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}
