output "policies" {
  description = "The policies' names, projects/PROJECT/alertPolicies/ID, by alert."
  value       = { for alert, policy in google_monitoring_alert_policy.this : alert => policy.name }
}
