package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

const (
	root  = "../.."
	chart = root + "/deploy/chart"
)

func TestWhatIsCommittedIsGenerated(t *testing.T) {
	files, err := generated(root)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range files {
		got, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is out of date: run `make generate`", path)
		}
	}
}

func load(t *testing.T, folder string) []example {
	t.Helper()
	all, err := examples("testdata/" + folder)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func rendered(t *testing.T, values map[string]any) release {
	t.Helper()
	r, err := template(chart, namespace, namespace, values)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Whichever of the two people take, they get the same.
func TestTheChartGivesWhatTheOverlaysGive(t *testing.T) {
	var compared []string
	for _, e := range load(t, "rendered") {
		r := rendered(t, e.values)
		if e.overlay == "" {
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			objects, err := build(filepath.Join(root, e.overlay))
			if err != nil {
				t.Fatal(err)
			}
			want, got := byID(t, objects), byID(t, r.objects)
			// A release cannot make the namespace that it is in; NOTES.txt says how to label it.
			delete(want, "v1 Namespace "+namespace)
			for id := range got {
				if want[id] == "" {
					t.Errorf("only the chart has %s", id)
				}
			}
			for id := range want {
				switch {
				case got[id] == "":
					t.Errorf("the chart lacks %s", id)
				case got[id] != want[id]:
					t.Errorf("%s differs: only the chart has\n%sonly the overlay has\n%s", id, only(got[id], want[id]), only(want[id], got[id]))
				}
			}
		})
		compared = append(compared, filepath.Join(root, e.overlay))
	}
	all, err := overlays(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		// Dashboards are installed where Grafana is, and not by the chart.
		if !slices.Contains(compared, o) && !strings.HasPrefix(filepath.Base(o), "grafana-") {
			t.Errorf("no example in testdata/rendered is compared with %s", o)
		}
	}
}

// only are the lines of a text that another has not.
func only(text, other string) string {
	var lines strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains("\n"+other, "\n"+line) {
			lines.WriteString(line)
		}
	}
	return lines.String()
}

// inOrder brings the lists whose order means nothing, since the API server takes
// them for maps, into one, and leaves out those that are empty.
func inOrder(value any) any {
	switch v := value.(type) {
	case []any:
		for i := range v {
			v[i] = inOrder(v[i])
		}
	case map[string]any:
		for name, inner := range v {
			list, ok := inOrder(inner).([]any)
			switch {
			case ok && len(list) == 0:
				delete(v, name)
			case ok && slices.Contains([]string{"env", "volumes", "volumeMounts"}, name):
				slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
		}
	}
	return value
}

// anyNamespace is how the policies of Kustomize name the agent.
const anyNamespace = `username.matches("^system:serviceaccount:[^:]+:` + namespace + `$")`

// byID are the objects as text, without the labels that only Helm's have.
func byID(t *testing.T, objects []object) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, o := range objects {
		if labels, ok := o.metadata()["labels"].(map[string]any); ok {
			maps.DeleteFunc(labels, func(name string, _ any) bool {
				return slices.Contains([]string{"app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"}, name)
			})
		}
		if texts[o.id()] != "" {
			t.Errorf("%s is there twice", o.id())
		}
		inOrder(map[string]any(o))
		texts[o.id()] = strings.NewReplacer("PROJECT_ID", "my-project", // which the chart refuses
			`username == "system:serviceaccount:`+namespace+":"+namespace+`"`, anyNamespace).Replace(o.String()) // which the chart knows
	}
	return texts
}

// As `helm lint --strict`, which fails for warnings.
func TestHelmFindsNothingWrong(t *testing.T) {
	for _, e := range load(t, "rendered") {
		for _, m := range lint.All(chart, e.values, namespace, true).Messages {
			if m.Severity >= support.WarningSev {
				t.Errorf("%s: %v", e.name, m)
			}
		}
	}
}

// Nothing but these may be asked of the API server, by any overlay.
func TestNobodyGetsMoreThanIsKnown(t *testing.T) {
	known := []string{
		`Role "workload-identity-exporter": get [""] ["serviceaccounts"] ["workload-identity-exporter"]`,
		`Role "kube-system": get [""] ["configmaps"] ["cilium-config" "ip-masq-agent"]`,
		`Role "kube-system": get ["apps"] ["daemonsets"] ["anetd"]`,
		`Role "kube-system": get ["apps"] ["daemonsets"] ["cilium"]`,
		`Role "kube-system": list ["cilium.io"] ["ciliumnodeconfigs"] []`,
		`Role "kube-system": list [""] ["pods"] []`,
		`Role "workload-identity-exporter": create,patch [""] ["events"] []`,
		`Role "default": create,patch [""] ["events"] []`,
		`ClusterRole "": get [""] ["nodes"] []`,
		`ClusterRole "": patch [""] ["nodes/status"] []`,
	}
	all, err := overlays(root)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, folder := range all {
		for _, o := range kustomized(t, folder) {
			kind, _ := o["kind"].(string)
			if !strings.HasSuffix(kind, "Role") {
				continue
			}
			var role struct {
				Metadata struct{ Namespace string }
				Rules    []struct{ APIGroups, Resources, ResourceNames, Verbs []string }
			}
			decode(t, o, &role)
			for _, r := range role.Rules {
				rule := fmt.Sprintf("%s %q: %s %q %q %q", kind, role.Metadata.Namespace, strings.Join(r.Verbs, ","), r.APIGroups, r.Resources, r.ResourceNames)
				seen[rule] = true
				if !slices.Contains(known, rule) {
					t.Errorf("%s: %s allows %s", folder, o.id(), rule)
				}
			}
		}
	}
	for _, rule := range known {
		if !seen[rule] {
			t.Errorf("nobody allows %s", rule)
		}
	}
}

func kustomized(t *testing.T, folder string) []object {
	t.Helper()
	objects, err := build(folder)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func decode(t *testing.T, o object, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(o.String()), into); err != nil {
		t.Fatalf("%s: %v", o.id(), err)
	}
}

// Who may write has the policy that bounds it.
func TestWhoMayWriteIsBound(t *testing.T) {
	all, err := overlays(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range all {
		var may, bound []string
		for _, o := range kustomized(t, folder) {
			name, _ := o.metadata()["name"].(string)
			switch o["kind"] {
			case "Role", "ClusterRole":
				if strings.Contains(o.String(), "- create") || strings.Contains(o.String(), "- patch") {
					may = append(may, name)
				}
			case "ValidatingAdmissionPolicyBinding":
				bound = append(bound, name)
				if strings.HasSuffix(name, "-events") { // in two namespaces
					bound = append(bound, strings.Replace(name, "-events", "-node-events", 1))
				}
			}
		}
		slices.Sort(may)
		slices.Sort(bound)
		if may = slices.Compact(may); !slices.Equal(may, bound) {
			t.Errorf("%s: %v may write, and %v are bound", folder, may, bound)
		}
	}
}

// Nothing in the Pod of any overlay is more than it needs; that it meets the
// restricted standard, the API server says in test/e2e/cluster.
func TestThePodIsAsSmallAsItCanBe(t *testing.T) {
	all, err := overlays(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range all {
		for _, o := range kustomized(t, folder) {
			if o["kind"] != "DaemonSet" {
				continue
			}
			var d struct {
				Spec struct{ Template corev1.PodTemplateSpec }
			}
			decode(t, o, &d)
			spec := d.Spec.Template.Spec
			c := spec.Containers[0]
			if spec.HostNetwork || spec.HostPID || spec.HostIPC || len(spec.Containers) != 1 || len(c.Ports) != 1 || c.Ports[0].HostPort != 0 {
				t.Errorf("%s: the Pod takes part in its node", folder)
			}
			s := c.SecurityContext
			if s == nil || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || len(s.Capabilities.Add) > 0 || *spec.SecurityContext.RunAsUser == 0 {
				t.Errorf("%s: the container may do more than read", folder)
			}
			if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
				t.Errorf("%s: the Pod's token is mounted by itself", folder)
			}
			if c.Resources.Limits.Cpu().Sign() != 0 {
				t.Errorf("%s: a limit of CPU, which would look like a slow metadata server", folder)
			}
			token := false
			for _, v := range spec.Volumes {
				if v.Projected == nil {
					continue
				}
				for _, p := range v.Projected.Sources {
					if p.ServiceAccountToken != nil {
						token = true
						if e := p.ServiceAccountToken.ExpirationSeconds; e == nil || *e > 3600 {
							t.Errorf("%s: the token is valid for more than an hour", folder)
						}
					}
				}
			}
			if offline := strings.HasSuffix(folder, "expected-emails"); token == offline {
				t.Errorf("%s: token mounted: %v", folder, token)
			}
			for _, e := range c.Env {
				if e.Name == "GOMEMLIMIT" {
					// Go writes 50MiB for what Kubernetes writes as 50Mi.
					soft, err := resource.ParseQuantity(strings.TrimSuffix(e.Value, "B"))
					if hard := c.Resources.Limits.Memory(); err != nil || soft.Value() < hard.Value()*7/10 || soft.Value() > hard.Value()*9/10 {
						t.Errorf("%s: GOMEMLIMIT %s is not 70 to 90 %% of the limit of %s: %v", folder, e.Value, hard, err)
					}
				}
			}
		}
	}
}

// podTemplates are those of the Pods that any overlay or example of the chart makes, by
// where they come from.
func podTemplates(t *testing.T) map[string]corev1.PodTemplateSpec {
	t.Helper()
	found := map[string]corev1.PodTemplateSpec{}
	add := func(from string, objects []object) {
		for _, o := range objects {
			switch o["kind"] {
			case "DaemonSet":
				var d struct {
					Spec struct{ Template corev1.PodTemplateSpec }
				}
				decode(t, o, &d)
				found[from+": "+o.id()] = d.Spec.Template
			case "Pod":
				var pod corev1.PodTemplateSpec
				decode(t, o, &pod)
				found[from+": "+o.id()] = pod
			}
		}
	}
	all, err := overlays(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range all {
		add(folder, kustomized(t, folder))
	}
	for _, e := range load(t, "rendered") {
		r := rendered(t, e.values)
		add(e.name, append(r.objects, r.tests...))
	}
	return found
}

// The toleration of every taint is also one of node.kubernetes.io/os=windows:NoSchedule,
// and the image is for Linux only: the agent's Pods would wait there for ever, and the
// rollout with them (OneUptime/oneuptime#3041, prometheus-community/helm-charts#3528).
func TestNoPodIsForAWindowsNode(t *testing.T) {
	for from, pod := range podTemplates(t) {
		if got := pod.Spec.NodeSelector[corev1.LabelOSStable]; got != "linux" {
			t.Errorf("%s: the nodeSelector has %s=%q, want linux", from, corev1.LabelOSStable, got)
		}
	}
}

// The proxy of a mesh would ask the metadata server in the agent's place.
func TestNoPodIsInAMesh(t *testing.T) {
	for from, pod := range podTemplates(t) {
		if l := pod.Labels; l["sidecar.istio.io/inject"] != "false" || l["istio.io/dataplane-mode"] != "none" {
			t.Errorf("%s has the labels %v", from, l)
		}
	}
}

// The agent takes the setting for a proof of the node's label, so it must not be there
// without the nodeSelector; and where that is, the proof must not be lost.
func TestTheAgentIsToldOfTheNodeSelector(t *testing.T) {
	with, without := 0, 0
	for from, pod := range podTemplates(t) {
		value := ""
		for _, e := range pod.Spec.Containers[0].Env {
			if e.Name == "WI_ONLY_METADATA_SERVER_NODES" {
				value = e.Value
			}
		}
		want := pod.Spec.NodeSelector["iam.gke.io/gke-metadata-server-enabled"]
		if value != want {
			t.Errorf("%s: WI_ONLY_METADATA_SERVER_NODES=%q, and the nodeSelector wants the label to be %q", from, value, want)
		}
		if want == "true" {
			with++
		} else {
			without++
		}
	}
	if with == 0 || without == 0 {
		t.Errorf("%d Pods with the nodeSelector and %d without, want some of both", with, without)
	}
}

// Where a local redirect policy of Cilium works and GKE's metadata server is its
// backend, in the node's network, the agent's request is judged as one to port 988 of
// the host; measured with Cilium 1.20.2, which dropped it. Of the host's other ports
// the agent wants none.
func TestACiliumNetworkPolicyAllowsTheMetadataServerBehindALocalRedirect(t *testing.T) {
	policies := map[string][]object{"overlays/cilium": kustomized(t, root+"/deploy/kustomize/overlays/cilium")}
	for _, e := range load(t, "rendered") {
		policies[e.name] = rendered(t, e.values).objects
	}
	count := 0
	for from, objects := range policies {
		for _, o := range objects {
			if o["kind"] != "CiliumNetworkPolicy" {
				continue
			}
			count++
			var policy struct {
				Spec struct {
					Egress []struct {
						ToEntities []string
						ToPorts    []struct {
							Ports []struct{ Port, Protocol string }
						}
					}
				}
			}
			decode(t, o, &policy)
			var got []string
			for _, rule := range policy.Spec.Egress {
				if slices.ContainsFunc(rule.ToEntities, func(e string) bool { return e != "kube-apiserver" }) {
					got = append(got, fmt.Sprintf("%v %v", rule.ToEntities, rule.ToPorts))
				}
			}
			if want := []string{"[host] [{[{988 TCP}]}]"}; !slices.Equal(got, want) {
				t.Errorf("%s: the rules for what is not the API server are %v, want %v", from, got, want)
			}
		}
	}
	if count < 4 {
		t.Errorf("%d policies, want that of the overlay and those of three examples", count)
	}
}

func TestPrometheusOperatorReadsThePodMonitor(t *testing.T) {
	for _, folder := range []string{root + "/deploy/kustomize/overlays/prometheus-operator", "testdata/kustomize/everything"} {
		found := false
		for _, o := range kustomized(t, folder) {
			if o["kind"] != "PodMonitor" {
				continue
			}
			found = true
			var m monitoringv1.PodMonitor
			if err := yaml.UnmarshalStrict([]byte(o.String()), &m); err != nil {
				t.Fatal(err)
			}
			e := m.Spec.PodMetricsEndpoints[0]
			if len(e.RelabelConfigs) != 1 || e.RelabelConfigs[0].TargetLabel != "node" {
				t.Errorf("%s: the label node, which the alert rules need, is not set", folder)
			}
		}
		if !found {
			t.Errorf("%s has no PodMonitor", folder)
		}
	}
}

// The arithmetic of docs/alerting.md is about the interval that is shipped.
func TestTheScrapeIntervalIsTheOneOfTheArithmetic(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/alerting.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`\| the next scrape \| (\d+) s \|`).FindSubmatch(text)
	if m == nil {
		t.Fatal("docs/alerting.md has no row for the scrape")
	}
	want := "interval: " + string(m[1]) + "s"
	for _, overlay := range []string{"prometheus-operator", "gmp"} {
		found := false
		for _, o := range kustomized(t, root+"/deploy/kustomize/overlays/"+overlay) {
			if kind, _ := o["kind"].(string); strings.HasPrefix(kind, "PodMonitor") {
				found = strings.Contains(o.String(), want)
			}
		}
		if !found {
			t.Errorf("%s: want %s", overlay, want)
		}
	}
}

// The schema knows the agent's variables, and all that the rules need.
func TestTheSchemaKnowsAllSettings(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(WI_\\w+)`").FindAllSubmatch(text, -1) {
		want = append(want, string(m[1]))
	}
	schema, err := os.ReadFile(chart + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Properties struct {
			Settings struct{ Properties map[string]any }
		}
	}
	if err := yaml.Unmarshal(schema, &s); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(s.Properties.Settings.Properties)); !slices.Equal(got, want) {
		t.Errorf("values.schema.json: the settings are\n%v, want\n%v", got, want)
	}
}

// What NOTES.txt tells people to do next.
func TestTheNotesHaveThreeCommands(t *testing.T) {
	for _, e := range load(t, "rendered") {
		notes := rendered(t, e.values).notes
		commands := regexp.MustCompile(`(?m)^   (gcloud|kubectl|helm) `).FindAllString(notes, -1)
		if len(commands) != 3 {
			t.Errorf("%s: %d commands, want 3:\n%s", e.name, len(commands), notes)
		}
	}
}

// Where nobody scrapes, the notes say so.
func TestTheNotesTellWhoDoesNotScrape(t *testing.T) {
	for _, e := range load(t, "rendered") {
		monitoring, _ := e.values["monitoring"].(map[string]any)
		none := monitoring["kind"] == nil
		if notes := rendered(t, e.values).notes; strings.Contains(notes, "NOBODY SCRAPES") != none {
			t.Errorf("%s: monitoring.kind=none: %v, and the notes are\n%s", e.name, none, notes)
		}
	}
}

// The Pod of `helm test` must not be taken for an agent.
func TestTheChecksPodIsNoAgent(t *testing.T) {
	for _, e := range load(t, "rendered") {
		r := rendered(t, e.values)
		if len(r.tests) != 1 {
			t.Fatalf("%s: %d tests, want 1", e.name, len(r.tests))
		}
		var pod corev1.Pod
		decode(t, r.tests[0], &pod)
		if name := pod.Labels["app.kubernetes.io/name"]; !strings.HasSuffix(name, "-check") {
			t.Errorf("%s: the label is %s", e.name, name)
		}
		if got := pod.Spec.Containers[0].Args; !slices.Equal(got, []string{"check", "-wait=1m"}) {
			t.Errorf("%s: its arguments are %v, want check -wait=1m", e.name, got)
		}
	}
}

// What people copy from the documentation must be a kustomization.
func TestTheKustomizationOfTheDocumentationIsOne(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml\n(apiVersion: kustomize.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatal("docs/install.md has no kustomization")
	}
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	local, err := filepath.Rel(folder, here)
	if err != nil {
		t.Fatal(err)
	}
	file := regexp.MustCompile(`github\.com/workload-identity-exporter/workload-identity-exporter/(\S+)\?ref=\S+`).ReplaceAll(m[1], []byte(local+"/$1"))
	if err := os.WriteFile(folder+"/kustomization.yaml", file, 0o600); err != nil {
		t.Fatal(err)
	}
	metadata, err := chartutil.LoadChartfile(chart + "/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprint(kustomized(t, folder))
	for _, want := range []string{"image: REGISTRY/workload-identity-exporter:" + metadata.Version, "iam.gke.io/gcp-service-account: workload-identity-exporter@my-project.iam"} {
		if !strings.Contains(all, want) {
			t.Errorf("it does not give %q", want)
		}
	}
}

// `kubectl kustomize ... | sed` of the documentation must hit what it is for, and
// nothing else.
func TestTheOneLineOfTheDocumentationHitsWhatItShould(t *testing.T) {
	text := string(file(kustomized(t, root+"/deploy/kustomize/overlays/gmp")))
	if n := strings.Count(text, "PROJECT_ID"); n != 1 {
		t.Errorf("PROJECT_ID is there %d times, want once", n)
	}
	doc, err := os.ReadFile(root + "/docs/install.md")
	if err != nil || !strings.Contains(string(doc), "sed 's/PROJECT_ID/my-project/'") {
		t.Errorf("docs/install.md has another command: %v", err)
	}
}
