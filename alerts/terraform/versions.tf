terraform {
  required_version = ">= 1.3"

  required_providers {
    google = {
      source = "hashicorp/google"
      # The first with disable_metric_validation (CHANGELOG.md of terraform-provider-google).
      version = ">= 6.13"
    }
  }
}
