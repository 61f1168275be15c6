package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// neighbours are releases in one cluster, by all that people name differently.
var neighbours = []struct{ name, namespace, values string }{
	{namespace, namespace, ""},
	{"second", namespace, ""},
	{"canary", namespace, "nameOverride: canary"},
	{"third", namespace, "fullnameOverride: watcher"},
	{strings.Repeat("n", 52) + "1", namespace, ""}, // as long as Helm takes them
	{strings.Repeat("n", 52) + "2", namespace, ""},
	{"third", "monitoring", "fullnameOverride: watcher"},
	{namespace, "monitoring", ""},
	{namespace, "default", ""},
	{namespace, "kube-system", ""},
}

// neighbour is one of them. Its Pods and targets are as Kubernetes and Prometheus
// name them.
type neighbour struct {
	release
	id, namespace             string
	agent, check, target, pod map[string]string
}

func install(t *testing.T, values string) []neighbour {
	t.Helper()
	var all []neighbour
	for _, n := range neighbours {
		var v map[string]any
		if err := yaml.UnmarshalStrict([]byte(values+n.values), &v); err != nil {
			t.Fatal(err)
		}
		r, err := template(chart, n.name, n.namespace, v)
		if err != nil {
			t.Fatal(err)
		}
		in := neighbour{release: r, id: n.name + " in " + n.namespace, namespace: n.namespace}
		for _, o := range r.objects {
			name, _ := o.metadata()["name"].(string)
			switch o["kind"] {
			case "DaemonSet":
				var d struct {
					Spec struct{ Template labelled }
				}
				decode(t, o, &d)
				in.agent = d.Spec.Template.Metadata.Labels
				in.pod = map[string]string{"namespace": n.namespace, "created_by_kind": "DaemonSet", "created_by_name": name}
			case "PodMonitor":
				in.target = map[string]string{"namespace": n.namespace, "job": n.namespace + "/" + name}
			case "PodMonitoring":
				in.target = map[string]string{"namespace": n.namespace, "job": name}
			}
		}
		var check labelled
		decode(t, r.tests[0], &check)
		in.check = check.Metadata.Labels
		all = append(all, in)
	}
	return all
}

type labelled struct {
	Metadata struct{ Labels map[string]string }
}

// selected are the labels by which an object finds Pods of its namespace.
func selected(o object) map[string]any {
	spec, _ := o["spec"].(map[string]any)
	for _, name := range []string{"selector", "podSelector", "endpointSelector"} {
		s, _ := spec[name].(map[string]any)
		if by, ok := s["matchLabels"].(map[string]any); ok {
			return by
		}
		if len(s) > 0 {
			return s // a Service's
		}
	}
	return nil
}

const everything = `
googleServiceAccount: workload-identity-exporter@my-project.iam.gserviceaccount.com
apiAccess: {nodeLabels: true, ciliumNodeConfigs: true, ciliumPods: true, nodeCondition: true}
tls: {enabled: true}
`

func TestReleasesInOneClusterKeepApart(t *testing.T) {
	for values, kinds := range map[string][]string{
		"monitoring: {kind: prometheus-operator}\n":                     {"DaemonSet", "NetworkPolicy", "PodMonitor", "Service"},
		"monitoring: {kind: gmp}\nnetworkPolicy: {dataplane: cilium}\n": {"CiliumNetworkPolicy", "DaemonSet", "PodMonitoring", "Service"},
	} {
		all := install(t, everything+values)
		owner := map[string]string{}
		for _, one := range all {
			selecting := map[string]bool{}
			for _, o := range append(one.objects, one.tests...) {
				if other := owner[o.id()]; other != "" {
					t.Errorf("%s has %s, as %s has", one.id, o.id(), other)
				}
				owner[o.id()] = one.id
				by := selected(o)
				if by == nil {
					continue
				}
				kind, _ := o["kind"].(string)
				selecting[kind] = true
				for _, other := range all {
					if other.namespace != one.namespace {
						continue
					}
					if got, want := hasAll(other.agent, by), other.id == one.id; got != want {
						t.Errorf("%s of %s selects the agents of %s: %v, want %v", kind, one.id, other.id, got, want)
					}
					if hasAll(other.check, by) {
						t.Errorf("%s of %s selects the check of %s", kind, one.id, other.id)
					}
				}
			}
			if got := slices.Sorted(maps.Keys(selecting)); !slices.Equal(got, kinds) {
				t.Errorf("%s: %v select Pods, want %v", one.id, got, kinds)
			}
			refersToItsOwn(t, one)
			for metric, series := range map[string]func(neighbour) map[string]string{
				"up":            func(n neighbour) map[string]string { return n.target },
				"kube_pod_info": func(n neighbour) map[string]string { return n.pod },
			} {
				matchers := matchersOf(t, one, metric)
				for _, other := range all {
					got, want := labels.Selector(matchers).Matches(labels.FromMap(series(other))), other.id == one.id
					if got != want {
						t.Errorf("the rules of %s ask for %s of %s: %v, want %v", one.id, metric, other.id, got, want)
					}
				}
			}
		}
	}
}

func hasAll(have map[string]string, want map[string]any) bool {
	for name, value := range want {
		if have[name] != value {
			return false
		}
	}
	return true
}

// refersToItsOwn looks at the names by which objects of the release refer to others.
func refersToItsOwn(t *testing.T, one neighbour) {
	t.Helper()
	names := map[string]bool{}
	for _, o := range one.objects {
		names[fmt.Sprint(o["kind"], " ", o.metadata()["name"])] = true
	}
	for _, o := range one.objects {
		var refers struct {
			RoleRef struct{ Kind, Name string }
			Spec    struct {
				PolicyName string
				Template   struct {
					Spec struct{ PriorityClassName, ServiceAccountName string }
				}
			}
		}
		var to []string
		switch kind, _ := o["kind"].(string); kind {
		case "DaemonSet":
			decode(t, o, &refers)
			to = []string{"PriorityClass " + refers.Spec.Template.Spec.PriorityClassName, "ServiceAccount " + refers.Spec.Template.Spec.ServiceAccountName}
		case "RoleBinding", "ClusterRoleBinding":
			decode(t, o, &refers)
			to = []string{refers.RoleRef.Kind + " " + refers.RoleRef.Name}
		case "ValidatingAdmissionPolicyBinding":
			decode(t, o, &refers)
			to = []string{"ValidatingAdmissionPolicy " + refers.Spec.PolicyName}
		}
		for _, name := range to {
			if !names[name] {
				t.Errorf("%s: %s refers to %s, which is not of this release", one.id, o.id(), name)
			}
		}
	}
}

// matchersOf are those by which the rules of a release find its agents by this metric.
func matchersOf(t *testing.T, one neighbour, metric string) []*labels.Matcher {
	t.Helper()
	var found [][]*labels.Matcher
	for _, r := range rulesOf(t, one.objects) {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr.String())
		if err != nil {
			t.Fatalf("%s: %s%s: %v", one.id, r.Record, r.Alert, err)
		}
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			s, ok := node.(*parser.VectorSelector)
			if !ok || s.Name != metric {
				return nil
			}
			isName := func(m *labels.Matcher) bool { return m.Name == "__name__" }
			if ms := slices.DeleteFunc(slices.Clone(s.LabelMatchers), isName); slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return m.Name == "namespace" }) {
				found = append(found, ms)
			}
			return nil
		})
	}
	if len(found) != 1 {
		t.Fatalf("%s: %d selectors of %s have a namespace, want 1", one.id, len(found), metric)
	}
	return found[0]
}
