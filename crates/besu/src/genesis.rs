//! The genesis file of a QBFT network without a price for gas.

use serde_json::{Value, json};

use crate::key::{Address, hex};
use crate::network::Network;
use crate::qbft;

/// Marks blocks of the Istanbul family; Besu's documentation gives it for QBFT.
const MIX_HASH: &str = "0x63746963616c2062797a616e74696e65206661756c7420746f6c6572616e6365";

/// Where the deterministic deployment proxy lives on the public chains, and here from the first block on: a contract
/// sent to it gets an address that follows from its code and a salt alone. So deploying twice is harmless, and whether
/// it is there can be asked.
pub const DEPLOYMENT_PROXY: &str = "4e59b44847b379578588920ca78fbf26c0b4956c";

/// Its code, as it is on the public chains: create2 with the first word as salt and the rest as init code.
const DEPLOYMENT_PROXY_CODE: &str = "0x7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe0\
                                     3601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3";

/// The genesis block and the rules of the chain. Forks up to London are on from the first block; the base fee is zero
/// for ever, so that a transaction costs nothing.
pub fn genesis(network: &Network, validators: &[Address]) -> Value {
    let mut ascending = validators.to_vec();
    ascending.sort_unstable();
    let mut genesis = json!({
        "config": {
            "chainId": network.chain_id,
            "londonBlock": 0,
            "zeroBaseFee": true,
            "qbft": {
                "blockperiodseconds": network.block_period_s,
                "epochlength": network.epoch_length,
                "requesttimeoutseconds": network.request_timeout_s,
            },
        },
        "nonce": "0x0",
        "timestamp": "0x0",
        "gasLimit": format!("0x{:x}", network.gas_limit),
        "difficulty": "0x1",
        "mixHash": MIX_HASH,
        "coinbase": "0x0000000000000000000000000000000000000000",
        "alloc": {},
        "extraData": format!("0x{}", hex(&qbft::extra_data(&ascending))),
    });
    genesis["alloc"][DEPLOYMENT_PROXY] = json!({ "balance": "0x0", "code": DEPLOYMENT_PROXY_CODE });
    genesis
}
