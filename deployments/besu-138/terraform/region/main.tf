# What a region is made of, as Terraform's built-in resources: the graph, the names and the address plan of the real
# thing, without a provider. For a cloud, replace each resource by the provider's (docs/besu.md has the list); addresses,
# dependencies and outputs stay, and with them the deployment file.

locals {
  name    = "chain-${var.chain_id}-${var.region}"
  network = "10.${var.address_base}.0.0/16"
}

resource "terraform_data" "resource_group" {
  input = { name = local.name, region = var.region }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}

resource "terraform_data" "network" {
  input = { group = terraform_data.resource_group.output.name, space = local.network }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}

resource "terraform_data" "subnet_nodes" {
  input = { group = terraform_data.network.output.group, prefix = cidrsubnet(local.network, 4, 0) }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}

resource "terraform_data" "subnet_services" {
  input = { group = terraform_data.network.output.group, prefix = cidrsubnet(local.network, 4, 1) }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}

resource "terraform_data" "security_group" {
  input = { group = terraform_data.resource_group.output.name, open = ["30303/tcp"] }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}

resource "terraform_data" "public_address" {
  count = 2
  input = { group = terraform_data.resource_group.output.name, validator = "${var.region}-${count.index}" }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}

resource "terraform_data" "identity" {
  input = { group = terraform_data.resource_group.output.name }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}

resource "terraform_data" "key_vault" {
  input = { identity = terraform_data.identity.id, group = terraform_data.resource_group.output.name }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}

resource "terraform_data" "log_workspace" {
  input = { group = terraform_data.resource_group.output.name }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}

resource "terraform_data" "cluster" {
  input = {
    name     = local.name
    subnet   = terraform_data.subnet_nodes.output.prefix
    services = terraform_data.subnet_services.output.prefix
    identity = terraform_data.identity.id
    security = terraform_data.security_group.id
    logs     = terraform_data.log_workspace.id
  }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}

resource "terraform_data" "node_pool" {
  input = { cluster = terraform_data.cluster.output.name, nodes = var.nodes }
  provisioner "local-exec" { command = "sleep ${var.work_seconds}" }
}
