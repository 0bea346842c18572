#!/usr/bin/env bash
# Puts the fleet's secrets and the region's name into a cluster: settings.sh CONTEXT REGIONS
#
# REGIONS           how many there are: so many peers take part in the all-reduce that verifies the fleet
#
# PCCL_AUTH_SECRET  what peers and masters prove to each other that they belong together
# PCCL_STORE_URL    where the masters keep their state: postgres://…
#
# Secrets travel through pipes and shell built-ins: they are in no process list and in no file.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: $0 CONTEXT REGIONS" >&2; exit 1; }
context=$1
regions=$2
: "${PCCL_AUTH_SECRET:?set it to the fleet\'s secret}" "${PCCL_STORE_URL:?set it to the URL of the masters\' store}"

apply() { kubectl --context "$context" --namespace pccl apply --server-side --force-conflicts -f -; }
secret() { kubectl create secret generic "$1" --namespace pccl --from-file="$2=/dev/stdin" --dry-run=client -o json; }

printf %s "$PCCL_AUTH_SECRET" | secret pccl-auth secret | apply
printf %s "$PCCL_STORE_URL" | secret pccl-store url | apply
kubectl create configmap pccl-region --namespace pccl --from-literal="site=$context" --from-literal="regions=$regions" \
    --dry-run=client -o json | apply
