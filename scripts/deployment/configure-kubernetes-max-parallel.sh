#!/bin/sh
# Configures the 24 clusters of chain 138 side by side. Options of `pccl deploy run` may follow.
exec "${PCCL:-pccl}" deploy run "$(dirname "$0")/../../deployments/besu-138/deploy.yaml" --mode max --only kubernetes "$@"
