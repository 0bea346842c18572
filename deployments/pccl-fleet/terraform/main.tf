# One module per region, so that a region is deployed, retried and destroyed by its address.
terraform {
  required_version = ">= 1.5"
}

variable "regions" {
  description = "Regions, and the second number of their address space 10.x.0.0/16."
  type        = map(number)
  default = {
    northeurope        = 1
    uksouth            = 2
    ukwest             = 3
    francecentral      = 4
    germanywestcentral = 5
    switzerlandnorth   = 6
    italynorth         = 7
    norwayeast         = 8
    polandcentral      = 9
    spaincentral       = 10
    swedencentral      = 11
    belgiumcentral     = 12
    australiaeast      = 13
    australiasoutheast = 14
    eastasia           = 15
    southeastasia      = 16
    centralindia       = 17
    southindia         = 18
    westindia          = 19
    japaneast          = 20
    japanwest          = 21
    koreacentral       = 22
    koreasouth         = 23
    canadacentral      = 24
  }
}

module "region_deployment" {
  source       = "./region"
  for_each     = var.regions
  region       = each.key
  address_base = each.value
}

output "regions" {
  description = "The cluster of each region."
  value       = { for name, region in module.region_deployment : name => region.cluster }
}
