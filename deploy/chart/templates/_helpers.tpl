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
{{- $name }}{{ if ne $name .Release.Namespace }}.{{ .Release.Namespace }}{{ end }}
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

{{- define "workload-identity-exporter.labels" -}}
{{ include "workload-identity-exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* The user name of the agent, as the API server's policies see it. */}}
{{- define "workload-identity-exporter.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "workload-identity-exporter.serviceAccount" . }}
{{- end }}

{{- define "workload-identity-exporter.subjects" -}}
- kind: ServiceAccount
  name: {{ include "workload-identity-exporter.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{- define "workload-identity-exporter.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
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

{{- define "workload-identity-exporter.env" -}}
- name: GOMEMLIMIT
  value: {{ .Values.goMemoryLimit | quote }}
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
{{- if .Values.tls.enabled }}
- name: WI_WEB_CONFIG_FILE
  value: /etc/workload-identity-exporter/web/web.yml
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{- define "workload-identity-exporter.volumeMounts" -}}
{{- if .Values.apiAccess.enabled }}
- name: kubernetes
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}
{{- if .Values.tls.enabled }}
- name: web
  mountPath: /etc/workload-identity-exporter/web
  readOnly: true
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
{{- if .Values.tls.enabled }}
- name: web
  configMap:
    name: {{ include "workload-identity-exporter.fullname" . }}-web
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
{{- $email := "^[a-zA-Z0-9._+-]+@[a-zA-Z0-9-]+([.][a-zA-Z0-9-]+)+$" -}}
{{- $label := "iam.gke.io/gke-metadata-server-enabled" -}}
{{- $annotation := "iam.gke.io/gcp-service-account" -}}
{{- if and $v.googleServiceAccount (not (regexMatch $email $v.googleServiceAccount)) -}}
{{- fail (printf "googleServiceAccount=%q is not the email of a Google service account: want NAME@PROJECT.iam.gserviceaccount.com" $v.googleServiceAccount) -}}
{{- end -}}
{{- if not (or $v.googleServiceAccount $v.expectedEmails) -}}
{{- fail "nobody says which identity is right: set googleServiceAccount to the email of a Google service account (it needs no roles), or expectedEmails" -}}
{{- end -}}
{{- range $v.expectedEmails -}}
{{- if not (or (regexMatch $email .) (hasPrefix "principal://" .) (contains ".svc.id." .)) -}}
{{- fail (printf "expectedEmails: %q is no identity: want an email, a workload pool (PROJECT.svc.id.goog) or a principal" .) -}}
{{- end -}}
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
{{- range $name, $_ := include "workload-identity-exporter.selector" . | fromYaml -}}
{{- if hasKey $v.podLabels $name -}}
{{- fail (printf "podLabels: the release sets %s, by which it finds its Pods; nameOverride changes app.kubernetes.io/name" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $instead := dict "WI_EXPECTED_EMAILS" "expectedEmails" "WI_NODE_SERVICE_ACCOUNTS" "nodeServiceAccounts" "WI_WEB_CONFIG_FILE" "tls" "WI_EVENTS" "apiAccess.events" "WI_NODE_CONDITION" "apiAccess.nodeCondition" "WI_ONLY_METADATA_SERVER_NODES" "onlyNodesWithMetadataServer" "WI_CILIUM_NAMESPACE" "apiAccess.ciliumNamespace" -}}
{{- if hasKey $v.settings $name -}}
{{- fail (printf "settings: set %s instead of %s" $instead $name) -}}
{{- end -}}
{{- end -}}
{{- end }}
