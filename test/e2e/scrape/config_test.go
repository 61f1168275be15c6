package scrape

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// config is a scrape configuration of Prometheus, and rule one of its relabel_configs.
type (
	config map[string]any
	rule   map[string]any
)

func from(source, target string) rule {
	return rule{"source_labels": []string{"__meta_kubernetes_pod_" + source}, "target_label": target}
}

func keep(source, regex string) rule {
	return rule{"source_labels": []string{"__meta_kubernetes_" + source}, "regex": regex, "action": "keep"}
}

func set(target, value string) rule { return rule{"target_label": target, "replacement": value} }

func job(name, namespace string, rules ...rule) config {
	all := []any{}
	for _, r := range rules {
		all = append(all, r)
	}
	return config{
		"job_name": name, "scrape_interval": "15s", "relabel_configs": all,
		"kubernetes_sd_configs": []any{map[string]any{"role": "pod", "namespaces": map[string]any{"names": []string{namespace}}}},
	}
}

// byOperator is what prometheus-operator makes of a PodMonitor or a ServiceMonitor.
func byOperator(t *testing.T, in *install, monitor string) config {
	t.Helper()
	input := marshal(t, in.one(t, monitor))
	if in.secret != nil {
		input += marshal(t, in.secret)
	}
	// The operator's sidecar fills in the number of the shard.
	text := strings.ReplaceAll(command(t, []byte(input), os.Getenv("OPERATOR")), "$(SHARD)", "0")
	var made struct {
		Scrape []config `json:"scrape_configs"`
	}
	must(t, yaml.Unmarshal([]byte(text), &made))
	if len(made.Scrape) != 1 {
		t.Fatalf("%d jobs, want one:\n%s", len(made.Scrape), text)
	}
	return made.Scrape[0]
}

// byGMP is what the operator of Managed Service for Prometheus makes of a
// PodMonitoring, but that each collector looks at its own node only. Source:
// GoogleCloudPlatform/prometheus-engine, pkg/operator/apis/monitoring/v1/pod_config.go.
func byGMP(t *testing.T, in *install) config {
	t.Helper()
	o := in.one(t, "PodMonitoring")
	selector, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
	metadata, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "targetLabels", "metadata")
	endpoints, _, _ := unstructured.NestedSlice(o.Object, "spec", "endpoints")
	if len(selector) == 0 || len(endpoints) != 1 {
		t.Fatalf("selector %v and endpoints %v, want one of each", selector, endpoints)
	}
	endpoint, _ := endpoints[0].(map[string]any)
	port, _ := endpoint["port"].(string)
	rules := []rule{
		set("project_id", "demo-project"), set("location", "europe-west1"), set("cluster", "c"),
	}
	for label, value := range selector {
		rules = append(rules, keep("pod_label_"+strings.NewReplacer(".", "_", "/", "_").Replace(label), value))
	}
	for _, m := range metadata {
		source := map[string]string{"node": "node_name", "pod": "name", "container": "container_name"}[m]
		rules = append(rules, from(source, m))
	}
	rules = append(rules,
		rule{"source_labels": []string{"__meta_kubernetes_namespace"}, "target_label": "namespace"},
		set("job", o.GetName()),
		rule{"source_labels": []string{"__meta_kubernetes_pod_phase"}, "regex": "(Failed|Succeeded)", "action": "drop"},
		keep("pod_container_port_name", port),
		// By the Pod, but for those of DaemonSets, which have one on each node.
		rule{"source_labels": []string{"__meta_kubernetes_pod_node_name"}, "replacement": "$1:" + port, "target_label": "instance"})
	c := job("PodMonitoring/"+o.GetNamespace()+"/"+o.GetName(), o.GetNamespace(), rules...)
	c["scrape_interval"], c["metrics_path"] = endpoint["interval"], endpoint["path"]
	if scheme, ok := endpoint["scheme"]; ok {
		c["scheme"] = scheme
	}
	if insecure, _, _ := unstructured.NestedBool(endpoint, "tls", "insecureSkipVerify"); insecure {
		c["tls_config"] = map[string]any{"insecure_skip_verify": true}
	}
	return c
}

// byAnnotations is how people find Pods by prometheus.io/scrape. Source:
// prometheus-community/helm-charts, charts/prometheus/values.yaml, the job kubernetes-pods,
// whose labels are others in each age of the chart.
func byAnnotations(namespace string, labels ...rule) config {
	c := job("kubernetes-pods", namespace, append([]rule{
		keep("pod_annotation_prometheus_io_scrape", "true"),
		{"source_labels": []string{"__meta_kubernetes_pod_annotation_prometheus_io_scheme"}, "regex": "(https?)", "target_label": "__scheme__"},
		{"source_labels": []string{"__meta_kubernetes_pod_annotation_prometheus_io_path"}, "regex": "(.+)", "target_label": "__metrics_path__"},
		{
			"source_labels": []string{"__meta_kubernetes_pod_ip", "__meta_kubernetes_pod_annotation_prometheus_io_port"},
			"regex":         `(.+);(\d+)`, "replacement": "$1:$2", "target_label": "__address__",
		},
		{"regex": "__meta_kubernetes_pod_label_(.+)", "action": "labelmap"},
	}, labels...)...)
	c["honor_labels"] = true
	return c
}

var (
	oldLabels = []rule{{"source_labels": []string{"__meta_kubernetes_namespace"}, "target_label": "kubernetes_namespace"}, from("name", "kubernetes_pod_name")}
	podLabels = []rule{{"source_labels": []string{"__meta_kubernetes_namespace"}, "target_label": "namespace"}, from("name", "pod")}
	newLabels = append(podLabels[:2:2], from("node_name", "node"))
)

// byDocs is the job that docs/install.md tells people to write, with the lines for TLS
// where they are needed.
func byDocs(t *testing.T, in *install) config {
	t.Helper()
	var jobs []config
	must(t, yaml.Unmarshal([]byte(strings.ReplaceAll(printed(t, "job_name:"), "names: ["+name+"]", "names: ["+in.namespace+"]")), &jobs))
	if len(jobs) != 1 {
		t.Fatalf("docs/install.md prints %d jobs, want one", len(jobs))
	}
	if in.secret != nil {
		must(t, yaml.Unmarshal([]byte(printed(t, "ca_file:")), &jobs[0]))
	}
	return jobs[0]
}

// linesForNode are those that docs/install.md tells people to add to a job of theirs.
func linesForNode(t *testing.T) []rule {
	t.Helper()
	var rules []rule
	must(t, yaml.Unmarshal([]byte(printed(t, "- source_labels:")), &rules))
	return rules
}

// printed is the one block of docs/install.md that has a first or a later line which
// begins like this, at its margin or as the first item of a list.
func printed(t *testing.T, beginning string) string {
	t.Helper()
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(read(t, "../../../docs/install.md"), -1) {
		if regexp.MustCompile(`(?m)^(- |  )?` + regexp.QuoteMeta(beginning)).MatchString(m[1]) {
			found = append(found, m[1])
		}
	}
	if len(found) != 1 {
		t.Fatalf("docs/install.md has %d blocks with %q, want one", len(found), beginning)
	}
	return found[0]
}
