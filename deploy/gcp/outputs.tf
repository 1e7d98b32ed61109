output "address" {
  description = "Point an A record of each domain here; the certificate is made once they do."
  value       = google_compute_global_address.this.address
}

output "urls" {
  description = "Where the service is."
  value       = [for domain in var.domains : "https://${domain}/"]
}

output "repository" {
  description = "Push the image under this name."
  value       = "${google_artifact_registry_repository.images.location}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}/car-identifier"
}

output "api_keys_secret" {
  description = "Its latest version is the file of API keys: gcloud secrets versions add …"
  value       = google_secret_manager_secret.api_keys.secret_id
}

output "instance_group" {
  description = "The managed instance group, for gcloud compute instance-groups managed …"
  value       = google_compute_region_instance_group_manager.this.name
}
