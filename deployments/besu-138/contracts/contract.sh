# What deploy.sh and verify.sh share: sourced with CHAIN_ID and CONTRACT as arguments.
#
# CHAIN_<number>_RPC     URL of a node of that chain
# ETH_KEYSTORE           the deployer's key store, a file (docs/besu.md); never a bare key
# ETH_PASSWORD           file with its password
# ETH_FROM               the deployer's address; verify.sh needs no key then
#
# Contracts go through the deterministic deployment proxy: the address follows from code, owner and salt, so that a
# second attempt finds what the first one did.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }

[ $# -eq 2 ] || fail "usage: $0 CHAIN_ID CONTRACT"
chain_id=$1 contract=$2
here=$(cd "$(dirname "$0")" && pwd)
variable="CHAIN_${chain_id}_RPC"
rpc=${!variable:-}
[ -n "$rpc" ] || fail "set $variable to the URL of a node of chain $chain_id"
need_key() {
    [ -f "${ETH_KEYSTORE:-}" ] || fail "set ETH_KEYSTORE to the deployer's key store: cast wallet new FOLDER"
    [ -f "${ETH_PASSWORD:-}" ] || fail "set ETH_PASSWORD to a file with the password of $ETH_KEYSTORE"
}
if [ -z "${ETH_FROM:-}" ]; then
    # cast takes an empty address for a wrong one.
    unset ETH_FROM
    need_key
fi
for tool in cast solcjs jq; do
    command -v "$tool" >/dev/null || fail "\`$tool\` is not on the PATH: npm install @foundry-rs/cast solc; apt install jq"
done
export ETH_RPC_URL=$rpc
proxy=0x4e59b44847b379578588920ca78fbf26c0b4956c
salt=0x$(printf '%064x' 138)

# A contract for one chain must never be sent to another.
found=$(cast chain-id) || fail "no node of chain $chain_id answers at $rpc"
[ "$found" = "$chain_id" ] || fail "the node at $rpc is of chain $found, not $chain_id"

# The same compiler and settings everywhere: the address depends on every byte. London is what chain 138 begins with.
compiled=$(jq -n --rawfile source "$here/src/$contract.sol" --arg name "$contract" '{
    language: "Solidity",
    sources: { ($name): { content: $source } },
    settings: {
        evmVersion: "london",
        optimizer: { enabled: true, runs: 200 },
        metadata: { bytecodeHash: "none", appendCBOR: false },
        outputSelection: { "*": { "*": ["evm.bytecode.object", "evm.deployedBytecode.object"] } },
    },
}' | solcjs --standard-json | sed -n '/^{/,$p')
problems=$(jq -r '.errors[]? | select(.severity == "error") | .formattedMessage' <<<"$compiled")
[ -z "$problems" ] || fail "$contract does not compile: $problems"
field() { jq -re --arg name "$contract" ".contracts[\$name][\$name].evm.$1.object" <<<"$compiled"; }
if [ -n "${ETH_FROM:-}" ]; then
    owner=$(cast to-check-sum-address "$ETH_FROM")
else
    owner=$(cast wallet address --keystore "$ETH_KEYSTORE" --password-file "$ETH_PASSWORD")
fi
init_code=0x$(field bytecode)$(cast abi-encode 'f(address)' "$owner" | cut -c3-)
runtime=0x$(field deployedBytecode)
# Everything of the output but the address is decoration.
address=$(cast compute-address --salt "$salt" --init-code "$init_code" "$proxy" | grep -oE '0x[0-9a-fA-F]{40}')

there() { [ "$(cast code "$address")" = "$runtime" ]; }
