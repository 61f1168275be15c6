variable "project" {
  description = "Project of the policies: that of the clusters, or one whose metrics scope has theirs."
  type        = string
}

variable "notification_channels" {
  description = "Who is told: projects/PROJECT/notificationChannels/ID."
  type        = list(string)
}

variable "enabled" {
  description = "Alerts that are on or off, by name. Those that are not named are on."
  type        = map(bool)
  default     = {}
}

variable "durations" {
  description = "For how long an alert's reason must last, by name, in seconds: { WorkloadIdentityNodeFallback = \"0s\" }."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for d in values(var.durations) : can(regex("^[0-9]+s$", d))])
    error_message = "A duration is in seconds, like \"120s\"."
  }
}

variable "severities" {
  description = "Other severities than CRITICAL, by the alert's name: ERROR or WARNING."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for s in values(var.severities) : contains(["CRITICAL", "ERROR", "WARNING"], s)])
    error_message = "A severity is CRITICAL, ERROR or WARNING."
  }
}

variable "user_labels" {
  description = "More labels of the policies."
  type        = map(string)
  default     = {}
}

variable "runbooks" {
  description = "Where the runbooks are, without a slash at the end."
  type        = string
  default     = "https://github.com/workload-identity-exporter/workload-identity-exporter/blob/main/alerts/runbooks"
}

variable "auto_close" {
  description = "An incident whose series has no data for so long is closed."
  type        = string
  default     = "1800s"
}
