# A region of the fleet, as Terraform's built-in resources: replace each by the provider's.
variable "region" {
  description = "The region's name, as the cloud calls it."
  type        = string
}

variable "address_base" {
  description = "x of the region's address space 10.x.0.0/16."
  type        = number
}

locals {
  name = "pccl-${var.region}"
}

resource "terraform_data" "resource_group" {
  input = { name = local.name, region = var.region }
}

resource "terraform_data" "network" {
  input = { group = terraform_data.resource_group.output.name, space = "10.${var.address_base}.0.0/16" }
}

# Master: TCP and UDP 7117. Peers among each other: TCP 7118 to 7150. Metrics: TCP 9090, inside.
resource "terraform_data" "security_group" {
  input = { group = terraform_data.resource_group.output.name, open = ["7117/tcp", "7117/udp", "7118-7150/tcp"] }
}

resource "terraform_data" "identity" {
  input = { group = terraform_data.resource_group.output.name }
}

resource "terraform_data" "cluster" {
  input = {
    name     = local.name
    network  = terraform_data.network.output.space
    security = terraform_data.security_group.id
    identity = terraform_data.identity.id
  }
}

resource "terraform_data" "node_pool" {
  input = { cluster = terraform_data.cluster.output.name, nodes = 3 }
}

output "cluster" {
  description = "The cluster's name."
  value       = terraform_data.cluster.output.name
}
