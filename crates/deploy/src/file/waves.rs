//! Gradual rollout, and what must stay true meanwhile.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, Share, Time};

/// Targets in groups, one after the other, with gates between. Exactly one of `sizes`, `fan_out`, `groups`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Waves {
    /// Sizes of the waves, in the order of the targets: `[8, 16]`. What is left over is one more wave.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<u32>,
    /// Each wave so many times as large as all before it together; the first is one target. 3 gives 1, 3, 12, ….
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fan_out: Option<u32>,
    /// Names of targets, wave by wave. Targets that are not named are one more wave.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Vec<String>>,
    /// Time to wait after a wave before its gates are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bake: Option<Time>,
    /// What must be true before the next wave begins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// Targets of one wave that may fail; with more, the next wave does not begin.
    pub max_failures: Share,
}

/// A question between two waves.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Its name.
    pub name: String,
    /// What asks: it succeeds, or the rollout stops. Templates have `wave` (from 1).
    pub run: Action,
    /// Longest time.
    #[serde(default = "default_timeout")]
    pub timeout: Time,
}

fn default_timeout() -> Time {
    Time::from_secs(600)
}

/// When to stop starting new targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Failures {
    /// Targets that may fail; with more, no new task begins. Left out: the others are finished whatever fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Share>,
    /// Never risk more than `max`: at most max + 1 − failed targets are worked on at once. Safe, and slow.
    pub strict: bool,
}

impl Default for Share {
    fn default() -> Self {
        Self::Count(0)
    }
}

/// So many must always be up. A task of a phase in `disrupted_by` takes down what it works on until it has succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Invariant {
    /// Its name.
    pub name: String,
    /// `targets`, or the name of a list.
    pub of: String,
    /// So many of them must be up.
    pub min_up: u32,
    /// Phases whose tasks take down their item, or all items of their target.
    pub disrupted_by: Vec<String>,
}
