package scrape

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Who scrapes each overlay. One without agents has nobody.
var overlays = map[string]string{
	"annotations": "annotations", "autopilot": "gmp", "cilium": "none", "dataplane-v2": "none", "default": "none", "expected-emails": "none",
	"gmp": "gmp", "grafana-operator": "", "grafana-sidecar": "", "prometheus-operator": "prometheus-operator", "tls": "none",
}

// install is an overlay or a release of the chart, in a namespace of its own.
type install struct {
	namespace string
	objects   []*unstructured.Unstructured
	secret    *corev1.Secret // with TLS
}

func (in *install) one(t *testing.T, kind string) *unstructured.Unstructured {
	t.Helper()
	all := slices.DeleteFunc(slices.Clone(in.objects), func(o *unstructured.Unstructured) bool { return o.GetKind() != kind })
	if len(all) != 1 {
		t.Fatalf("%s has %d objects of the kind %s, want one", in.namespace, len(all), kind)
	}
	return all[0]
}

// scrape is how a Prometheus finds an install. The rules see its name as the cluster,
// so that one Prometheus does for all. With noNode nothing sets the label node, and
// the rules are to name the Pod.
type scrape struct {
	name   string
	in     *install
	config config
	noNode bool
}

// scrapes are all ways in which an install may be scraped.
func scrapes(t *testing.T, in *install, kind string) []scrape {
	t.Helper()
	id := strings.TrimPrefix(in.namespace, suite+"-")
	switch kind {
	case "none":
		return []scrape{{name: id, in: in, config: byDocs(t, in)}}
	case "prometheus-operator":
		return []scrape{{name: id, in: in, config: byOperator(t, in, "PodMonitor")}}
	case "service-monitor":
		return []scrape{{name: id, in: in, config: byOperator(t, in, "ServiceMonitor")}}
	case "gmp":
		return []scrape{{name: id, in: in, config: byGMP(t, in)}}
	case "annotations":
		return []scrape{
			{name: id, in: in, config: byAnnotations(in.namespace, newLabels...)},
			{name: id + "-old", in: in, config: byAnnotations(in.namespace, oldLabels...), noNode: true},
			{name: id + "-pod", in: in, config: byAnnotations(in.namespace, podLabels...), noNode: true},
			{name: id + "-docs", in: in, config: byAnnotations(in.namespace, append(linesForNode(t), oldLabels...)...)},
		}
	}
	t.Fatalf("monitoring of the kind %q has no case here", kind)
	return nil
}

func TestAllThatIsShippedHasNodesAndPages(t *testing.T) {
	c := connect(t)
	var all []scrape
	for _, path := range glob(t, "../../../deploy/kustomize/overlays/*") {
		overlay := filepath.Base(path)
		kind, known := overlays[overlay]
		manifest := read(t, "../../../bin/deploy/kustomize-"+overlay+".yaml")
		if agents := strings.Contains(manifest, "\nkind: DaemonSet\n"); !known || agents != (kind != "") {
			t.Fatalf("the overlay %s has no case here that fits", overlay)
		}
		if kind != "" {
			all = append(all, scrapes(t, c.install(t, "kustomize-"+overlay, manifest), kind)...)
		}
	}
	for _, kind := range append(kinds(t), "service-monitor") {
		args := []string{
			"template", "rel", "../../../deploy/chart", "--kube-version", "1.32.0", "--namespace", suite + "-chart-" + kind, "--set", "fullnameOverride=watcher",
			"--set", "googleServiceAccount=" + email, "--set", "monitoring.kind=" + kind, "--set", fmt.Sprint("tls.enabled=", kind != "annotations"),
		}
		if kind == "service-monitor" {
			args = append(args, "--set", "monitoring.kind=prometheus-operator,monitoring.serviceMonitor=true,monitoring.interval=5s")
		}
		all = append(all, scrapes(t, c.install(t, "chart-"+kind, command(t, nil, os.Getenv("HELM"), args...)), kind)...)
	}
	c.apply(t, objects(t, read(t, "../cluster/manifests/node.yaml")))
	machines := c.pods(t, "wi-e2e-nodes", 2)
	prometheus := c.prometheus(t, all)

	for _, s := range all {
		t.Run("labels/"+s.name, func(t *testing.T) { prometheus.labels(t, c, s) })
	}
	if t.Failed() {
		return
	}
	broken := c.nodes[0]
	must(t, c.CoreV1().RESTClient().Put().Namespace("wi-e2e-nodes").Resource("pods").SubResource("proxy").Name("http:"+machines[broken]+":10982").
		Suffix("bypass").Param("after", "0s").Param("for", "10m").Do(t.Context()).Error())
	for _, s := range all {
		t.Run("page/"+s.name, func(t *testing.T) {
			t.Parallel() // they wait for the same fault
			prometheus.pages(t, c, s, broken)
		})
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %v", pattern, err)
	}
	return paths
}

// kinds are those of monitoring that the chart knows.
func kinds(t *testing.T) []string {
	t.Helper()
	var schema struct {
		Properties struct {
			Monitoring struct {
				Properties struct{ Kind struct{ Enum []string } }
			}
		}
	}
	must(t, json.Unmarshal([]byte(read(t, "../../../deploy/chart/values.schema.json")), &schema))
	return schema.Properties.Monitoring.Properties.Kind.Enum
}

// install applies what the agents need of a manifest, in a namespace of this suite:
// not what is about the whole cluster or other namespaces, and no NetworkPolicy.
func (c *cluster) install(t *testing.T, id, manifest string) *install {
	t.Helper()
	in := &install{namespace: suite + "-" + id}
	wanted := objects(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": %q}}`, in.namespace))
	// As docs/install.md fills it in.
	for _, o := range objects(t, strings.ReplaceAll(manifest, "PROJECT_ID", "demo-project")) {
		if o.GetNamespace() == name {
			o.SetNamespace(in.namespace)
		}
		in.objects = append(in.objects, o)
		if subjects, ok, _ := unstructured.NestedSlice(o.Object, "subjects"); ok {
			subjects[0].(map[string]any)["namespace"] = in.namespace
			must(t, unstructured.SetNestedSlice(o.Object, subjects, "subjects"))
		}
		switch o.GetKind() {
		case "DaemonSet":
			in.runs(t, o)
			wanted = append(wanted, o)
		case "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Service", "PriorityClass":
			if o.GetKind() == "PriorityClass" || o.GetNamespace() == in.namespace {
				wanted = append(wanted, o)
			}
		}
	}
	if in.secret != nil {
		wanted = append(wanted[:1:1], append(objects(t, marshal(t, in.secret)), wanted[1:]...)...)
	}
	c.apply(t, wanted)
	return in
}

// runs makes a DaemonSet one that can run here: with the image at hand, and the Secret
// for TLS.
func (in *install) runs(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
	container, _ := containers[0].(map[string]any)
	container["image"] = "workload-identity-exporter.local/exporter:test"
	env, _ := container["env"].([]any)
	container["env"] = append(env, map[string]any{"name": "WI_STARTUP_GRACE", "value": "10s"})
	must(t, unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers"))
	volumes, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "volumes")
	for _, v := range volumes {
		if secret, ok, _ := unstructured.NestedString(v.(map[string]any), "secret", "secretName"); ok {
			in.secret = &corev1.Secret{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: in.namespace, Name: secret},
				Data: map[string][]byte{"tls.crt": certificate(t).public, "tls.key": certificate(t).private, "ca.crt": certificate(t).public},
			}
		}
	}
}

// prometheus is a Pod, which is asked by way of the API server.
type prometheus struct {
	ask func(ctx context.Context, path string, out any, query ...string) error
}

func (c *cluster) prometheus(t *testing.T, all []scrape) prometheus {
	t.Helper()
	var jobs []any
	for _, s := range all {
		rules, _ := s.config["relabel_configs"].([]any)
		was, _ := s.config["job_name"].(string)
		s.config["relabel_configs"] = slices.Concat([]any{set("job", was)}, rules, []any{set("cluster", s.name)})
		s.config["job_name"] = s.name
		jobs = append(jobs, s.config)
	}
	settings, err := yaml.Marshal(map[string]any{"rule_files": []string{"/etc/prometheus/rules.yaml"}, "scrape_configs": jobs})
	must(t, err)
	manifest := strings.NewReplacer("NAMESPACE", suite).Replace(read(t, "prometheus.yaml"))
	files := &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Namespace: suite, Name: "prometheus"},
		Data: map[string]string{
			"prometheus.yaml": string(settings), "rules.yaml": read(t, "../../../alerts/workload-identity.rules.yaml"), "ca.crt": string(certificate(t).public),
		},
	}
	made := objects(t, manifest)
	c.apply(t, slices.Insert(made, 1, objects(t, marshal(t, files))...))
	for _, pod := range c.pods(t, suite, 1) {
		return prometheus{ask: func(ctx context.Context, path string, out any, query ...string) error {
			parameters := map[string]string{}
			for i := 0; i < len(query); i += 2 {
				parameters[query[i]] = query[i+1]
			}
			body, err := c.CoreV1().Pods(suite).ProxyGet("http", pod, "9090", path, parameters).DoRaw(ctx)
			if err != nil {
				return fmt.Errorf("%w: %s", err, body)
			}
			return json.Unmarshal(body, out)
		}}
	}
	panic("unreachable")
}

// labels are right when both agents have their node, and one set of states each.
func (p prometheus) labels(t *testing.T, c *cluster, s scrape) {
	t.Helper()
	pods := c.pods(t, s.in.namespace, 2)
	scheme := "http"
	if s.in.secret != nil {
		scheme = "https"
	}
	eventually(t, func(ctx context.Context) error {
		var targets struct {
			Data struct {
				ActiveTargets []struct {
					Labels, DiscoveredLabels     map[string]string
					Health, LastError, ScrapeURL string
				}
			}
		}
		if err := p.ask(ctx, "api/v1/targets", &targets, "scrapePool", s.name); err != nil {
			return err
		}
		found := map[string]bool{}
		for _, target := range targets.Data.ActiveTargets {
			node := target.DiscoveredLabels["__meta_kubernetes_pod_node_name"]
			if got := target.Labels["node"]; got != node && !s.noNode || got != "" && s.noNode {
				return fmt.Errorf("the target on %s has the labels %v", node, target.Labels)
			}
			if target.Health != "up" || !strings.HasPrefix(target.ScrapeURL, scheme+"://") {
				return fmt.Errorf("the target %s on %s is %s: %s", target.ScrapeURL, node, target.Health, target.LastError)
			}
			found[node] = true
		}
		if n := len(targets.Data.ActiveTargets); n != 2 || len(found) != 2 {
			return fmt.Errorf("%d targets on %d nodes, want the agents %v", n, len(found), pods)
		}
		var states struct {
			Data struct {
				Result []struct {
					Metric map[string]string
					Value  [2]any
				}
			}
		}
		err := p.ask(ctx, "api/v1/query", &states, "query",
			`sum by (node, instance) (workload_identity_state{cluster="`+s.name+`"}) and sum by (node, instance) (workload_identity_state{cluster="`+s.name+`",state="match"}) == 1`)
		nodes := map[string]bool{}
		for _, r := range states.Data.Result {
			nodes[r.Metric["node"]] = true
			if r.Value[1] != "1" {
				return fmt.Errorf("%v has %v states, want one", r.Metric, r.Value[1])
			}
		}
		if err == nil && (len(states.Data.Result) != 2 || !s.noNode && len(nodes) != 2) {
			err = fmt.Errorf("%v, want the state match of two nodes", states.Data.Result)
		}
		return err
	})
}

// pages waits until the node that is broken is paged, and no other.
func (p prometheus) pages(t *testing.T, c *cluster, s scrape, broken string) {
	t.Helper()
	want := broken
	if s.noNode {
		want = c.pods(t, s.in.namespace, 2)[broken]
	}
	eventually(t, func(ctx context.Context) error {
		var alerts struct {
			Data struct {
				Alerts []struct {
					Labels map[string]string
					State  string
				}
			}
		}
		err := p.ask(ctx, "api/v1/alerts", &alerts)
		nodes := map[string]bool{}
		for _, a := range alerts.Data.Alerts {
			if a.Labels["cluster"] == s.name && a.Labels["alertname"] == "WorkloadIdentityNodeFallback" && a.State == "firing" {
				nodes[a.Labels["node"]] = true
			}
		}
		if got := slices.Sorted(maps.Keys(nodes)); err == nil && !slices.Equal(got, []string{want}) {
			err = fmt.Errorf("%q are paged, want %s alone", got, want)
		}
		return err
	})
}
