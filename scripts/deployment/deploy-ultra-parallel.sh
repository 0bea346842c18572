#!/bin/sh
# Deploys chain 138 without barriers: a task starts when its own dependencies are done. Options of `pccl deploy run` may follow.
exec "${PCCL:-pccl}" deploy run "$(dirname "$0")/../../deployments/besu-138/deploy.yaml" --mode ultra "$@"
