#!/bin/sh
# Configures the 24 clusters of chain 138 side by side. Options of `pccl deploy up` may follow.
exec "${PCCL:-pccl}" deploy up "$(dirname "$0")/../../deployments/besu-138/deploy.yaml" --mode max --only kubernetes "$@"
