package plugin_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

// world is a dump of a cluster: a ServiceAccount that is a Google service account, a
// Deployment's Pod of it, and its node. What is added to it is what is wrong.
type world struct{ account, pod, node, spec object }

func healthy() world {
	w := world{
		account: object{"kind": "ServiceAccount", "metadata": object{"name": "app", "namespace": "shop", "annotations": object{"iam.gke.io/gcp-service-account": app}}},
		node:    object{"kind": "Node", "metadata": object{"name": "n1", "labels": object{"kubernetes.io/os": "linux", "iam.gke.io/gke-metadata-server-enabled": "true"}}},
		spec: object{
			"nodeName": "n1", "serviceAccountName": "app",
			"containers": []object{{"name": "main", "env": []object{{"name": "GOOGLE_CLOUD_PROJECT", "value": "demo"}}}},
		},
	}
	w.pod = object{
		"kind": "Pod", "spec": w.spec, "status": object{"phase": "Running"},
		"metadata": object{
			"name": "app-6d5f-x", "namespace": "shop", "labels": object{"app": "app", "pod-template-hash": "6d5f"},
			"ownerReferences": []object{{"kind": "ReplicaSet", "name": "app-6d5f"}},
		},
	}
	return w
}

func (w world) meta(kind object, part string, values object) {
	m := kind["metadata"].(object)
	if m[part] == nil {
		m[part] = object{}
	}
	for k, v := range values {
		if v == nil {
			delete(m[part].(object), k)
			continue
		}
		m[part].(object)[k] = v
	}
}

func (w world) env(name, value string) {
	c := w.spec["containers"].([]object)[0]
	c["env"] = append(c["env"].([]object), object{"name": name, "value": value})
}

// dump is what kubectl would have written.
func dump(t testing.TB, w world, more ...object) string {
	t.Helper()
	out, err := json.Marshal(object{"kind": "List", "items": append([]object{w.account, w.pod, w.node, policy("others", object{"app": "else"}, nil)}, more...)})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func policy(name string, of object, egress []object) object {
	return object{
		"kind": "NetworkPolicy", "metadata": object{"name": name, "namespace": "shop"},
		"spec": object{"podSelector": object{"matchLabels": of}, "policyTypes": []string{"Egress"}, "egress": egress},
	}
}

func to(cidr string, ports ...object) object {
	return object{"to": []object{{"ipBlock": object{"cidr": cidr}}}, "ports": ports}
}

func audit(t testing.TB, text string) []string {
	t.Helper()
	i, err := plugin.ReadDump(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range plugin.Audit(i) {
		if f.Do == "" || f.What == "" || f.Evidence == "" {
			t.Errorf("a finding without evidence or remedy: %+v", f)
		}
		found = append(found, f.Code+" "+f.Object+": "+f.Evidence)
	}
	return found
}

// There is a case for each check, and nothing else is found in it.
func TestAuditFindsEachWrongThingAlone(t *testing.T) {
	const pods, account = "Deployment shop/app", "ServiceAccount shop/app"
	mine, dns := object{"app": "app"}, to("10.0.0.10/32", object{"port": 53, "protocol": "UDP"})
	tests := []struct {
		name string
		do   func(world) []object
		want []string
	}{
		{"nothing", func(world) []object { return nil }, nil},
		{"a member as annotation", func(w world) []object {
			w.meta(w.account, "annotations", object{"iam.gke.io/gcp-service-account": "serviceAccount:" + app})
			return nil
		}, []string{"WI001 " + account}},
		{"a misspelt key", func(w world) []object {
			w.meta(w.account, "annotations", object{"iam.gke.io/gcp-service-account": nil, "iam.gke.io/gcp-service-acount": app})
			return nil
		}, []string{"WI002 " + account + ": \"iam.gke.io/gcp-service-acount\""}},
		{"one account in two namespaces", func(world) []object {
			o := healthy()
			o.account["metadata"].(object)["namespace"], o.pod["metadata"].(object)["namespace"] = "pay", "pay"
			return []object{o.account, o.pod}
		}, []string{"WI003 Google service account " + app + ": pay/app, shop/app"}},
		{"no annotation", func(w world) []object {
			w.meta(w.account, "annotations", object{"iam.gke.io/gcp-service-account": nil})
			return nil
		}, []string{"WI004 " + account + ": main has GOOGLE_CLOUD_PROJECT"}},
		{"hostNetwork", func(w world) []object { w.spec["hostNetwork"] = true; return nil }, []string{"WI101 " + pods}},
		{"a key", func(w world) []object { w.env("GOOGLE_APPLICATION_CREDENTIALS", "/key.json"); return nil }, []string{"WI102 " + pods + ": container main: \"/key.json\""}},
		{"another metadata server", func(w world) []object { w.env("GCE_METADATA_HOST", "10.0.0.1"); return nil }, []string{"WI103 " + pods}},
		{"a proxy", func(w world) []object { w.env("http_proxy", "proxy:3128"); w.env("no_proxy", "10.0.0.0/8"); return nil }, []string{"WI104 " + pods}},
		{"a proxy with an exception", func(w world) []object {
			w.env("HTTP_PROXY", "proxy:3128")
			w.env("NO_PROXY", "10.0.0.0/8,169.254.169.254")
			return nil
		}, nil},
		{"a proxy for HTTPS", func(w world) []object { w.env("HTTPS_PROXY", "proxy:3128"); return nil }, nil},
		{"a policy that denies all", func(world) []object { return []object{policy("deny", mine, nil)} }, []string{"WI105 " + pods + ": deny select"}},
		{"a policy for DNS", func(world) []object { return []object{policy("dns", object{}, []object{dns})} }, []string{"WI105 " + pods + ": dns select"}},
		{"two policies, one allows", func(world) []object {
			return []object{policy("dns", object{}, []object{dns}), policy("gke", mine, []object{to("169.254.169.252/32", object{"port": 988})})}
		}, nil},
		{"a policy for all ports of the world", func(world) []object { return []object{policy("all", mine, []object{to("0.0.0.0/0")})} }, nil},
		{"a policy without link-local", func(world) []object {
			return []object{policy("all", mine, []object{{"to": []object{{"ipBlock": object{"cidr": "0.0.0.0/0", "except": []string{"169.254.0.0/16"}}}}}})}
		}, []string{"WI105 " + pods}},
		{"a policy for namespaces", func(world) []object {
			return []object{policy("ns", mine, []object{{"to": []object{{"namespaceSelector": object{}}}}})}
		}, []string{"WI105 " + pods}},
		{"a policy with a range of ports", func(world) []object {
			return []object{policy("range", mine, []object{to("169.254.0.0/16", object{"port": 80, "endPort": 1000})})}
		}, nil},
		{"a policy for UDP", func(world) []object {
			return []object{policy("udp", mine, []object{to("169.254.0.0/16", object{"port": 988, "protocol": "UDP"})})}
		}, []string{"WI105 " + pods}},
		{"a policy as for Dataplane V1 where Cilium runs", func(world) []object {
			cilium := object{"kind": "Pod", "metadata": object{"name": "anetd-1", "namespace": "kube-system", "labels": object{"k8s-app": "cilium"}}, "status": object{"phase": "Running"}}
			return []object{cilium, policy("gke", mine, []object{to("169.254.169.252/32", object{"port": 988})})}
		}, []string{"WI105 " + pods + ": gke select it for egress, and none allows TCP 169.254.169.254:80"}},
		{"a policy for ingress", func(world) []object {
			p := policy("in", mine, nil)
			p["spec"].(object)["policyTypes"] = []string{"Ingress"}
			return []object{p}
		}, nil},
		{"a sidecar", func(w world) []object {
			w.meta(w.pod, "annotations", object{"sidecar.istio.io/status": "{}"})
			return nil
		}, []string{"WI106 " + pods}},
		{"a sidecar that starts first", func(w world) []object {
			w.meta(w.pod, "annotations", object{"sidecar.istio.io/status": "{}"})
			w.spec["initContainers"] = []object{{"name": "istio-proxy"}}
			return nil
		}, nil},
		{"gVisor", func(w world) []object { w.spec["runtimeClassName"] = "gvisor"; return nil }, []string{"WI107 " + pods}},
		{"Windows", func(w world) []object {
			w.meta(w.node, "labels", object{"kubernetes.io/os": "windows"})
			return nil
		}, []string{"WI108 " + pods}},
		{"a node without the server", func(w world) []object {
			w.meta(w.node, "labels", object{"iam.gke.io/gke-metadata-server-enabled": nil})
			return nil
		}, []string{"WI201 Node n1"}},
		{"a Pod that has ended", func(w world) []object {
			w.spec["hostNetwork"] = true
			w.pod["status"] = object{"phase": "Succeeded"}
			return nil
		}, nil},
	}
	covered := map[string]bool{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := healthy()
			got := audit(t, dump(t, w, tt.do(w)...))
			if !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
		for _, w := range tt.want {
			covered[w[:5]] = true
		}
	}
	for _, c := range plugin.Checks() {
		if !covered[c.Code] {
			t.Errorf("%s has no case", c.Code)
		}
	}
}

// What was not read is no finding, and is named.
func TestAnAuditSaysWhatItHasNotRead(t *testing.T) {
	w := healthy()
	i, err := plugin.ReadDump(strings.NewReader(fmt.Sprintf(`{"kind":"PodList","items":[%s]}
{"kind":"ServiceAccountList","items":[%s]}`, mustJSON(t, w.pod), mustJSON(t, w.account))))
	if err != nil || !slices.Equal(i.Unread, []string{"Node", "NetworkPolicy"}) || len(plugin.Audit(i)) != 0 {
		t.Errorf("%v, unread %v, found %v", err, i.Unread, plugin.Audit(i))
	}
	for _, text := range []string{"", "apiVersion: v1", `{"kind":"Pod","spec":7}`, `{"kind":"List","items":[]}`, `{"kind":"PodList","items":[]}`} {
		if _, err := plugin.ReadDump(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken for a dump", text)
		}
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// listed is an API server that has as many objects as it is asked for.
func BenchmarkAudit(b *testing.B) {
	a := &apiServer{}
	for i := range 10_000 {
		w := healthy()
		w.account["metadata"].(object)["name"] = fmt.Sprintf("app-%d", i)
		w.account["metadata"].(object)["annotations"] = object{"iam.gke.io/gcp-service-account": fmt.Sprintf("app-%d@demo-project.iam.gserviceaccount.com", i)}
		a.accounts = append(a.accounts, w.account)
	}
	for i := range 150_000 {
		w := healthy()
		w.spec["serviceAccountName"], w.spec["nodeName"] = fmt.Sprintf("app-%d", i%10_000), fmt.Sprintf("n%d", i%5000)
		a.pods = append(a.pods, json.RawMessage(mustJSON(b, w.pod)))
	}
	for i := range 5000 {
		a.node(fmt.Sprintf("n%d", i), nil)
	}
	for i := range 1000 {
		a.policies = append(a.policies, policy(fmt.Sprintf("p%d", i), object{"app": strconv.Itoa(i)}, nil))
	}
	s := httptest.NewServer(a)
	defer s.Close()
	c, err := plugin.NewCluster(&rest.Config{Host: s.URL})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		i, err := plugin.ReadCluster(b.Context(), c, "")
		if err != nil {
			b.Fatal(err)
		}
		if found := plugin.Audit(i); len(found) != 0 || len(i.Pods) != 150_000 {
			b.Fatalf("%d Pods, %v", len(i.Pods), found)
		}
	}
}
