# VMs that come up by themselves, are healed, grow in number with the load, and are replaced one by one.

locals {
  # The balancer asks every 5 s and looks away after two failures; then come new requests no more.
  drain_s = 15
  # Requests under way are finished within 30 s of that (docs/gateway.md); the rest is to be sure.
  finish_s = 60

  environment = merge(
    {
      CARID_DRAIN_S = tostring(local.drain_s)
      # Google's proxies keep an idle connection for 600 s. Who hangs up first may hang up on a request.
      CARID_KEEP_ALIVE_S = "620"
    },
    var.environment,
    {
      # X-Forwarded-For ends in the caller's address and the balancer's own: to find the caller's, the
      # gateway has to know that all others are proxies.
      CARID_TRUSTED_PROXIES = join(",", concat(local.balancer_ranges, [google_compute_global_address.this.address]))
    },
  )

  archive_metadata = var.archive == null ? {} : {
    car-identifier-archive        = var.archive.uri
    car-identifier-archive-sha256 = var.archive.sha256
  }
}

data "google_compute_image" "cos" {
  family  = var.cos_family
  project = "cos-cloud"
}

resource "google_compute_instance_template" "this" {
  name_prefix  = "${var.name}-"
  machine_type = var.machine_type

  metadata = merge(local.archive_metadata, {
    user-data             = file("${path.module}/cloud-config.yaml")
    car-identifier-image  = var.image
    car-identifier-secret = google_secret_manager_secret.api_keys.id
    car-identifier-port   = tostring(local.service_port)
    car-identifier-env    = join("\n", [for name, value in local.environment : "${name}=${value}"])

    google-logging-enabled    = "true"
    google-monitoring-enabled = "true"
    enable-oslogin            = "TRUE"
    block-project-ssh-keys    = "TRUE"
    serial-port-enable        = "FALSE"
  })

  disk {
    source_image = data.google_compute_image.cos.self_link
    boot         = true
    auto_delete  = true
    disk_type    = "pd-balanced"
    disk_size_gb = var.disk_gb
  }

  network_interface {
    # No access_config: no public address.
    subnetwork = google_compute_subnetwork.this.id
    nic_type   = "GVNIC"
  }

  service_account {
    email  = google_service_account.vm.email
    scopes = ["cloud-platform"] # what it may do is said by its roles
  }

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  lifecycle {
    create_before_destroy = true
  }
}

# Whom to send photos to: asked often, so that a VM that is not ready or is about to stop gets no more.
resource "google_compute_health_check" "balancing" {
  name                = "${var.name}-balancing"
  check_interval_sec  = 5
  timeout_sec         = 5
  healthy_threshold   = 2
  unhealthy_threshold = 2

  http_health_check {
    port         = local.service_port
    request_path = "/readyz"
  }

  depends_on = [google_project_service.this]
}

# Whom to replace. It asks for readiness too, since an update goes on to the next VM when this check
# says that the new one is healthy, and the gateway alone is up before the model is. And it is slow: a
# container that is not ready for five minutes starts itself anew; only what that does not mend is a
# case for a new VM.
resource "google_compute_health_check" "healing" {
  name                = "${var.name}-healing"
  check_interval_sec  = 60
  timeout_sec         = 10
  healthy_threshold   = 1
  unhealthy_threshold = 10

  http_health_check {
    port         = local.service_port
    request_path = "/readyz"
  }

  log_config {
    enable = true
  }

  depends_on = [google_project_service.this]
}

resource "google_compute_region_instance_group_manager" "this" {
  name               = var.name
  base_instance_name = var.name
  region             = var.region

  version {
    instance_template = google_compute_instance_template.this.self_link_unique
  }

  named_port {
    name = "http"
    port = local.service_port
  }

  auto_healing_policies {
    health_check      = google_compute_health_check.healing.self_link
    initial_delay_sec = 600 # boot, image of more than a gigabyte, model
  }

  update_policy {
    type                  = "PROACTIVE"
    minimal_action        = "REPLACE"
    replacement_method    = "SUBSTITUTE"
    max_surge_fixed       = 3 # one a zone, the least that a group of three zones takes
    max_unavailable_fixed = 0
  }

  depends_on = [
    google_artifact_registry_repository_iam_member.vm,
    google_secret_manager_secret_iam_member.vm,
    google_storage_bucket_iam_member.vm,
  ]
}

resource "google_compute_region_autoscaler" "this" {
  name   = var.name
  region = var.region
  target = google_compute_region_instance_group_manager.this.id

  autoscaling_policy {
    min_replicas    = var.replicas.min
    max_replicas    = var.replicas.max
    cooldown_period = 180 # a new VM's load says nothing until its model is up

    # A photo's cost is CPU time, all of it here, and the answer gets slow only when that runs out.
    cpu_utilization {
      target = 0.65
    }

    scale_in_control {
      time_window_sec = 600
      max_scaled_in_replicas {
        fixed = 1
      }
    }
  }
}
