#!/usr/bin/env bash
# Puts a contract on a chain, unless it is there: deploy.sh CHAIN_ID CONTRACT
. "$(dirname "$0")/contract.sh"
if there; then
    echo "$contract is on chain $chain_id already: $address"
    exit 0
fi
[ "$(cast code "$proxy")" != 0x ] || fail "chain $chain_id has no deployment proxy at $proxy"
need_key
# Gas is free on chain 138, and the deployer has no money there.
fees=()
if [ "$chain_id" = 138 ]; then fees=(--legacy --gas-price 0); fi
cast send "$proxy" "$salt${init_code#0x}" --keystore "$ETH_KEYSTORE" --password-file "$ETH_PASSWORD" "${fees[@]}" \
    --json | jq -se '.[0].status == "0x1"' >/dev/null || fail "the transaction failed"
there || fail "$contract is not at $address after its transaction"
echo "$contract is on chain $chain_id: $address"
