terraform {
  required_version = ">= 1.5"

  required_providers {
    google = {
      source = "hashicorp/google"
      # Every argument in this folder was checked against the schema of 6.50 (tests/test_gcp_terraform.py).
      version = "~> 6.50"
    }
  }

  # Terraform's state is the only copy of what it knows: keep it in a bucket that has versions.
  # Its name comes with the first command: terraform init -backend-config=bucket=…
  backend "gcs" {
    prefix = "car-identifier"
  }
}

provider "google" {
  project        = var.project
  region         = var.region
  default_labels = var.labels
}
