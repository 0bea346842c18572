#!/usr/bin/env bash
# Tells whether a contract is on a chain, byte for byte, and belongs to the deployer: verify.sh CHAIN_ID CONTRACT
. "$(dirname "$0")/contract.sh"
there || fail "$contract is not at $address on chain $chain_id"
[ "$(cast call "$address" 'owner()(address)')" = "$owner" ] || fail "$contract at $address has another owner"
echo "$contract is at $address on chain $chain_id, as compiled, owned by $owner"
