package main

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// What values change, as lines of the object of a kind, or no line where there is a
// leading "no ".
func TestValuesDoWhatTheySay(t *testing.T) {
	const users = "webConfiguration: {basic_auth_users: {prometheus: $2y$10$0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ}}"
	for _, tt := range []struct {
		values, kind string
		want         []string
	}{
		// Prometheus and the operators refuse a deadline that is longer than the interval.
		{"monitoring: {kind: gmp, interval: 5s}", "PodMonitoring", []string{"interval: 5s", "timeout: 4000ms"}},
		{"monitoring: {kind: prometheus-operator, interval: 1s}", "PodMonitor", []string{"interval: 1s", "scrapeTimeout: 800ms"}},
		{"monitoring: {kind: prometheus-operator, interval: 1m}", "PodMonitor", []string{"scrapeTimeout: 10s"}},
		{"monitoring: {kind: gmp, interval: 15s, scrapeTimeout: 15s}", "PodMonitoring", []string{"timeout: 15s"}},
		{"monitoring: {kind: gmp, labels: {team: a}}", "PodMonitoring", []string{"team: a"}},
		{"monitoring: {kind: gmp, labels: {team: a}}", "ClusterRules", []string{"team: a"}},
		{"monitoring: {kind: prometheus-operator, serviceMonitor: true}", "ServiceMonitor", []string{"endpoints:", "- __meta_kubernetes_pod_node_name", "no jobLabel"}},
		{"monitoring: {kind: prometheus-operator, jobLabel: app.kubernetes.io/name}", "PodMonitor", []string{"jobLabel: app.kubernetes.io/name"}},
		{
			"monitoring: {kind: prometheus-operator, jobLabel: team}, commonLabels: {team: a}", "PrometheusRule",
			[]string{`namespace="workload-identity-exporter",job="a"`},
		},
		{"monitoring: {kind: prometheus-operator, relabelings: [{targetLabel: x}]}", "PodMonitor", []string{"targetLabel: node", "targetLabel: x"}},
		// Four fifths of the limit.
		{"resources: {limits: {memory: 32Mi}}", "DaemonSet", []string{"value: 25MiB"}},
		{"resources: {limits: {memory: 1G}}", "DaemonSet", []string{"value: 762MiB"}},
		{"resources: {requests: {memory: 32Mi}}", "DaemonSet", []string{"no GOMEMLIMIT"}},
		// The kubelet has neither password nor certificate.
		{users, "DaemonSet", []string{"tcpSocket:", "no httpGet:", "secretName: workload-identity-exporter-web", "name: WI_WEB_CONFIG_FILE"}},
		{users, "Secret", []string{"prometheus: $2y$10$"}},
		{users + ", tls: {enabled: true}", "Secret", []string{"prometheus: $2y$10$", "cert_file: /etc"}},
		{"webConfiguration: {tls_server_config: {client_auth_type: RequireAndVerifyClientCert}}, tls: {enabled: true}", "DaemonSet", []string{"tcpSocket:", "no httpGet:"}},
		{"livenessProbe: {exec: {command: [x]}}", "DaemonSet", []string{"- x", "path: /readyz", "no path: /healthz"}},
		// The defaults of a mapping do not add to what people write.
		{"networkPolicy: {scraperNamespaceLabels: {a: b}}", "NetworkPolicy", []string{"a: b", "no /scrapes"}},
		{"dashboards: {kind: grafana-operator, instanceSelector: {matchLabels: {a: b}}}", "GrafanaDashboard", []string{"a: b", "no dashboards: grafana"}},
		{"dashboards: {kind: sidecar, namespace: grafana, folder: Identity}", "ConfigMap", []string{"namespace: grafana", "grafana_folder: Identity", `grafana_dashboard: "1"`}},
		{"namespaceOverride: monitoring", "DaemonSet", []string{"namespace: monitoring"}},
		{"namespaceOverride: monitoring", "ValidatingAdmissionPolicy", []string{"system:serviceaccount:monitoring:"}},
		{"commonLabels: {team: a}", "DaemonSet", []string{"    team: a", "        team: a", "no       team: a\n  template"}},
		{"podLabels: {istio.io/dataplane-mode: none}", "DaemonSet", []string{"istio.io/dataplane-mode: none", `sidecar.istio.io/inject: "false"`}},
		{"image: {registry: r.example.com, tag: x}", "DaemonSet", []string{"image: r.example.com/workload-identity-exporter/workload-identity-exporter:x"}},
		{"image: {registry: r.example.com:5000/mirror, repository: team/agent, tag: x}", "DaemonSet", []string{"image: r.example.com:5000/mirror/team/agent:x"}},
		{"image: {repository: localhost/agent, tag: x}", "DaemonSet", []string{"image: localhost/agent:x"}},
		{"updateStrategy: {type: OnDelete, rollingUpdate: null}", "DaemonSet", []string{"type: OnDelete", "no rollingUpdate"}},
		{`extraObjects: [{apiVersion: v1, kind: Endpoints, metadata: {name: "{{ .Release.Name }}-x"}}]`, "Endpoints", []string{"name: workload-identity-exporter-x"}},
	} {
		t.Run(tt.kind+" with "+tt.values, func(t *testing.T) {
			var values map[string]any
			if err := yaml.UnmarshalStrict([]byte("{googleServiceAccount: a@p.iam.gserviceaccount.com, "+tt.values+"}"), &values); err != nil {
				t.Fatal(err)
			}
			found := false
			for _, o := range rendered(t, values).objects {
				if o["kind"] != tt.kind || found {
					continue
				}
				found = true
				for _, want := range tt.want {
					line, no := strings.CutPrefix(want, "no ")
					if strings.Contains(o.String(), line) == no {
						t.Errorf("want %s in\n%s", want, o)
					}
				}
			}
			if !found {
				t.Errorf("there is no %s", tt.kind)
			}
		})
	}
}
