package main

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// What cannot work is refused, by an error that names the value. Where a row says
// nothing else, the identity is one that is right.
func TestTheChartRefusesWhatCannotWork(t *testing.T) {
	for _, tt := range []struct{ values, want string }{
		{"googleServiceAccount: a@p.iam.gserviceaccount.com, serviceAccount: {annotations: {iam.gke.io/gcp-service-account: b@p.iam.gserviceaccount.com}}", "set googleServiceAccount instead of the annotation iam.gke.io/gcp-service-account"},
		{"googleServiceAccount: app@project", "at '/googleServiceAccount': 'app@project' does not match pattern"},
		{"googleServiceAccount: a@p.iam.gserviceaccount.com, expectedEmails: [b@p.iam.gserviceaccount.com]", "googleServiceAccount and expectedEmails contradict each other: Pods will get a@p.iam.gserviceaccount.com"},
		{`googleServiceAccount: ""`, "nobody says which identity is right: set googleServiceAccount to the email of a Google service account"},
		{"googleServiceAccount: my-project", "at '/googleServiceAccount': 'my-project' does not match pattern"},
		{"googleServiceAccount: a@p.iam.gserviceaccount.com, serviceAccount: {create: false, name: mine}", "annotate the ServiceAccount mine yourself"},
		{"googleServiceAccount: workload-identity-exporter@PROJECT_ID.iam.gserviceaccount.com", "at '/googleServiceAccount': 'workload-identity-exporter@PROJECT_ID.iam.gserviceaccount.com' does not match pattern"},
		{"googleServiceAccount: my-project.svc.id.goog", "at '/googleServiceAccount': 'my-project.svc.id.goog' does not match pattern"},
		{`googleServiceAccount: "a@p.iam.gserviceaccount.com,b@p.iam.gserviceaccount.com"`, "at '/googleServiceAccount': 'a@p.iam.gserviceaccount.com,b@p.iam.gserviceaccount.com' does not match pattern"},
		{"googleServiceAccount: alice@gmail.com", "at '/googleServiceAccount': 'alice@gmail.com' does not match pattern"},
		{"googleServiceAcount: a@p.iam.gserviceaccount.com", "additional properties 'googleServiceAcount' not allowed"},
		{"apiAccess: {enabled: false}", "apiAccess.enabled=false needs expectedEmails"},
		{"apiAccess: {ciliumNodeConfigs: true}", "apiAccess.ciliumNodeConfigs needs apiAccess.nodeLabels"},
		{`apiAccess: {ciliumNamespace: ""}`, "at '/apiAccess/ciliumNamespace': '' does not match pattern"},
		{"autopilot: true, networkPolicy: {dataplane: cilium}", "Autopilot has Dataplane V2, set dataplane-v2"},
		{`autopilot: true, nodeSelector: {iam.gke.io/gke-metadata-server-enabled: "true"}`, "Autopilot refuses the label iam.gke.io/gke-metadata-server-enabled"},
		{`commonLabels: {"a b": c}`, "at '/commonLabels': additional properties 'a b' not allowed"},
		{"commonLabels: {app.kubernetes.io/name: x}", "commonLabels: the release sets app.kubernetes.io/name, by which it finds its Pods"},
		{"dashboards: {kind: grafana}", "at '/dashboards/kind': value must be one of 'none', 'sidecar', 'grafana-operator'"},
		{`expectedEmails: ["*"]`, "at '/expectedEmails/0': '*' does not match pattern"},
		{"expectedEmails: [a@p.iam.gserviceaccount.com], apiAccess: {enabled: false, ciliumPods: true}", "apiAccess.enabled=false contradicts apiAccess.ciliumPods, which needs the API server"},
		{"expectedEmails: [a@p.iam.gserviceaccount.com], apiAccess: {enabled: false, nodeCondition: true}", "apiAccess.enabled=false contradicts apiAccess.nodeCondition, which needs the API server"},
		{"expectedEmails: [a@p.iam.gserviceaccount.com], apiAccess: {enabled: false, ciliumNodeConfigs: true}", "apiAccess.enabled=false contradicts apiAccess.ciliumNodeConfigs, which needs the API server"},
		{"expectedEmails: [a@p.iam.gserviceaccount.com], serviceAccount: {create: false}", "serviceAccount.create=false needs serviceAccount.name"},
		{"expectedEmails: [alice@example.com]", "at '/expectedEmails/0': 'alice@example.com' does not match pattern"},
		{"expectedEmails: [PROJECT.svc.id.goog]", "at '/expectedEmails/0': 'PROJECT.svc.id.goog' does not match pattern"},
		{"extraEnv: [{name: WI_LOG_LEVEL, value: debug}]", "extraEnv: WI_LOG_LEVEL is a setting of the agent: use settings"},
		{"extraEnv: [{name: A B}]", "at '/extraEnv/0/name': 'A B' does not match pattern"},
		{"fullnameOverride: 1st", "at '/fullnameOverride': '1st' does not match pattern"},
		{"hostNetwork: true", "additional properties 'hostNetwork' not allowed"},
		{"image: {digest: latest}", "/image/digest"},
		{"image: {repository: https://registry.example.com/x}", "/image/repository"},
		{`image: {registry: "https://registry.example.com"}`, "at '/image/registry': 'https://registry.example.com' does not match pattern"},
		{`image: {repository: ""}`, "at '/image/repository': '' does not match pattern"},
		{"image: {repository: agent}", `image.repository="agent" names no registry, so nodes cannot pull it: set image.registry`},
		{"image: {repository: team/agent}", `image.repository="team/agent" names no registry`},
		{"image: {repository: registry.example.com/agent:0.1.0}", "at '/image/repository'"},
		{"image: {tag: team/0.1.0}", "at '/image/tag'"},
		{"image: {tag: 0.1.0, digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef}", "image.tag and image.digest contradict each other"},
		{"image: {tag: -x}", "at '/image/tag': '-x' does not match pattern"},
		{"image: {pullSecrets: [My Secret]}", "at '/image/pullSecrets/0': 'My Secret' does not match pattern"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {alerts: {WorkloadIdentityFlapping: {annotations: {priority: 1}}}}}}", "at '/monitoring/rules/values/alerts/WorkloadIdentityFlapping/annotations/priority': got number, want string"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {alerts: {WorkloadIdentityFlapping: {annotations: {example.com/chat: a}}}}}}", "at '/monitoring/rules/values/alerts/WorkloadIdentityFlapping/annotations': additional properties 'example.com/chat' not allowed"},
		{`monitoring: {kind: prometheus-operator, rules: {values: {alerts: {WorkloadIdentityFlapping: {enabled: "false"}}}}}`, "at '/monitoring/rules/values/alerts/WorkloadIdentityFlapping/enabled': got string, want boolean"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {alerts: {WorkloadIdentityFlapping: {for: 60}}}}}", "at '/monitoring/rules/values/alerts/WorkloadIdentityFlapping/for': got number, want string"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {alerts: {WorkloadIdentityFlapping: {labels: {app.kubernetes.io/team: a}}}}}}", "at '/monitoring/rules/values/alerts/WorkloadIdentityFlapping/labels': additional properties 'app.kubernetes.io/team' not allowed"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {alerts: {WorkloadIdentityFlapping: {labels: [team]}}}}}", "at '/monitoring/rules/values/alerts/WorkloadIdentityFlapping/labels': got array, want object"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {alerts: {WorkloadIdentityFlaping: {severity: info}}}}}", "monitoring.rules.values.alerts: there is no alert WorkloadIdentityFlaping; there are WorkloadIdentityClusterWideFallback,"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {alerts: {WorkloadIdentityFlapping: {severty: info}}}}}", "at '/monitoring/rules/values/alerts/WorkloadIdentityFlapping': additional properties 'severty' not allowed"},
		{`monitoring: {kind: prometheus-operator, rules: {values: {alerts: {WorkloadIdentityFlapping: {severity: ""}}}}}`, "at '/monitoring/rules/values/alerts/WorkloadIdentityFlapping/severity': minLength"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {alerts: [WorkloadIdentityFlapping]}}}", "at '/monitoring/rules/values/alerts': got array, want object"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {clusterLabels: cluster}}}", "at '/monitoring/rules/values/clusterLabels': got string, want array"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {commonLabels: {paging: true}}}}", "at '/monitoring/rules/values/commonLabels/paging': got boolean, want string"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {commonLabels: {my-team: a}}}}", "at '/monitoring/rules/values/commonLabels': additional properties 'my-team' not allowed"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {grafana: grafana.example.com}}}", "at '/monitoring/rules/values/grafana': 'grafana.example.com' does not match"},
		{"monitoring: {kind: prometheus-operator, rules: {values: {clusterLabels: []}}}", "at '/monitoring/rules/values/clusterLabels': minItems"},
		{"monitoring: {rules: {values: {staleFor: 60}}}", "/monitoring/rules/values/staleFor"},
		{"monitoring: {kind: datadog}", "value must be one of 'none', 'annotations', 'prometheus-operator', 'gmp'"},
		{"monitoring: {rules: {values: {keepFiring: 1m}}}", "additional properties 'keepFiring' not allowed"},
		{"monitoring: {interval: 15}", "at '/monitoring/interval': got number, want string"},
		{`monitoring: {interval: "15"}`, "at '/monitoring/interval': '15' does not match pattern"},
		{"monitoring: {scrapeTimeout: 20s}", "monitoring.scrapeTimeout=20s is longer than monitoring.interval=15s"},
		{"monitoring: {kind: gmp, serviceMonitor: true}", "monitoring.serviceMonitor needs monitoring.kind=prometheus-operator"},
		{"monitoring: {kind: gmp, relabelings: [{targetLabel: a}]}", "monitoring.relabelings needs monitoring.kind=prometheus-operator"},
		{"monitoring: {kind: prometheus-operator, jobLabel: team}", "monitoring.jobLabel=team is no label of the release"},
		{"nameOverride: -x", "at '/nameOverride': '-x' does not match pattern"},
		{"namespaceOverride: a.b", "at '/namespaceOverride': 'a.b' does not match pattern"},
		{"networkPolicy: {apiServerCIDRs: []}", "/networkPolicy/apiServerCIDRs"},
		{"networkPolicy: {apiServerCIDRs: [10.0.0.1]}", "at '/networkPolicy/apiServerCIDRs/0': '10.0.0.1' does not match pattern"},
		{"networkPolicy: {apiServerCIDRs: [10.0.0.256/32]}", "at '/networkPolicy/apiServerCIDRs/0': '10.0.0.256/32' does not match pattern"},
		{"networkPolicy: {apiServerCIDRs: [10.0.0.0/33]}", "at '/networkPolicy/apiServerCIDRs/0': '10.0.0.0/33' does not match pattern"},
		{`networkPolicy: {apiServerCIDRs: ["2001:db8::/129"]}`, "at '/networkPolicy/apiServerCIDRs/0': '2001:db8::/129' does not match pattern"},
		{"networkPolicy: {apiServerPorts: [65536]}", "at '/networkPolicy/apiServerPorts/0': maximum: got 65,536, want 65,535"},
		{"networkPolicy: {apiServerPorts: [https]}", "at '/networkPolicy/apiServerPorts/0': got string, want integer"},
		{"networkPolicy: {scraperNamespaceLabels: {scrapes: true}}", "at '/networkPolicy/scraperNamespaceLabels/scrapes': got boolean, want string"},
		{"nodeSelector: {kubernetes.io/os: windows}", "nodeSelector: kubernetes.io/os=windows is not where the agent runs: the image is for Linux"},
		{"nodeServiceAccounts: [nodes]", "at '/nodeServiceAccounts/0': 'nodes' does not match pattern"},
		{`nodeServiceAccounts: ["*@*.iam.gserviceaccount.com"]`, "at '/nodeServiceAccounts/0': '*@*.iam.gserviceaccount.com' does not match pattern"},
		{"podLabels: {app.kubernetes.io/instance: canary}", "podLabels: the release sets app.kubernetes.io/instance, by which it finds its Pods"},
		{"podLabels: {team: a b}", "at '/podLabels/team': 'a b' does not match pattern"},
		{"priorityClass: {create: false, name: high, value: 5}", "the value is that of a PriorityClass which the chart makes"},
		{"priorityClass: {name: High}", "at '/priorityClass/name': 'High' does not match pattern"},
		{"resources: {limits: {memory: 64}}", "at '/resources/limits/memory': got number, want string"},
		{`resources: {limits: {memory: "64"}}`, "at '/resources/limits/memory': '64' does not match pattern"},
		{"resources: {requests: {cpu: five}}", "at '/resources/requests/cpu': 'five' does not match pattern"},
		{"revisionHistoryLimit: -1", "at '/revisionHistoryLimit': minimum"},
		{"serviceAccount: {name: My_Account}", "at '/serviceAccount/name': 'My_Account' does not match pattern"},
		{`settings: {WI_EVENTS: "true"}`, "settings: set apiAccess.events instead of WI_EVENTS"},
		{"settings: {WI_EXPECTED_EMAILS: a@p.iam.gserviceaccount.com}", "settings: set expectedEmails instead of WI_EXPECTED_EMAILS"},
		{"settings: {WI_ONLY_METADATA_SERVER_NODES: true}", "settings: set onlyNodesWithMetadataServer instead of WI_ONLY_METADATA_SERVER_NODES"},
		{"settings: {WI_PROBE_INTERVALL: 5s}", "at '/settings': additional properties 'WI_PROBE_INTERVALL' not allowed"},
		{`settings: {WI_LISTEN_ADDRESS: ":9999"}`, "settings: WI_LISTEN_ADDRESS is not to be set"},
		{"settings: {WI_POD_NAME: x}", "settings: WI_POD_NAME is not to be set"},
		{"settings: {WI_NODE_ADDRESS: 192.0.2.1}", "settings: WI_NODE_ADDRESS is not to be set"},
		{"settings: {WI_SERVICE_ACCOUNT_DIRECTORY: /x}", "settings: WI_SERVICE_ACCOUNT_DIRECTORY is not to be set"},
		{"settings: {WI_PROBE_INTERVAL: 5}", "at '/settings/WI_PROBE_INTERVAL': got number, want string"},
		{`settings: {WI_PROBE_INTERVAL: "5"}`, "at '/settings/WI_PROBE_INTERVAL': '5' does not match pattern"},
		{"settings: {WI_PROBE_INTERVAL: 500ms}", "at '/settings/WI_PROBE_INTERVAL': '500ms' does not match pattern"},
		{"settings: {WI_EXPECTATION_INTERVAL: 10s}", "at '/settings/WI_EXPECTATION_INTERVAL': '10s' does not match pattern"},
		{"settings: {WI_PROBE_TIMEOUT: 2m}", "at '/settings/WI_PROBE_TIMEOUT': '2m' does not match pattern"},
		{`settings: {WI_STARTUP_GRACE: "60"}`, "at '/settings/WI_STARTUP_GRACE': '60' does not match pattern"},
		{"settings: {WI_LOG_LEVEL: verbose}", "at '/settings/WI_LOG_LEVEL': value must be one of 'debug', 'info', 'warn', 'error'"},
		{"settings: {WI_RUNTIME_METRICS: no thanks}", "at '/settings/WI_RUNTIME_METRICS': value must be one of"},
		{"settings: {WI_REDACT_KEY_FILE: true}", "at '/settings/WI_REDACT_KEY_FILE': got boolean, want string"},
		{`settings: {WI_METADATA_HOST: "http://x"}`, "at '/settings/WI_METADATA_HOST': 'http://x' does not match pattern"},
		{"tls: {secretName: a_b}", "at '/tls/secretName': 'a_b' does not match pattern"},
		{"tolerations: {operator: Exists}", "at '/tolerations': got object, want array"},
		{"updateStrategy: {type: Recreate}", "at '/updateStrategy/type': value must be one of 'RollingUpdate', 'OnDelete'"},
		{"updateStrategy: {rollingUpdate: {maxUnavailable: ten}}", "at '/updateStrategy/rollingUpdate/maxUnavailable': 'ten' does not match pattern"},
		{"webConfiguration: {basic_auth_users: {prometheus: secret}}", "at '/webConfiguration/basic_auth_users/prometheus': 'secret' does not match pattern"},
		{"webConfiguration: {users: {}}", "at '/webConfiguration': additional properties 'users' not allowed"},
	} {
		t.Run(tt.values, func(t *testing.T) {
			text := "{" + tt.values + "}"
			if !strings.Contains(text, "googleServiceAccount:") && !strings.Contains(text, "expectedEmails:") {
				text = "{googleServiceAccount: a@p.iam.gserviceaccount.com, " + tt.values + "}"
			}
			var values map[string]any
			if err := yaml.UnmarshalStrict([]byte(text), &values); err != nil {
				t.Fatal(err)
			}
			if _, err := template(chart, namespace, namespace, values); err == nil {
				t.Error("it is rendered")
			} else if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("refused because of\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}
