package plugin_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

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
		if f.Do == "" || f.What == "" || f.Evidence == "" || f.Link == "" {
			t.Errorf("a finding without evidence, remedy or link: %+v", f)
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
		{"a key from a Secret", func(w world) []object {
			w.env("GOOGLE_APPLICATION_CREDENTIALS", "/var/secrets/google/key.json")
			w.spec["volumes"] = []object{{"name": "key", "secret": object{"secretName": "app-key"}}}
			w.spec["containers"].([]object)[0]["volumeMounts"] = []object{{"name": "key", "mountPath": "/var/secrets/google"}}
			return nil
		}, []string{"WI109 " + pods + `: container main: "/var/secrets/google/key.json" is from the Secret app-key`}},
		{"a Secret that is mounted elsewhere", func(w world) []object {
			w.env("GOOGLE_APPLICATION_CREDENTIALS", "/var/secrets/google-key.json")
			w.spec["volumes"] = []object{{"name": "key", "secret": object{"secretName": "app-key"}}}
			w.spec["containers"].([]object)[0]["volumeMounts"] = []object{{"name": "key", "mountPath": "/var/secrets/google"}}
			return nil
		}, []string{"WI102 " + pods}},
		{"a token for Google", func(w world) []object {
			w.meta(w.account, "annotations", object{"iam.gke.io/gcp-service-account": nil})
			w.spec["containers"].([]object)[0]["env"] = []object{}
			w.spec["volumes"] = []object{{"name": "t", "projected": object{"sources": []object{{"serviceAccountToken": object{"audience": "demo-project.svc.id.goog"}}}}}}
			return nil
		}, []string{"WI004 " + account + `: a volume is a token for "demo-project.svc.id.goog"`}},
		{"a token for another", func(w world) []object {
			w.meta(w.account, "annotations", object{"iam.gke.io/gcp-service-account": nil})
			w.spec["containers"].([]object)[0]["env"] = []object{}
			w.spec["volumes"] = []object{{"name": "t", "projected": object{"sources": []object{{"serviceAccountToken": object{"audience": "vault"}}}}}}
			return nil
		}, nil},
		{"Cilium is not ready", func(w world) []object {
			w.node["spec"] = object{"taints": []object{{"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"}}}
			return nil
		}, []string{"WI202 Node n1"}},
		{"Cilium, and all is well", func(world) []object { return selfManaged(nil) }, nil},
		{"host routing", func(world) []object { return selfManaged(bpf) }, []string{"WI301 Node n1: enable-host-legacy-routing is not set, kube-proxy-replacement is"}},
		{"host routing of Google's Cilium", func(world) []object {
			return append(selfManaged(bpf), object{"kind": "Pod", "metadata": object{"name": "anetd-1", "namespace": "kube-system", "labels": object{"k8s-app": "cilium"}}})
		}, nil},
		{"no connection tracking", func(world) []object {
			return selfManaged(object{"enable-bpf-masquerade": "true", "enable-host-legacy-routing": "true", "install-no-conntrack-iptables-rules": "true"})
		}, []string{"WI302 Node n1"}},
		{"a node of its own", func(world) []object {
			return append(selfManaged(bpf), nodeConfig("legacy", object{"kubernetes.io/os": "linux"}, object{"enable-host-legacy-routing": "true", "debug": "true"}))
		}, []string{`WI305 CiliumNodeConfig cilium/legacy: on 1 of 1 nodes enable-host-legacy-routing is "true"`}},
		{"a node of its own, in what does not matter", func(world) []object {
			return append(selfManaged(nil), nodeConfig("debug", object{}, object{"debug": "true"}))
		}, nil},
		{"masquerading of link-local addresses", func(world) []object {
			return []object{{"kind": "ConfigMap", "metadata": object{"name": "ip-masq-agent", "namespace": "kube-system"}, "data": object{"config": "masqLinkLocal: true"}}}
		}, []string{"WI304 Node n1: by the settings requests to the metadata server may leave"}},
		{"a local redirect policy", func(world) []object {
			return append(selfManaged(bpfAndRedirect), redirectPolicy("988", object{"k8s-app": "gke-metadata-server"}), metadataPod("True", "--addr=:988"))
		}, []string{"WI303 Node n1"}},
		{"one whose backend is not ready", func(world) []object {
			return append(selfManaged(bpfAndRedirect), redirectPolicy("988", object{"k8s-app": "gke-metadata-server"}), metadataPod("False", ""))
		}, []string{"WI306 CiliumLocalRedirectPolicy kube-system/metadata: no Pod that it selects is ready on n1", "WI303 Node n1"}},
		{"one whose backend is not ready, and GKE's rule behind it", func(world) []object {
			return append(selfManaged(object{"enable-local-redirect-policy": "true"}), redirectPolicy("988", object{"k8s-app": "gke-metadata-server"}), metadataPod("False", ""))
		}, nil},
		{"one whose backend listens elsewhere", func(world) []object {
			return append(selfManaged(object{"enable-local-redirect-policy": "true"}), redirectPolicy("988", object{"k8s-app": "gke-metadata-server"}), metadataPod("True", "--addr=169.254.169.252:988"))
		}, []string{"WI307 CiliumLocalRedirectPolicy kube-system/metadata"}},
		{"one for something else", func(world) []object {
			p := redirectPolicy("988", object{"k8s-app": "gke-metadata-server"})
			p["spec"].(object)["redirectFrontend"].(object)["addressMatcher"].(object)["ip"] = "169.254.20.10"
			return append(selfManaged(object{"enable-local-redirect-policy": "true"}), p, metadataPod("True", "--addr=169.254.169.252:988"))
		}, nil},
		{"an egress gateway for the world", func(world) []object { return append(selfManaged(gatewayOn), egressGateway(mine)) }, []string{"WI308 CiliumEgressGatewayPolicy out: destinationCIDRs have 0.0.0.0/0"}},
		{"an egress gateway without link-local addresses", func(world) []object {
			return append(selfManaged(gatewayOn), egressGateway(mine, "10.0.0.0/8", "169.254.0.0/16"))
		}, nil},
		{"an egress gateway for others", func(world) []object { return append(selfManaged(gatewayOn), egressGateway(object{"app": "else"})) }, nil},
		{"an egress gateway by what namespaces lack, which is not known", func(world) []object {
			g := egressGateway(mine)
			g["spec"].(object)["selectors"].([]object)[0]["namespaceSelector"] = object{"matchExpressions": []object{{"key": "team", "operator": "DoesNotExist"}}}
			return append(selfManaged(gatewayOn), g)
		}, nil},
		{"an egress gateway that is off", func(world) []object { return append(selfManaged(nil), egressGateway(mine)) }, nil},
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
		if !covered[c.Code] && !strings.HasPrefix(c.Code, "WI4") { // those are IAM's
			t.Errorf("%s has no case", c.Code)
		}
	}
}

var (
	bpf            = object{"enable-bpf-masquerade": "true"}
	bpfAndRedirect = object{"enable-bpf-masquerade": "true", "enable-local-redirect-policy": "true"}
	gatewayOn      = object{"enable-egress-gateway": "true"}
)

// selfManaged is Cilium with kube-proxy replacement, and iptables for masquerading.
func selfManaged(config object) []object {
	data := object{"enable-bpf-masquerade": "false", "kube-proxy-replacement": "true"}
	maps.Copy(data, config)
	return []object{ciliumConfig(data), ciliumPod("cilium-a", "n1", "quay.io/cilium/cilium:v1.20.2")}
}

func metadataPod(ready, arg string) object {
	return object{
		"kind": "Pod", "metadata": object{"name": "gke-metadata-server-x", "namespace": "kube-system", "labels": object{"k8s-app": "gke-metadata-server"}},
		"spec":   object{"nodeName": "n1", "hostNetwork": true, "containers": []object{{"name": "server", "args": []string{arg}}}},
		"status": object{"phase": "Running", "conditions": []object{{"type": "Ready", "status": ready}}},
	}
}

func egressGateway(of object, excluded ...string) object {
	return object{"kind": "CiliumEgressGatewayPolicy", "metadata": object{"name": "out"}, "spec": object{
		"selectors":        []object{{"podSelector": object{"matchLabels": of}, "namespaceSelector": object{"matchLabels": object{"kubernetes.io/metadata.name": "shop"}}}},
		"destinationCIDRs": []string{"0.0.0.0/0"}, "excludedCIDRs": excluded,
	}}
}

// Cilium's policies are evaluated by what is known of Cilium 1.20; what cannot be told is
// no finding.
func TestCiliumPoliciesAreEvaluated(t *testing.T) {
	entities := func(e ...string) object { return object{"toEntities": e} }
	cidr := func(c ...string) object { return object{"toCIDR": c} }
	port := func(rule object, port, protocol string) object {
		rule["toPorts"] = []object{{"ports": []object{{"port": port, "protocol": protocol}}}}
		return rule
	}
	app := object{"matchLabels": object{"app": "app"}}
	cnp := func(selector object, egress ...object) object {
		return object{"kind": "CiliumNetworkPolicy", "metadata": object{"name": "p", "namespace": "shop"}, "spec": object{"endpointSelector": selector, "egress": egress}}
	}
	deny := func(rules ...object) object {
		p := cnp(app)
		p["spec"].(object)["egressDeny"] = rules
		return p
	}
	with := func(p object, kind, namespace string) object {
		p["kind"], p["metadata"] = kind, object{"name": "p", "namespace": namespace}
		return p
	}
	part := func(p object, name string, value any) object { p["spec"].(object)[name] = value; return p }
	const none = "p select it for egress, and none allows TCP 169.254.169.254:80"
	for _, tt := range []struct {
		name string
		what []object
		want string // the end of the evidence, empty for no finding
	}{
		{"a host is not the metadata server (Smana/runlore#562, tried on GKE)", []object{cnp(app, port(entities("host"), "80", "TCP"))}, none},
		{"nor is the cluster", []object{cnp(app, entities("cluster", "kube-apiserver", "remote-node"))}, none},
		{"the world is", []object{cnp(app, entities("world"))}, ""},
		{"all is", []object{cnp(app, entities("all"))}, ""},
		{"the world of IPv4, which it is with IPv6 beside it (cilium/cilium#29958)", []object{cnp(app, entities("world-ipv4"))}, ""},
		{"the world of IPv6", []object{cnp(app, entities("world-ipv6"))}, none},
		{"the address (Smana/runlore#562)", []object{cnp(app, port(cidr("169.254.169.254/32"), "80", "TCP"))}, ""},
		{"GKE's own address, as for Dataplane V1", []object{cnp(app, port(cidr("169.254.169.252/32"), "988", "TCP"))}, none},
		{"another port", []object{cnp(app, port(cidr("169.254.169.254/32"), "443", "TCP"))}, none},
		{"another protocol", []object{cnp(app, port(cidr("169.254.169.254/32"), "80", "UDP"))}, none},
		{"any protocol", []object{cnp(app, port(cidr("169.254.169.254/32"), "80", "ANY"))}, ""},
		{"all ports", []object{cnp(app, port(cidr("0.0.0.0/0"), "0", "TCP"))}, ""},
		{"a port of any peer", []object{cnp(app, port(object{}, "80", "TCP"))}, ""},
		{"an empty rule, which allows nothing", []object{cnp(app, object{})}, none},
		{"a set with an exception", []object{cnp(app, object{"toCIDRSet": []object{{"cidr": "0.0.0.0/0", "except": []string{"169.254.0.0/16"}}}})}, none},
		{"a set", []object{cnp(app, object{"toCIDRSet": []object{{"cidr": "169.254.0.0/16"}}})}, ""},
		{"a group of CIDRs, which may have it", []object{cnp(app, object{"toCIDRSet": []object{{"cidrGroupRef": "g"}}})}, ""},
		{"Pods", []object{cnp(app, object{"toEndpoints": []object{{}}})}, none},
		{"a name of another", []object{cnp(app, object{"toFQDNs": []object{{"matchName": "example.com"}}})}, none},
		{"its name, which DNS may have said", []object{cnp(app, object{"toFQDNs": []object{{"matchName": "metadata.google.internal"}}})}, ""},
		{"a Service, which may be it", []object{cnp(app, object{"toServices": []object{{}}})}, ""},
		{"a named port", []object{cnp(app, port(cidr("0.0.0.0/0"), "http", "TCP"))}, ""},
		{"rules for HTTP", []object{cnp(app, object{"toCIDR": []string{"0.0.0.0/0"}, "toPorts": []object{{"ports": []object{{"port": "80"}}, "rules": object{"http": []object{{}}}}}})}, ""},
		{"others", []object{cnp(object{"matchLabels": object{"app": "else"}}, entities("host"))}, ""},
		{"by a source of labels", []object{cnp(object{"matchLabels": object{"k8s:app": "app", "io.kubernetes.pod.namespace": "shop"}}, entities("host"))}, none},
		{"by the ServiceAccount", []object{cnp(object{"matchLabels": object{"io.cilium.k8s.policy.serviceaccount": "app"}}, entities("host"))}, none},
		{"by another ServiceAccount", []object{cnp(object{"matchLabels": object{"io.cilium.k8s.policy.serviceaccount": "else"}}, entities("host"))}, ""},
		{"by a label of the namespace, which is not known", []object{cnp(object{"matchLabels": object{"io.cilium.k8s.namespace.labels.team": "a"}}, entities("host"))}, ""},
		{"ingress alone", []object{part(cnp(app), "ingress", []object{{}})}, ""},
		{"another policy of Cilium's allows it", []object{cnp(app, entities("host")), with(cnp(object{}, entities("world")), "CiliumClusterwideNetworkPolicy", "")}, ""},
		{"one that may select it allows it", []object{cnp(app, entities("host")), cnp(object{"matchLabels": object{"io.cilium.k8s.namespace.labels.team": "a"}}, entities("world"))}, ""},
		{"one of Kubernetes allows it", []object{cnp(app, entities("host")), policy("gke", object{}, []object{to("169.254.169.254/32")})}, ""},
		{"one of Cilium's allows what Kubernetes' do not", []object{policy("dns", object{}, nil), cnp(app, entities("world"))}, ""},
		{"clusterwide", []object{with(cnp(app, entities("host")), "CiliumClusterwideNetworkPolicy", "")}, none},
		{"another namespace", []object{with(cnp(object{}, entities("host")), "CiliumNetworkPolicy", "pay")}, ""},
		{"specs", []object{{"kind": "CiliumNetworkPolicy", "metadata": object{"name": "p", "namespace": "shop"}, "specs": []object{{"endpointSelector": app, "egress": []object{entities("host")}}}}}, none},
		{"no default deny", []object{part(cnp(app, entities("host")), "enableDefaultDeny", object{"egress": false})}, ""},
		{"a denial, which wins", []object{deny(cidr("169.254.0.0/16")), with(cnp(object{}, entities("all")), "CiliumClusterwideNetworkPolicy", "")}, "p selects it, and denies TCP 169.254.169.254:80"},
		{"a denial of something else, beside no allowance", []object{deny(cidr("10.0.0.0/8"))}, none},
		{"a denial of something else", []object{part(deny(cidr("10.0.0.0/8")), "enableDefaultDeny", object{"egress": false})}, ""},
		{"a policy for nodes", []object{{"kind": "CiliumClusterwideNetworkPolicy", "metadata": object{"name": "p"}, "spec": object{"nodeSelector": object{}, "egress": []object{entities("host")}}}}, ""},
	} {
		var want []string
		if tt.want != "" {
			want = []string{tt.want}
		}
		got := audit(t, dump(t, healthy(), append(selfManaged(nil), tt.what...)...))
		if !slices.EqualFunc(got, want, strings.HasSuffix) {
			t.Errorf("%s: found %q, want %q", tt.name, got, want)
		}
	}
	host := port(entities("host"), "988", "TCP")
	redirected := append(selfManaged(object{"enable-local-redirect-policy": "true"}), redirectPolicy("988", object{"k8s-app": "gke-metadata-server"}), metadataPod("True", ""))
	if got := audit(t, dump(t, healthy(), append(redirected, cnp(app, host))...)); len(got) != 0 {
		t.Errorf("behind a local redirect policy the host is the metadata server: %q", got)
	}
	if got := audit(t, dump(t, healthy(), append(redirected, deny(cidr("169.254.169.254/32")), with(cnp(object{}, entities("all")), "CiliumClusterwideNetworkPolicy", ""))...)); len(got) != 0 {
		t.Errorf("behind it the address that is denied may not be seen: %q", got)
	}
	for _, off := range []object{{"enable-policy": "never"}, {"policy-audit-mode": "true"}, {"labels": "k8s:io.kubernetes.pod.namespace k8s:team"}} {
		if got := audit(t, dump(t, healthy(), append(selfManaged(off), cnp(app, entities("host")))...)); len(got) != 0 {
			t.Errorf("%v: found %q, and nobody enforces it, or it may not select the Pod", off, got)
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
