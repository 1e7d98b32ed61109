# The VMs have no address on the internet and no way there. What they need of Google (registry, secrets,
# logs, archives) they reach by Private Google Access, which asks for no Cloud NAT: a service that
# answers photos has nobody else to call, and neither has who might break into it.

locals {
  # Where Google's front ends and health checks come from.
  balancer_ranges = ["35.191.0.0/16", "130.211.0.0/22"]
  service_port    = 8000
}

resource "google_compute_network" "this" {
  name                    = var.name
  auto_create_subnetworks = false

  depends_on = [google_project_service.this]
}

resource "google_compute_subnetwork" "this" {
  name                     = var.name
  network                  = google_compute_network.this.id
  ip_cidr_range            = "10.10.0.0/24"
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

# A network lets nothing in but what is named.
resource "google_compute_firewall" "balancer" {
  name                    = "${var.name}-balancer"
  description             = "The balancer and its health checks, to the gateway's port only"
  network                 = google_compute_network.this.id
  source_ranges           = local.balancer_ranges
  target_service_accounts = [google_service_account.vm.email]

  allow {
    protocol = "tcp"
    ports    = [tostring(local.service_port)]
  }
}

resource "google_compute_firewall" "iap_ssh" {
  count = var.allow_iap_ssh ? 1 : 0

  name                    = "${var.name}-iap-ssh"
  description             = "SSH through Identity-Aware Proxy, which knows who may"
  network                 = google_compute_network.this.id
  source_ranges           = ["35.235.240.0/20"]
  target_service_accounts = [google_service_account.vm.email]

  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}
