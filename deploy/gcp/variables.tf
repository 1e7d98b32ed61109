variable "project" {
  description = "Id of the Google Cloud project."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project's id has 6 to 30 small letters, digits and hyphens, a letter first."
  }
}

variable "region" {
  description = "Where the VMs run; they are spread over three of its zones."
  type        = string
  default     = "europe-west1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "A region, as europe-west1, not a zone, as europe-west1-b."
  }
}

variable "name" {
  description = "What everything made here is called, or starts with."
  type        = string
  default     = "car-identifier"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,22}[a-z0-9]$", var.name))
    error_message = "Up to 24 small letters, digits and hyphens, a letter first."
  }
}

variable "domains" {
  description = "Host names of the service. Each needs an A record that points to the output `address`."
  type        = list(string)

  validation {
    condition     = length(var.domains) > 0 && alltrue([for it in var.domains : can(regex("^[a-z0-9-]+(\\.[a-z0-9-]+)+$", it))])
    error_message = "One host name or more, as [\"cars.example.org\"]: no scheme, no path, no wildcard."
  }
}

variable "image" {
  description = "The container image in Artifact Registry, named by its digest."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]+-docker\\.pkg\\.dev/[a-z0-9./_-]+@sha256:[0-9a-f]{64}$", var.image))
    error_message = "Name it as REGION-docker.pkg.dev/PROJECT/REPOSITORY/car-identifier@sha256:…: a tag can come to mean another image."
  }
}

variable "archive" {
  description = "A model archive in a bucket, to be served instead of the image's own: its gs:// address and checksum."
  type = object({
    uri    = string
    sha256 = string
  })
  default = null

  validation {
    condition = var.archive == null || (
      can(regex("^gs://[a-z0-9._-]+/[A-Za-z0-9._/-]+\\.mar$", var.archive.uri)) &&
      can(regex("^[0-9a-f]{64}$", var.archive.sha256))
    )
    error_message = "An archive is { uri = \"gs://BUCKET/car_identifier-1.2.mar\", sha256 = \"64 hexadecimal digits\" }."
  }
}

variable "environment" {
  description = "Settings of the service beyond those that follow from this folder: CARID_… and its value."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for name, value in var.environment :
      can(regex("^CARID_[A-Z0-9_]+$", name)) && !strcontains(value, "\n") &&
      !contains(["CARID_API_KEYS_FILE", "CARID_ARCHIVE", "CARID_TRUSTED_PROXIES"], name)
    ])
    error_message = "Names start with CARID_, values are one line; API keys, archive and proxies are set by this folder."
  }
}

variable "machine_type" {
  description = "Of a VM. The model runs in 8 bits: a CPU with VNNI or AMX (c3, n4, n2) is what makes it fast."
  type        = string
  default     = "c3-standard-4"
}

variable "replicas" {
  description = "How many VMs, at least and at most."
  type = object({
    min = number
    max = number
  })
  default = { min = 2, max = 6 }

  validation {
    condition     = var.replicas.min >= 1 && var.replicas.max >= var.replicas.min
    error_message = "At least one VM, and no more at least than at most."
  }
}

variable "disk_gb" {
  description = "Size of a VM's disk in GB: the system, two images, logs (100 MB at most) and archives."
  type        = number
  default     = 30

  validation {
    condition     = var.disk_gb >= 20
    error_message = "At least 20 GB: an update needs room for two images."
  }
}

variable "cos_family" {
  description = "Image family of Container-Optimized OS. A new VM gets the family's newest image."
  type        = string
  default     = "cos-stable"

  validation {
    condition     = startswith(var.cos_family, "cos-")
    error_message = "A family of the project cos-cloud, as cos-stable or that of a long-term milestone."
  }
}

variable "requests_per_minute" {
  description = "Cloud Armor refuses an address that sends more requests a minute; null: no Cloud Armor."
  type        = number
  default     = null
}

variable "allow_iap_ssh" {
  description = "Let Identity-Aware Proxy open SSH connections to the VMs; nobody else can."
  type        = bool
  default     = false
}

variable "labels" {
  description = "Put on everything that can have labels."
  type        = map(string)
  default     = { app = "car-identifier" }
}
