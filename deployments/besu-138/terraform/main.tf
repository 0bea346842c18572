# One module per region, so that a region is deployed, retried and destroyed by its address:
# terraform apply -target='module.region_deployment["ukwest"]'
terraform {
  required_version = ">= 1.5"
}

module "region_deployment" {
  source   = "./region"
  for_each = var.regions

  region       = each.key
  address_base = each.value
  chain_id     = var.chain_id
  nodes        = var.nodes
  work_seconds = var.work_seconds
}

output "regions" {
  description = "What each region got, by its name."
  value       = { for name, region in module.region_deployment : name => region.deployment }
}
