//! What is asked for: the chain, its regions, its validators and where they are reached.

use std::collections::BTreeSet;

use crate::key::{Address, NodeKey};

/// The regions of the network when nobody names others.
pub const REGIONS: [&str; 24] = [
    "northeurope",
    "uksouth",
    "ukwest",
    "francecentral",
    "germanywestcentral",
    "switzerlandnorth",
    "italynorth",
    "norwayeast",
    "polandcentral",
    "spaincentral",
    "swedencentral",
    "belgiumcentral",
    "australiaeast",
    "australiasoutheast",
    "eastasia",
    "southeastasia",
    "centralindia",
    "southindia",
    "westindia",
    "japaneast",
    "japanwest",
    "koreacentral",
    "koreasouth",
    "canadacentral",
];

/// More are refused: every validator speaks with every other, and the genesis block names them all.
const MOST_VALIDATORS: usize = 256;

/// A label of DNS, and so a name in Kubernetes, is at most this long.
const MOST_NAME_BYTES: usize = 63;

/// What a StatefulSet and its pod put around the name of a validator: `besu-` before and `-0` behind, and a hash of
/// up to 11 bytes in the names of its revisions.
const NAME_ROOM: usize = 5 + 13;

/// A network to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The chain's number, in every transaction.
    pub chain_id: u64,
    /// Names of regions: labels of DNS. Every region is one Kubernetes cluster.
    pub regions: Vec<String>,
    /// How many validators each region has.
    pub validators_per_region: usize,
    /// Validators are reached at `<validator>.<domain>`.
    pub domain: String,
    /// Kubernetes namespace of everything.
    pub namespace: String,
    /// The container image of Besu.
    pub image: String,
    /// Least time between blocks, in seconds.
    pub block_period_s: u64,
    /// Blocks after which votes on validators are forgotten.
    pub epoch_length: u64,
    /// Time of one consensus round before the next proposer tries, in seconds. Besu advises twice the block period.
    pub request_timeout_s: u64,
    /// Gas that one block may use.
    pub gas_limit: u64,
    /// Port of the peer-to-peer protocol, TCP.
    pub p2p_port: u16,
    /// Port of JSON-RPC over HTTP.
    pub rpc_port: u16,
    /// Port of the Prometheus metrics.
    pub metrics_port: u16,
    /// Disk of each validator, in GiB.
    pub storage_gib: u32,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            chain_id: 138,
            regions: REGIONS.map(str::to_owned).to_vec(),
            validators_per_region: 2,
            domain: "besu-138.example.com".to_owned(),
            namespace: "besu".to_owned(),
            image: "hyperledger/besu:25.10.0".to_owned(),
            block_period_s: 2,
            epoch_length: 30_000,
            request_timeout_s: 4,
            gas_limit: 30_000_000,
            p2p_port: 30303,
            rpc_port: 8545,
            metrics_port: 9545,
            storage_gib: 128,
        }
    }
}

/// One validator of the network, with its key.
#[derive(Clone, Debug)]
pub struct Validator {
    /// `<region>-<number>`, numbered from 0 in each region.
    pub name: String,
    /// Where it runs.
    pub region: String,
    /// Where the others reach it.
    pub host: String,
    /// Its key.
    pub key: NodeKey,
    /// Its address, from the key.
    pub address: Address,
}

/// Why a network cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// A region or the namespace has a name that DNS and Kubernetes do not take.
    #[error(
        "{what} `{name}`: use lower-case letters, digits and hyphens, a letter first, no hyphen last, at most {most}"
    )]
    Name {
        /// Which name.
        what: &'static str,
        /// The name.
        name: String,
        /// Its greatest length in bytes.
        most: usize,
    },
    /// The same region twice.
    #[error("region `{0}` is named twice")]
    RegionTwice(String),
    /// Fewer than QBFT needs to survive one faulty validator, or more than it carries.
    #[error(
        "{0} validators: QBFT needs 4 to survive the loss of one, and this makes at most {MOST_VALIDATORS}"
    )]
    Validators(usize),
    /// A figure that makes no network.
    #[error("{what} is {value}: {why}")]
    Figure {
        /// Which figure.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The domain or the image is no domain or image.
    #[error("{what} `{text}` is not one: {why}")]
    Text {
        /// Which text.
        what: &'static str,
        /// The text.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Network {
    /// How many validators there are.
    pub fn validators(&self) -> usize {
        self.regions.len().saturating_mul(self.validators_per_region)
    }

    /// How many validators must be up for blocks to be made: QBFT's quorum, two thirds rounded up.
    pub fn quorum(&self) -> usize {
        (2 * self.validators()).div_ceil(3)
    }

    /// Refuses what Besu or Kubernetes would refuse later.
    pub fn check(&self) -> Result<(), NetworkError> {
        label("namespace", &self.namespace, MOST_NAME_BYTES)?;
        let digits = self.validators_per_region.max(1).ilog10() as usize + 2;
        let mut seen = BTreeSet::new();
        for region in &self.regions {
            label("region", region, MOST_NAME_BYTES - NAME_ROOM - digits)?;
            if !seen.insert(region) {
                return Err(NetworkError::RegionTwice(region.clone()));
            }
        }
        if !(4..=MOST_VALIDATORS).contains(&self.validators()) {
            return Err(NetworkError::Validators(self.validators()));
        }
        for part in self.domain.split('.') {
            label("part of the domain", part, MOST_NAME_BYTES)?;
        }
        let strange = |c: char| !(c.is_ascii_alphanumeric() || "._-/:@".contains(c));
        if self.image.is_empty() || self.image.contains(strange) {
            let why = "use repository/name:tag or repository/name@sha256:digest";
            return Err(NetworkError::Text { what: "image", text: self.image.clone(), why });
        }
        self.check_figures()
    }

    fn check_figures(&self) -> Result<(), NetworkError> {
        let at_least_one = [
            ("the chain id", self.chain_id),
            ("the block period in seconds", self.block_period_s),
            ("the epoch length", self.epoch_length),
            ("the port of the peer-to-peer protocol", self.p2p_port.into()),
            ("the port of JSON-RPC", self.rpc_port.into()),
            ("the port of the metrics", self.metrics_port.into()),
            ("the disk in GiB", self.storage_gib.into()),
        ];
        let figure = |what, value, why| Err(NetworkError::Figure { what, value, why });
        if let Some((what, value)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return figure(what, value, "it must be at least 1");
        }
        if self.request_timeout_s <= self.block_period_s {
            let why = "a round must last longer than a block takes, or none is ever made";
            return figure("the request timeout in seconds", self.request_timeout_s, why);
        }
        // Besu's smallest gas limit; see EIP-1985.
        if self.gas_limit < 5_000 || i64::try_from(self.gas_limit).is_err() {
            return figure("the gas limit", self.gas_limit, "Besu takes 5000 to 2^63 - 1");
        }
        let ports = [self.p2p_port, self.rpc_port, self.metrics_port];
        if BTreeSet::from(ports).len() < ports.len() {
            return figure("a port", self.rpc_port.into(), "two services cannot share one");
        }
        Ok(())
    }

    /// The names of the validators, region by region.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.regions.iter().flat_map(move |region| {
            (0..self.validators_per_region).map(move |number| self.place(region, number).0)
        })
    }

    /// The name of a validator and the address where the others reach it.
    pub(crate) fn place(&self, region: &str, number: usize) -> (String, String) {
        let name = format!("{region}-{number}");
        let host = format!("{name}.{}", self.domain);
        (name, host)
    }
}

/// Refuses what is no label of DNS (RFC 1035).
fn label(what: &'static str, name: &str, most: usize) -> Result<(), NetworkError> {
    let fits = (1..=most).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-');
    if fits { Ok(()) } else { Err(NetworkError::Name { what, name: name.to_owned(), most }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_eight_validators_need_thirty_two() {
        let network = Network::default();
        assert_eq!((network.validators(), network.quorum(), network.check()), (48, 32, Ok(())));
    }

    #[test]
    fn what_kubernetes_or_besu_would_refuse_is_refused_here() {
        type Spoil = fn(&mut Network);
        let spoilt: [(Spoil, &str); 12] = [
            (|n| n.regions[3] = "North Europe".to_owned(), "region `North Europe`"),
            (|n| n.regions[3] = "x".repeat(50), "at most 43"),
            (|n| n.regions[3] = n.regions[0].clone(), "`northeurope` is named twice"),
            (|n| n.regions.truncate(1), "2 validators: QBFT needs 4"),
            (|n| n.validators_per_region = usize::MAX, "at most"),
            (|n| n.domain = "a..b".to_owned(), "part of the domain ``"),
            (|n| n.namespace = "-".to_owned(), "namespace `-`"),
            (|n| n.image = "besu; rm".to_owned(), "image `besu; rm`"),
            (|n| n.chain_id = 0, "the chain id is 0"),
            (|n| n.request_timeout_s = 2, "the request timeout in seconds is 2"),
            (|n| n.gas_limit = 10, "the gas limit is 10"),
            (|n| n.rpc_port = n.p2p_port, "two services cannot share one"),
        ];
        for (spoil, said) in spoilt {
            let mut network = Network::default();
            spoil(&mut network);
            let error = network.check().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
