output "deployment" {
  description = "The cluster and what belongs to it."
  value = {
    cluster = terraform_data.cluster.output.name
    network = terraform_data.network.output.space
    nodes   = terraform_data.node_pool.output.nodes
  }
}
