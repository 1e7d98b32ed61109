# What there is before any VM: services, the registry, the API keys, and the account the VMs run as.

resource "google_project_service" "this" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
    "iap.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "secretmanager.googleapis.com",
  ])

  service            = each.value
  disable_on_destroy = false # others in the project may use them
}

resource "google_artifact_registry_repository" "images" {
  repository_id = var.name
  location      = var.region
  format        = "DOCKER"
  description   = "Images of Car Identifier"

  docker_config {
    immutable_tags = true
  }

  depends_on = [google_project_service.this]
}

# The gateway's key file: names and hashes, no keys. Terraform makes the place and never sees what is
# put there (gcloud secrets versions add, docs/gcp.md), so the state file holds no secret.
resource "google_secret_manager_secret" "api_keys" {
  secret_id = "${var.name}-api-keys"

  replication {
    auto {}
  }

  depends_on = [google_project_service.this]
}

resource "google_service_account" "vm" {
  account_id   = "${var.name}-vm"
  display_name = "VMs that serve Car Identifier"

  depends_on = [google_project_service.this]
}

# All that the account may do: pull from this repository, read this secret, write logs and metrics, and
# read the bucket of the archive if one is named.
resource "google_artifact_registry_repository_iam_member" "vm" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.vm.member
}

resource "google_secret_manager_secret_iam_member" "vm" {
  secret_id = google_secret_manager_secret.api_keys.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.vm.member
}

resource "google_project_iam_member" "vm" {
  for_each = toset(["roles/logging.logWriter", "roles/monitoring.metricWriter"])

  project = var.project
  role    = each.value
  member  = google_service_account.vm.member
}

resource "google_storage_bucket_iam_member" "vm" {
  count = var.archive == null ? 0 : 1

  bucket = split("/", var.archive.uri)[2]
  role   = "roles/storage.objectViewer"
  member = google_service_account.vm.member
}
