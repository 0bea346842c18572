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

  validation {
    condition     = alltrue([for number in values(var.regions) : number >= 0 && number <= 255])
    error_message = "An address space is 10.x.0.0/16 with x from 0 to 255."
  }

  validation {
    condition     = length(distinct(values(var.regions))) == length(var.regions)
    error_message = "Two regions must not share an address space."
  }
}

variable "chain_id" {
  description = "The chain's number, in the names of resources."
  type        = number
  default     = 138
}

variable "nodes" {
  description = "Nodes of each cluster; its validators are spread over them."
  type        = number
  default     = 3
}

variable "work_seconds" {
  description = "How long each resource takes to create: for trying the deployment without a cloud."
  type        = number
  default     = 0
}
