{{- /* The alert rules find the agents of this release by its names, and another
namespace may have the same. Jobs of a PodMonitor have the namespace before them. */}}
{{- define "workload-identity-exporter.agentJob" -}}
{{- $namespace := include "workload-identity-exporter.namespace" . -}}
{{- $job := printf "job=~\"(%s/)?%s\"" $namespace (include "workload-identity-exporter.fullname" .) -}}
{{- with .Values.monitoring.jobLabel -}}
{{- $job = get (include "workload-identity-exporter.labels" $ | fromYaml) . | printf "job=%q" -}}
{{- end -}}
{{- default (printf "namespace=%q,%s" $namespace $job) .Values.monitoring.rules.values.agentJob }}
{{- end }}

{{- define "workload-identity-exporter.agentDaemonSet" -}}
{{- $name := include "workload-identity-exporter.fullname" . -}}
{{- default (printf "namespace=%q,created_by_kind=\"DaemonSet\",created_by_name=%q" (include "workload-identity-exporter.namespace" .) $name) .Values.monitoring.rules.values.agentDaemonSet }}
{{- end }}

{{- /* The groups of rules, with the changes to single alerts. */}}
{{- define "workload-identity-exporter.rules" -}}
{{- $values := .Values.monitoring.rules.values -}}
{{- $file := tpl (.Files.Get (printf "files/%s.yaml" .Values.monitoring.kind)) . | fromYaml -}}
{{- with $file.Error }}{{ fail (printf "monitoring.rules.values: the rules are no YAML with them: %s" .) }}{{ end -}}
{{- $names := list -}}
{{- range $group := $file.groups -}}
  {{- $kept := list -}}
  {{- range $rule := $group.rules -}}
    {{- $change := dict -}}
    {{- if $rule.alert -}}
      {{- $names = append $names $rule.alert -}}
      {{- $change = default dict (get $values.alerts $rule.alert) -}}
      {{- with $change.for }}{{ $_ := set $rule "for" . }}{{ end -}}
      {{- $severity := ternary (dict "severity" $change.severity) dict (hasKey $change "severity") -}}
      {{- $_ := set $rule "labels" (mergeOverwrite $rule.labels $values.commonLabels $severity (default dict $change.labels)) -}}
      {{- $annotations := mergeOverwrite $rule.annotations (default dict $change.annotations) -}}
      {{- if not $annotations.dashboard_url }}{{ $_ := unset $annotations "dashboard_url" }}{{ end -}}
    {{- end -}}
    {{- if ne (get $change "enabled" | toString) "false" }}{{ $kept = append $kept $rule }}{{ end -}}
  {{- end -}}
  {{- $_ := set $group "rules" $kept -}}
{{- end -}}
{{- range $name, $_ := $values.alerts -}}
  {{- if not (has $name $names) }}{{ fail (printf "monitoring.rules.values.alerts: there is no alert %s; there are %s" $name (join ", " $names)) }}{{ end -}}
{{- end -}}
{{- pick $file "groups" | toYaml }}
{{- end }}
