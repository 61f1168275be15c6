# One alerting policy of Cloud Monitoring for each alert that pages; alerts.tf has
# what differs between them.
resource "google_monitoring_alert_policy" "this" {
  for_each = local.alerts

  project               = var.project
  display_name          = each.key
  enabled               = lookup(var.enabled, each.key, true)
  severity              = lookup(var.severities, each.key, each.value.severity)
  notification_channels = var.notification_channels
  user_labels           = merge({ app = "workload-identity-exporter" }, var.user_labels)
  combiner              = "OR"

  conditions {
    display_name = "${each.value.group}/${each.key}"

    condition_prometheus_query_language {
      query               = trimspace(each.value.query)
      duration            = lookup(var.durations, each.key, each.value.duration)
      evaluation_interval = each.value.interval
      rule_group          = each.value.group
      alert_rule          = each.key
      labels              = each.value.labels
      # The policies may be there before the first agent.
      disable_metric_validation = true
    }
  }

  documentation {
    mime_type = "text/markdown"
    subject   = each.value.subject
    content   = "${each.value.content}\nRunbook: ${var.runbooks}/${each.key}.md\n"

    links {
      display_name = "Runbook"
      url          = "${var.runbooks}/${each.key}.md"
    }
  }

  alert_strategy {
    auto_close = var.auto_close
  }

  lifecycle {
    precondition {
      condition     = length(setsubtract(concat(keys(var.enabled), keys(var.severities), keys(var.durations)), keys(local.alerts))) == 0
      error_message = "enabled, severities and durations name alerts: ${join(", ", keys(local.alerts))}."
    }
  }
}
