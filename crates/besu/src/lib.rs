//! A QBFT network of Besu nodes, as files: genesis, node keys, `static-nodes.json`, the configuration of every
//! validator, and what Kubernetes needs to run them.
//!
//! Pure: no file, clock or entropy. [`generate`] takes a [`Network`] and a source of 32 random bytes and returns
//! [`File`]s by path; the caller writes them, the secret ones for nobody else's eyes. The same bytes give the same
//! network, so that a test can hold every figure.
//!
//! | room | what |
//! | --- | --- |
//! | [`network`] | what is asked for: chain, regions, validators, ports; what is refused |
//! | [`key`] | node keys on secp256k1, addresses, enodes |
//! | [`qbft`] | `extraData` of the genesis block, written and read |
//! | [`genesis`] | the genesis file |
//! | [`options`] | the options of a validator, as TOML and as a command line |
//! | [`manifests`] | the Kubernetes objects of a region and of a validator |
//! | [`files`] | all of it by path |
#![forbid(unsafe_code)]

pub mod files;
pub mod genesis;
pub mod key;
pub mod manifests;
pub mod network;
pub mod options;
pub mod qbft;

pub use files::{File, Visibility, generate};
pub use key::{Address, NodeKey};
pub use network::{Network, NetworkError, REGIONS, Validator};
