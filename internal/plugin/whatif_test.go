package plugin_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/plugin"
)

func ciliumConfig(data object) object {
	return object{"kind": "ConfigMap", "metadata": object{"name": "cilium-config", "namespace": "cilium"}, "data": data}
}

func nodeConfig(name string, selector, defaults object) object {
	return object{
		"kind": "CiliumNodeConfig", "metadata": object{"name": name, "namespace": "cilium"},
		"spec": object{"nodeSelector": object{"matchLabels": selector}, "defaults": defaults},
	}
}

func ciliumPod(name, node, image string) object {
	return object{
		"kind": "Pod", "metadata": object{"name": name, "namespace": "cilium", "labels": object{"k8s-app": "cilium"}},
		"spec":   object{"nodeName": node, "hostNetwork": true, "containers": []object{{"name": "cilium-agent", "image": image}}},
		"status": object{"phase": "Running"},
	}
}

func redirectPolicy(port string, selector object) object {
	return object{
		"kind": "CiliumLocalRedirectPolicy", "metadata": object{"name": "metadata", "namespace": "kube-system"},
		"spec": object{
			"redirectFrontend": object{"addressMatcher": object{"ip": "169.254.169.254", "toPorts": []object{{"port": "80", "protocol": "TCP"}}}},
			"redirectBackend":  object{"localEndpointSelector": object{"matchLabels": selector}, "toPorts": []object{{"port": port, "protocol": "TCP"}}},
		},
	}
}

// clusterDump is one with self-managed Cilium on n1 and n2, of which the Pod runs on n1.
func clusterDump(t testing.TB, config object, more ...object) string {
	t.Helper()
	second := healthy().node
	second["metadata"].(object)["name"] = "n2"
	second["metadata"].(object)["labels"].(object)["pool"] = "b"
	data := object{"enable-bpf-masquerade": "false", "kube-proxy-replacement": "true"}
	maps.Copy(data, config)
	return dump(t, healthy(), append([]object{
		second, ciliumConfig(data),
		ciliumPod("cilium-a", "n1", "quay.io/cilium/cilium:v1.20.2@sha256:00"), ciliumPod("cilium-b", "n2", "quay.io/cilium/cilium:v1.20.2"),
	}, more...)...)
}

func forecast(t testing.TB, dump string, set []string, file string) plugin.Forecast {
	t.Helper()
	i, err := plugin.ReadDump(strings.NewReader(dump))
	if err != nil {
		t.Fatal(err)
	}
	var c plugin.Change
	if file != "" {
		if err := c.ReadFile([]byte(file)); err != nil {
			t.Fatal(err)
		}
	}
	if len(set) > 0 {
		if err := c.SetValues(set); err != nil {
			t.Fatal(err)
		}
	}
	return plugin.WhatIf(i, c)
}

func TestWhatAChangeOfCiliumDoes(t *testing.T) {
	masquerade := []string{"bpf.masquerade=true"}
	legacyOnB := nodeConfig("legacy", object{"pool": "b"}, object{"enable-host-legacy-routing": "true"})
	other := healthy()
	other.meta(other.pod, "ownerReferences", nil)
	other.pod["metadata"].(object)["name"] = "plain"
	other.spec["serviceAccountName"] = "default"
	withoutServer := healthy().node
	withoutServer["metadata"] = object{"name": "n3"}
	for _, tt := range []struct {
		name, dump string
		set        []string
		file       string
		nodes      []string // NAMES: NOW THEN
		pods       string   // NOW THEN of the Deployment
		says       string
		code       int
	}{
		{"BPF masquerading", clusterDump(t, nil), masquerade, "", []string{"n1,n2: own node"}, "own node", `enable-bpf-masquerade is "true", which turns on eBPF host routing`, 1},
		{"by the key", clusterDump(t, nil), []string{"enable-bpf-masquerade=true"}, "", []string{"n1,n2: own node"}, "own node", "", 1},
		{"with the remedy", clusterDump(t, nil), []string{"bpf.masquerade=true", "bpf.hostLegacyRouting=true"}, "", []string{"n1,n2: own own"}, "own own", `enable-host-legacy-routing is "true", with which Cilium does not route by eBPF`, 0},
		{"the remedy without tracking", clusterDump(t, nil), []string{"bpf.masquerade=true", "bpf.hostLegacyRouting=true", "installNoConntrackIptablesRules=true"}, "", []string{"n1,n2: own node"}, "own node", "passes no NAT", 1},
		{"one pool is other", clusterDump(t, nil, legacyOnB), masquerade, "", []string{"n1: own node", "n2: own own"}, "own node", `by the CiliumNodeConfig "legacy"`, 1},
		{"the Pod's pool is other", clusterDump(t, nil, nodeConfig("legacy", object{"iam.gke.io/gke-metadata-server-enabled": "true"}, object{"enable-host-legacy-routing": "true"})), masquerade, "", []string{"n1,n2: own own"}, "own own", "", 0},
		{"a CiliumNodeConfig of another namespace", clusterDump(t, nil, func() object {
			c := nodeConfig("legacy", object{}, object{"enable-host-legacy-routing": "true"})
			c["metadata"].(object)["namespace"] = "shop"
			return c
		}()), masquerade, "", []string{"n1,n2: own node"}, "own node", "", 1},
		{"it ends", clusterDump(t, object{"enable-bpf-masquerade": "true"}), []string{"bpf.masquerade=false"}, "", []string{"n1,n2: node own"}, "node own", "", 0},
		{"a change of nothing that is wrong already", clusterDump(t, object{"enable-bpf-masquerade": "true"}), []string{"ipv6.enabled=false"}, "", []string{"n1,n2: node node"}, "node node", "0 of them by this change", 1},
		{"Helm values", clusterDump(t, nil), nil, "bpf:\n  masquerade: true\nhubble: {enabled: true}\n", []string{"n1,n2: own node"}, "own node", `enable-bpf-masquerade: "false" becomes "true"`, 1},
		{"a whole ConfigMap", clusterDump(t, object{"enable-host-legacy-routing": "true"}), nil, `{"kind": "ConfigMap", "data": {"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true"}}`, []string{"n1,n2: own node"}, "own node", `enable-host-legacy-routing: "true" becomes not set`, 1},
		{"agents that do not start", clusterDump(t, nil), []string{"ipMasqAgent.enabled=true"}, "", []string{"n1,n2: own no_start"}, "own no_start", "do not start", 1},
		{"a setting that says nothing", clusterDump(t, nil), []string{"bpf.masquerade=perhaps"}, "", []string{"n1,n2: own unknown"}, "own unknown", "cannot be excluded", 3},
		{"a local redirect policy", clusterDump(t, object{"enable-local-redirect-policy": "true"}, redirectPolicy("988", object{"k8s-app": "gke-metadata-server"})), masquerade, "", []string{"n1,n2: own policy"}, "own policy", "It is kube-system/metadata.", 3},
		{"a local redirect policy that is not obeyed", clusterDump(t, nil, redirectPolicy("988", object{})), masquerade, "", []string{"n1,n2: own node"}, "own node", "", 1},
		{"other Pods", clusterDump(t, nil, other.pod), masquerade, "", []string{"n1,n2: own node"}, "own node", "Other Pods that get the node's rights: 1.", 1},
		{"a node without the server", clusterDump(t, nil, withoutServer), []string{"bpf.masquerade=false"}, "", []string{"n1,n2: own own", "n3: node node"}, "own own", "lack the label", 0},
		{"a Windows node, which Cilium has not", clusterDump(t, nil, object{"kind": "Node", "metadata": object{"name": "n4", "labels": object{"kubernetes.io/os": "windows"}}}), masquerade, "", []string{"n1,n2: own node"}, "own node", "", 1},
		{"Google's Cilium", clusterDump(t, nil, object{"kind": "Pod", "metadata": object{"name": "anetd-1", "namespace": "kube-system", "labels": object{"k8s-app": "cilium"}}}), masquerade, "", []string{"n1,n2: unknown unknown"}, "unknown unknown", "are Google's", 3},
		{"no Cilium", dump(t, healthy()), masquerade, "", []string{"n1: unknown unknown"}, "unknown unknown", "no ConfigMap cilium-config", 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := forecast(t, tt.dump, tt.set, tt.file)
			var nodes []string
			for _, n := range f.Nodes {
				nodes = append(nodes, strings.Join(n.Nodes, ",")+": "+string(n.Now)+" "+string(n.Then))
			}
			slices.Sort(nodes)
			if !slices.Equal(nodes, tt.nodes) {
				t.Errorf("nodes %q, want %q", nodes, tt.nodes)
			}
			if len(f.Pods) != 1 || f.Pods[0].Object != "Deployment shop/app" || string(f.Pods[0].Now+" "+f.Pods[0].Then) != tt.pods {
				t.Errorf("Pods %+v, want the Deployment: %s", f.Pods, tt.pods)
			}
			if f.ExitCode() != tt.code {
				t.Errorf("exit code %d, want %d", f.ExitCode(), tt.code)
			}
			var out strings.Builder
			if err := plugin.PrintForecast(&out, f, "wide"); err != nil || !strings.Contains(out.String(), tt.says) {
				t.Errorf("%v, it says\n%s\nwant %q", err, out.String(), tt.says)
			}
		})
	}
}

// A word that nobody knows is an error, not a forecast of no harm.
func TestAChangeMustBeKnown(t *testing.T) {
	for _, v := range []string{"bpf.masquerad=true", "bpf.masquerade", "hubble.enabled=true", "Enable-Bpf=true"} {
		if err := new(plugin.Change).SetValues([]string{v}); err == nil {
			t.Errorf("--set %s is taken", v)
		}
	}
	for _, text := range []string{"hubble: {enabled: true}", "kind: Deployment", "kind: ConfigMap", "- a", "a: [", ""} {
		if err := new(plugin.Change).ReadFile([]byte(text)); err == nil {
			t.Errorf("%q is taken for settings", text)
		}
	}
	for _, tt := range []struct{ set, key, value string }{
		{"encryption.enabled=true", "enable-ipsec", "true"},
		{"localRedirectPolicy=true", "enable-local-redirect-policy", "true"},
		{"extraConfig.enable-host-legacy-routing=true", "enable-host-legacy-routing", "true"},
		{"kubeProxyReplacement=strict", "kube-proxy-replacement", "strict"},
	} {
		var c plugin.Change
		if err := c.SetValues([]string{tt.set}); err != nil || c.Set[tt.key] != tt.value {
			t.Errorf("%s: %v, %v", tt.set, err, c.Set)
		}
	}
	var c plugin.Change
	if err := c.ReadFile([]byte("ipMasqAgent: {config: {masqLinkLocal: true}}")); err != nil || c.IPMasqAgent != "masqLinkLocal: true\n" {
		t.Errorf("%v, %q", err, c.IPMasqAgent)
	}
}

// The cluster is asked for Cilium's settings where Cilium's Pods are, by name.
func TestCiliumIsReadFromTheCluster(t *testing.T) {
	w := healthy()
	const configs, secondVersion = "/apis/cilium.io/v2/ciliumnodeconfigs", "/apis/cilium.io/v2alpha1/ciliumnodeconfigs"
	legacy := nodeConfig("legacy", object{}, object{"enable-host-legacy-routing": "true"})
	legacy["metadata"].(object)["namespace"] = "mine"
	pod := ciliumPod("cilium-a", "n1", "cilium:v1.20.2")
	pod["metadata"].(object)["namespace"] = "mine"
	server := func() *apiServer {
		config := ciliumConfig(object{"enable-bpf-masquerade": "true", "kube-proxy-replacement": "true"})
		config["metadata"].(object)["namespace"] = "mine"
		return &apiServer{
			accounts: []any{w.account}, pods: []any{w.pod, pod}, nodes: []any{w.node},
			lists:   map[string][]any{"/api/v1/namespaces/shop/pods": {w.pod}, "/api/v1/namespaces/shop/serviceaccounts": {w.account}},
			objects: map[string]any{"/api/v1/namespaces/mine/configmaps/cilium-config": config},
		}
	}
	for _, tt := range []struct {
		name, namespace, want, unread string
		change                        func(*apiServer)
	}{
		{"no kinds of Cilium", "", "node", "", func(*apiServer) {}},
		{"a CiliumNodeConfig", "", "own", "", func(a *apiServer) { a.lists[configs] = []any{legacy} }},
		{"one of before Cilium 1.16", "", "own", "", func(a *apiServer) { a.lists[secondVersion] = []any{legacy} }},
		{"one in both versions", "", "own", "", func(a *apiServer) { a.lists[configs], a.lists[secondVersion] = []any{legacy}, []any{legacy} }},
		{"CiliumNodeConfigs that may not be read", "", "unknown", "CiliumNodeConfig", func(a *apiServer) { a.forbidden = []string{configs, secondVersion} }},
		{"a ConfigMap that may not be read", "", "unknown", "ConfigMap", func(a *apiServer) { a.forbidden = []string{"/api/v1/namespaces/mine/configmaps/cilium-config"} }},
		{"one namespace", "shop", "node", "", func(*apiServer) {}},
		{"one namespace, and no other Pods may be read", "shop", "unknown", "Pod of Cilium", func(a *apiServer) { a.forbidden = []string{"/api/v1/pods"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := server()
			tt.change(a)
			i, err := plugin.ReadCluster(t.Context(), cluster(t, a), tt.namespace)
			if err != nil {
				t.Fatal(err)
			}
			f := plugin.WhatIf(i, plugin.Change{Set: map[string]string{}})
			if len(i.NodeConfigs) > 1 {
				t.Errorf("%d CiliumNodeConfigs, want the one", len(i.NodeConfigs))
			}
			if len(f.Nodes) != 1 || string(f.Nodes[0].Then) != tt.want {
				t.Errorf("%+v, want one group: %s", f.Nodes, tt.want)
			}
			if got := strings.Join(slices.DeleteFunc(i.Unread, func(k string) bool { return k == "NetworkPolicy" }), ","); got != tt.unread {
				t.Errorf("unread %q, want %q", got, tt.unread)
			}
		})
	}
}
