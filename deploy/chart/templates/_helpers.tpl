{{- define "workload-identity-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "workload-identity-exporter.fullname" -}}
{{- $name := include "workload-identity-exporter.name" . -}}
{{- $release := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- /* A release's name has 53 characters at most, so none loses what makes it different. */ -}}
{{- default $release .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- /* The name where releases of other namespaces have objects, too. No name of a
namespace has a dot. */}}
{{- define "workload-identity-exporter.clusterName" -}}
{{- $name := include "workload-identity-exporter.fullname" . -}}
{{- $namespace := include "workload-identity-exporter.namespace" . -}}
{{- $name }}{{ if ne $name $namespace }}.{{ $namespace }}{{ end }}
{{- end }}

{{- define "workload-identity-exporter.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "workload-identity-exporter.serviceAccount" -}}
{{- default (include "workload-identity-exporter.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "workload-identity-exporter.tlsSecret" -}}
{{- default (printf "%s-tls" (include "workload-identity-exporter.fullname" .)) .Values.tls.secretName }}
{{- end }}

{{- define "workload-identity-exporter.selector" -}}
app.kubernetes.io/name: {{ include "workload-identity-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "workload-identity-exporter.milliseconds" -}}
{{- mul (regexFind "^[0-9]+" .) (get (dict "ms" 1 "s" 1000 "m" 60000) (regexFind "[a-z]+$" .)) }}
{{- end }}

{{- /* Prometheus refuses one that is longer than the interval. */}}
{{- define "workload-identity-exporter.scrapeTimeout" -}}
{{- $interval := include "workload-identity-exporter.milliseconds" .Values.monitoring.interval | int -}}
{{- default (gt $interval 10000 | ternary "10s" (printf "%dms" (div (mul $interval 4) 5))) .Values.monitoring.scrapeTimeout }}
{{- end }}

{{- define "workload-identity-exporter.ownLabels" -}}
{{ include "workload-identity-exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "workload-identity-exporter.labels" -}}
{{- merge (include "workload-identity-exporter.ownLabels" . | fromYaml) .Values.commonLabels | toYaml }}
{{- end }}

{{- define "workload-identity-exporter.monitoringLabels" -}}
{{- merge (include "workload-identity-exporter.labels" . | fromYaml) .Values.monitoring.labels | toYaml }}
{{- end }}

{{- /* No sidecar and no ztunnel of Istio: it would take the agent's requests to the
metadata server, and what the mesh gets is not what Pods get. */}}
{{- define "workload-identity-exporter.podLabels" -}}
{{- $mesh := dict "sidecar.istio.io/inject" "false" "istio.io/dataplane-mode" "none" -}}
{{- merge (include "workload-identity-exporter.selector" . | fromYaml) $mesh .Values.podLabels .Values.commonLabels | toYaml }}
{{- end }}

{{- /* The user name of the agent, as the API server's policies see it. */}}
{{- define "workload-identity-exporter.user" -}}
system:serviceaccount:{{ include "workload-identity-exporter.namespace" . }}:{{ include "workload-identity-exporter.serviceAccount" . }}
{{- end }}

{{- define "workload-identity-exporter.scraperNamespaceLabels" -}}
{{- default (dict "workload-identity-exporter/scrapes" "true") .Values.networkPolicy.scraperNamespaceLabels | toYaml }}
{{- end }}

{{- define "workload-identity-exporter.subjects" -}}
- kind: ServiceAccount
  name: {{ include "workload-identity-exporter.serviceAccount" . }}
  namespace: {{ include "workload-identity-exporter.namespace" . }}
{{- end }}

{{- define "workload-identity-exporter.image" -}}
{{- with .Values.image -}}
{{- if and .tag .digest -}}
{{- fail "image.tag and image.digest contradict each other: with a digest, no tag is looked at; to take the tag set image.digest=" -}}
{{- end -}}
{{- $host := regexFind "^([^/]*[.:][^/]*|localhost)/" .repository -}}
{{- if not (or $host .registry) -}}
{{- fail (printf "image.repository=%q names no registry, so nodes cannot pull it: set image.registry, or begin with it, as in registry.example.com/agent" .repository) -}}
{{- end -}}
{{ with .registry }}{{ . }}/{{ else }}{{ $host }}{{ end }}{{ trimPrefix $host .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{- define "workload-identity-exporter.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "workload-identity-exporter.securityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "workload-identity-exporter.resources" -}}
{{- if .Values.resources }}
{{- toYaml .Values.resources }}
{{- else -}}
# Measured: 20 MiB and 0.4 thousandths of a core.
requests:
  cpu: {{ .Values.autopilot | ternary "10m" "5m" }}
  memory: {{ .Values.autopilot | ternary "64Mi" "24Mi" }}
limits:
  memory: 64Mi
{{- end }}
{{- end }}

{{- /* Whether the agent asks for a password or a certificate, which the kubelet has not. */}}
{{- define "workload-identity-exporter.protected" -}}
{{- if or .Values.webConfiguration.basic_auth_users (dig "tls_server_config" "client_auth_type" "" .Values.webConfiguration) }}true{{ end }}
{{- end }}

{{- /* A list of the root, the values of the probe, and the path of the agent. */}}
{{- define "workload-identity-exporter.probe" -}}
{{- $root := index . 0 -}}
{{- $probe := index . 1 -}}
{{- $handler := dict "httpGet" (dict "path" (index . 2) "port" "metrics" "scheme" ($root.Values.tls.enabled | ternary "HTTPS" "HTTP")) -}}
{{- if include "workload-identity-exporter.protected" $root }}{{ $handler = dict "tcpSocket" (dict "port" "metrics") }}{{ end -}}
{{- if or $probe.httpGet $probe.tcpSocket $probe.exec $probe.grpc }}{{ $handler = dict }}{{ end -}}
{{- merge $handler $probe | toYaml }}
{{- end }}

{{- define "workload-identity-exporter.env" -}}
{{- with include "workload-identity-exporter.resources" . | fromYaml | dig "limits" "memory" "" }}
{{- /* Four fifths, and one for what is not Go's heap. */}}
- name: GOMEMLIMIT
  value: {{ div (mul 8 (regexFind "^[0-9]+" .) (get (dict "M" 1000000 "G" 1000000000 "Mi" 1048576 "Gi" 1073741824) (regexFind "[A-Za-z]+$" .))) 10485760 }}MiB
{{- end }}
- name: WI_EVENTS
  value: {{ and .Values.apiAccess.enabled .Values.apiAccess.events | quote }}
{{- if .Values.apiAccess.nodeCondition }}
- name: WI_NODE_CONDITION
  value: "true"
{{- end }}
{{- /* Whoever wrote the nodeSelector: it is what it says that counts. */}}
{{- if eq (include "workload-identity-exporter.nodeSelector" . | fromYaml | dig "iam.gke.io/gke-metadata-server-enabled" "") "true" }}
- name: WI_ONLY_METADATA_SERVER_NODES
  value: "true"
{{- end }}
- name: WI_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: WI_POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: WI_NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: WI_SERVICE_ACCOUNT
  valueFrom:
    fieldRef:
      fieldPath: spec.serviceAccountName
- name: WI_POD_ADDRESS
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: WI_NODE_ADDRESS
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
{{- if ne .Values.apiAccess.ciliumNamespace "kube-system" }}
- name: WI_CILIUM_NAMESPACE
  value: {{ .Values.apiAccess.ciliumNamespace | quote }}
{{- end }}
{{- with .Values.expectedEmails }}
- name: WI_EXPECTED_EMAILS
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.nodeServiceAccounts }}
- name: WI_NODE_SERVICE_ACCOUNTS
  value: {{ join "," . | quote }}
{{- end }}
{{- if include "workload-identity-exporter.webConfiguration" . }}
- name: WI_WEB_CONFIG_FILE
  value: /etc/workload-identity-exporter/web/web.yml
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "workload-identity-exporter.webConfiguration" -}}
{{- $tls := dict "cert_file" "/etc/workload-identity-exporter/tls/tls.crt" "key_file" "/etc/workload-identity-exporter/tls/tls.key" "min_version" "TLS12" -}}
{{- with merge (deepCopy .Values.webConfiguration) (.Values.tls.enabled | ternary (dict "tls_server_config" $tls) dict) }}{{ toYaml . }}{{ end }}
{{- end }}

{{- define "workload-identity-exporter.volumeMounts" -}}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- if .Values.apiAccess.enabled }}
- name: kubernetes
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}
{{- if include "workload-identity-exporter.webConfiguration" . }}
- name: web
  mountPath: /etc/workload-identity-exporter/web
  readOnly: true
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  mountPath: /etc/workload-identity-exporter/tls
  readOnly: true
{{- end }}
{{- end }}

{{- define "workload-identity-exporter.volumes" -}}
{{- if .Values.apiAccess.enabled }}
- name: kubernetes
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- if .Values.webConfiguration }}
- name: web
  secret:
    secretName: {{ include "workload-identity-exporter.fullname" . }}-web
{{- else if .Values.tls.enabled }}
- name: web
  configMap:
    name: {{ include "workload-identity-exporter.fullname" . }}-web
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "workload-identity-exporter.tlsSecret" . }}
    items:
      - key: tls.crt
        path: tls.crt
      - key: tls.key
        path: tls.key
{{- end }}
{{- end }}

{{- /* All taints are tolerated, that of Windows nodes too, and the image is for Linux. */}}
{{- define "workload-identity-exporter.ownNodeSelector" -}}
{{- if and .Values.onlyNodesWithMetadataServer (not .Values.autopilot) }}
iam.gke.io/gke-metadata-server-enabled: "true"
{{- end }}
kubernetes.io/os: linux
{{- end }}

{{- define "workload-identity-exporter.nodeSelector" -}}
{{- toYaml (merge (include "workload-identity-exporter.ownNodeSelector" . | fromYaml) .Values.nodeSelector) }}
{{- end }}

{{- /* What the schema cannot say, or not so that people understand it. */}}
{{- define "workload-identity-exporter.validate" -}}
{{- $v := .Values -}}
{{- $label := "iam.gke.io/gke-metadata-server-enabled" -}}
{{- $annotation := "iam.gke.io/gcp-service-account" -}}
{{- if not (or $v.googleServiceAccount $v.expectedEmails) -}}
{{- fail "nobody says which identity is right: set googleServiceAccount to the email of a Google service account (it needs no roles), or expectedEmails" -}}
{{- end -}}
{{- if and $v.googleServiceAccount $v.expectedEmails (not (has $v.googleServiceAccount $v.expectedEmails)) -}}
{{- fail (printf "googleServiceAccount and expectedEmails contradict each other: Pods will get %s, which is not among the expected ones" $v.googleServiceAccount) -}}
{{- end -}}
{{- if hasKey $v.serviceAccount.annotations $annotation -}}
{{- fail (printf "serviceAccount.annotations: set googleServiceAccount instead of the annotation %s" $annotation) -}}
{{- end -}}
{{- if not $v.serviceAccount.create -}}
{{- if not $v.serviceAccount.name -}}
{{- fail "serviceAccount.create=false needs serviceAccount.name, the name of yours" -}}
{{- end -}}
{{- if or $v.googleServiceAccount $v.serviceAccount.annotations -}}
{{- fail (printf "serviceAccount.create=false and annotations contradict each other: annotate the ServiceAccount %s yourself, and set expectedEmails instead of googleServiceAccount" $v.serviceAccount.name) -}}
{{- end -}}
{{- end -}}
{{- if not $v.apiAccess.enabled -}}
{{- if not $v.expectedEmails -}}
{{- fail "apiAccess.enabled=false needs expectedEmails: without the API server the agent cannot read the annotation" -}}
{{- end -}}
{{- range list "ciliumNodeConfigs" "ciliumPods" "nodeLabels" "nodeCondition" -}}
{{- if get $v.apiAccess . -}}
{{- fail (printf "apiAccess.enabled=false contradicts apiAccess.%s, which needs the API server" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.apiAccess.ciliumNodeConfigs (not $v.apiAccess.nodeLabels) -}}
{{- fail "apiAccess.ciliumNodeConfigs needs apiAccess.nodeLabels: these objects select nodes by their labels, and without them nobody knows whether they select the agent's" -}}
{{- end -}}
{{- if and $v.autopilot (hasKey $v.nodeSelector $label) -}}
{{- fail (printf "autopilot=true and nodeSelector contradict each other: Autopilot refuses the label %s" $label) -}}
{{- end -}}
{{- range $name, $want := include "workload-identity-exporter.ownNodeSelector" . | fromYaml -}}
{{- $is := get $v.nodeSelector $name -}}
{{- if and $is (ne $is $want) -}}
{{- fail (printf "nodeSelector: %s=%s is not where the agent runs: the image is for Linux, and onlyNodesWithMetadataServer wants the label of GKE's metadata server" $name $is) -}}
{{- end -}}
{{- end -}}
{{- if and $v.autopilot (eq $v.networkPolicy.dataplane "cilium") -}}
{{- fail "autopilot=true and networkPolicy.dataplane=cilium contradict each other: Autopilot has Dataplane V2, set dataplane-v2" -}}
{{- end -}}
{{- if and (not $v.priorityClass.create) (ne (int64 $v.priorityClass.value) 1000000) -}}
{{- fail "priorityClass.create=false and priorityClass.value contradict each other: the value is that of a PriorityClass which the chart makes" -}}
{{- end -}}
{{- range $labels := list "podLabels" "commonLabels" -}}
{{- range $name, $_ := include "workload-identity-exporter.selector" $ | fromYaml -}}
{{- if hasKey (get $v $labels) $name -}}
{{- fail (printf "%s: the release sets %s, by which it finds its Pods; nameOverride changes app.kubernetes.io/name" $labels $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $owned := dict "WI_EXPECTED_EMAILS" "expectedEmails" "WI_NODE_SERVICE_ACCOUNTS" "nodeServiceAccounts" "WI_WEB_CONFIG_FILE" "webConfiguration" "WI_EVENTS" "apiAccess.events" "WI_NODE_CONDITION" "apiAccess.nodeCondition" "WI_ONLY_METADATA_SERVER_NODES" "onlyNodesWithMetadataServer" "WI_CILIUM_NAMESPACE" "apiAccess.ciliumNamespace" -}}
{{- range $name, $_ := $v.settings -}}
{{- with get $owned $name }}{{ fail (printf "settings: set %s instead of %s" . $name) }}{{ end -}}
{{- if regexMatch "^WI_(LISTEN_ADDRESS|POD_|NODE_|SERVICE_ACCOUNT)" $name -}}
{{- fail (printf "settings: %s is not to be set: the rest of the chart depends on it" $name) -}}
{{- end -}}
{{- end -}}
{{- range $v.extraEnv -}}
{{- if hasPrefix "WI_" .name }}{{ fail (printf "extraEnv: %s is a setting of the agent: use settings" .name) }}{{ end -}}
{{- end -}}
{{- with $v.monitoring -}}
{{- if ne .kind "prometheus-operator" -}}
{{- range list "serviceMonitor" "jobLabel" "honorLabels" "relabelings" -}}
{{- if get $v.monitoring . }}{{ fail (printf "monitoring.%s needs monitoring.kind=prometheus-operator" .) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $timeout := include "workload-identity-exporter.scrapeTimeout" $ -}}
{{- if gt (include "workload-identity-exporter.milliseconds" $timeout | int) (include "workload-identity-exporter.milliseconds" .interval | int) -}}
{{- fail (printf "monitoring.scrapeTimeout=%s is longer than monitoring.interval=%s" $timeout .interval) -}}
{{- end -}}
{{- if and .jobLabel (not .rules.values.agentJob) (not (hasKey (include "workload-identity-exporter.labels" $ | fromYaml) .jobLabel)) -}}
{{- fail (printf "monitoring.jobLabel=%s is no label of the release: the alert rules need one of commonLabels, or rules.values.agentJob" .jobLabel) -}}
{{- end -}}
{{- end -}}
{{- end }}
