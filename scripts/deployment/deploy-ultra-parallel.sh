#!/bin/sh
# Deploys chain 138 without barriers: a task starts when its own dependencies are done. Options of `pccl deploy up` may follow.
exec "${PCCL:-pccl}" deploy up "$(dirname "$0")/../../deployments/besu-138/deploy.yaml" --mode ultra "$@"
