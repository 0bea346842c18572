#!/bin/sh
# Deploys chain 138 phase by phase, each at full width. Options of `pccl deploy run` may follow.
exec "${PCCL:-pccl}" deploy run "$(dirname "$0")/../../deployments/besu-138/deploy.yaml" --mode max "$@"
