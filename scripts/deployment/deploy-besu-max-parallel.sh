#!/bin/sh
# Rolls out the 48 validators of chain 138 side by side. Options of `pccl deploy run` may follow.
exec "${PCCL:-pccl}" deploy run "$(dirname "$0")/../../deployments/besu-138/deploy.yaml" --mode max --only besu "$@"
