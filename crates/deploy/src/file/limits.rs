//! What the clouds allow, as data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Rate, Time};

/// The limits of one API, for each scope that it counts by.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Its name, for `calls`.
    pub scope: String,
    /// A template; each different text is a scope with buckets of its own. Left out: one scope for all tasks.
    /// `"{{ target.labels.subscription }}"`, `"{{ target.labels.subscription }}/{{ target.name }}"`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Known limits to start from; `buckets` here win.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// A token bucket for each kind of call: `write: { burst: 200, refill: 10/s }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub buckets: BTreeMap<String, Bucket>,
    /// Part of the buckets that this deployment may use, above 0 and up to 1. What it leaves is for others that call as the
    /// same principal; where there are none, 1.
    #[serde(default = "share")]
    pub share: f64,
    /// How many slots may use the scope at once.
    #[serde(default)]
    pub concurrency: ConcurrencyLimit,
}

/// A token bucket: `burst` at once, refilled at a rate.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Most calls at once.
    pub burst: u32,
    /// Calls that come back: `10/s`.
    pub refill: Rate,
}

/// Adaptive concurrency: halved when the API throttles, at most once in a round trip; then it grows by one for each
/// window of successes, as long as it is the constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConcurrencyLimit {
    /// Slots at the beginning.
    pub start: u32,
    /// Never fewer.
    pub min: u32,
    /// Never more.
    pub max: u32,
}

impl Default for ConcurrencyLimit {
    fn default() -> Self {
        Self { start: 512, min: 1, max: 512 }
    }
}

/// API calls of one task.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calls {
    /// Name of the scope, as in `limits`.
    pub scope: String,
    /// Kind of call, as in the scope's buckets: `read`, `write`, `delete`.
    pub kind: String,
    /// How many at the start; with `every`, how many each time.
    #[serde(default = "one")]
    pub count: u32,
    /// Polling: `count` calls, again and again while the task runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Time>,
}

fn one() -> u32 {
    1
}

fn share() -> f64 {
    0.9
}

/// Limits that are published by the clouds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Azure Resource Manager, for each subscription, principal and region of the caller: `read` 250 + 25/s,
    /// `write` 200 + 10/s, `delete` 200 + 10/s.
    AzureResourceManager,
    /// Azure network provider, for each subscription and region: `write` 1,000 and `read` 10,000 in 5 minutes.
    AzureNetwork,
    /// Azure compute provider, for each subscription and region: `write` 1,500 + 500/min.
    AzureCompute,
    /// Azure Kubernetes Service, for each cluster collection: `write` 20 + 1/min, `list` 500 + 1/s.
    AzureAks,
    /// AWS EC2, for each account and region: `read` 100 + 20/s, `write` 50 + 5/s, `run` 5 + 2/s.
    AwsEc2,
    /// Google Compute Engine, for each project: 1,500 a minute each for `read` and `write`.
    GcpCompute,
}

impl Preset {
    /// Its buckets.
    pub fn buckets(self) -> BTreeMap<String, Bucket> {
        let figures: &[(&str, u32, &str)] = match self {
            Self::AzureResourceManager => {
                &[("read", 250, "25/s"), ("write", 200, "10/s"), ("delete", 200, "10/s")]
            }
            Self::AzureNetwork => &[("write", 1000, "1000/5min"), ("read", 10_000, "10000/5min")],
            Self::AzureCompute => &[("write", 1500, "500/min")],
            Self::AzureAks => &[("write", 20, "1/min"), ("list", 500, "1/s")],
            Self::AwsEc2 => &[("read", 100, "20/s"), ("write", 50, "5/s"), ("run", 5, "2/s")],
            Self::GcpCompute => &[("read", 1500, "1500/min"), ("write", 1500, "1500/min")],
        };
        let bucket = |&(kind, burst, refill): &(&str, u32, &str)| {
            Rate::parse(refill).ok().map(|refill| (kind.to_owned(), Bucket { burst, refill }))
        };
        figures.iter().filter_map(bucket).collect()
    }
}

impl Limit {
    /// All buckets: the preset's, and those that the file gives.
    pub fn all_buckets(&self) -> BTreeMap<String, Bucket> {
        let mut all = self.preset.map(Preset::buckets).unwrap_or_default();
        all.extend(self.buckets.clone());
        all
    }
}
