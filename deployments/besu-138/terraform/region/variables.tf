variable "region" {
  description = "The region's name, as the cloud calls it."
  type        = string
}

variable "address_base" {
  description = "x of the region's address space 10.x.0.0/16."
  type        = number
}

variable "chain_id" {
  description = "The chain's number."
  type        = number
}

variable "nodes" {
  description = "Nodes of the cluster."
  type        = number
}

variable "work_seconds" {
  description = "How long each resource takes to create."
  type        = number
}
