//! Phases: what runs, for what, after what, and how failures are met.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Action, Calls, Time};

/// A step of the deployment, repeated for each target or item.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// What it does, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `targets`, or the name of a list. Left out: it runs once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<String>,
    /// Only for targets with these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub only: BTreeMap<String, String>,
    /// Phases that come before: a name waits for the tasks of the same target (or item), `{ phase: NAME, all: true }`
    /// for all of its tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// What runs.
    pub run: Action,
    /// What is true when it is done. Runs after `run`, and decides on resume about a task that was in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Action>,
    /// What `pccl deploy down` runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Action>,
    /// Longest time of one attempt.
    #[serde(default = "default_timeout")]
    pub timeout: Time,
    /// How often to try again.
    #[serde(default)]
    pub retry: Retry,
    /// On resume, what to do with a task that was in flight and has no `verify`.
    #[serde(default)]
    pub on_unknown: OnUnknown,
    /// How long one task takes, until the journal knows better: `12m`, or `{ mean: 12m, cv: 0.3 }`.
    #[serde(default)]
    pub takes: Estimate,
    /// API calls of one task, for admission and prediction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Calls>,
    /// How much of the width one task takes: for Terraform, the resources it creates at the same time.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub slots: u32,
    /// Most tasks of this phase at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// A template; tasks with the same text never run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
}

/// What a phase waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct After {
    /// Name of the phase.
    pub phase: String,
    /// Wait for all of its tasks, not only for those of the same target.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// How often and when to try again. The pause before try n is random, from 0 to min(`cap`, `base`·2ⁿ).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all. Those that end because the API throttles or a resource is locked do not count here.
    pub attempts: u32,
    /// Attempts that may end because the API throttles or a resource is locked.
    pub throttled: u32,
    /// Scale of the first pause.
    pub base: Time,
    /// Longest pause.
    pub cap: Time,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, throttled: 20, base: Time::from_secs(2), cap: Time::from_secs(60) }
    }
}

/// What to do with a task whose outcome the journal does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// Run it again: it is safe to.
    Rerun,
    /// Count it as failed.
    Fail,
    /// Ask; without a terminal, count it as failed.
    #[default]
    Ask,
}

/// How long one task takes: a mean and a coefficient of variation (lognormal).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Mean time.
    pub mean: Time,
    /// Standard deviation over mean.
    pub cv: f64,
}

impl Default for Estimate {
    fn default() -> Self {
        Self { mean: Time::from_secs(60), cv: 0.3 }
    }
}

fn default_timeout() -> Time {
    Time::from_secs(3600)
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_one(slots: &u32) -> bool {
    *slots == 1
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FullAfter {
    phase: String,
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FullEstimate {
    mean: Time,
    #[serde(default = "default_cv")]
    cv: f64,
}

fn default_cv() -> f64 {
    Estimate::default().cv
}

impl<'de> Deserialize<'de> for After {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameOrSection;
        impl<'de> Visitor<'de> for NameOrSection {
            type Value = After;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a phase, or `{ phase: NAME, all: true }`")
            }

            fn visit_str<E: de::Error>(self, phase: &str) -> Result<After, E> {
                Ok(After { phase: phase.to_owned(), all: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<After, A::Error> {
                let FullAfter { phase, all } = FullAfter::deserialize(MapAccessDeserializer::new(map))?;
                Ok(After { phase, all })
            }
        }
        from.deserialize_any(NameOrSection)
    }
}

impl<'de> Deserialize<'de> for Estimate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TimeOrSection;
        impl<'de> Visitor<'de> for TimeOrSection {
            type Value = Estimate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time, or `{ mean: TIME, cv: NUMBER }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Estimate, E> {
                Ok(Estimate { mean: Time::parse(text).map_err(E::custom)?, ..Estimate::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Estimate, A::Error> {
                let FullEstimate { mean, cv } = FullEstimate::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Estimate { mean, cv })
            }
        }
        from.deserialize_any(TimeOrSection)
    }
}

impl JsonSchema for After {
    fn schema_name() -> Cow<'static, str> {
        "After".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let full = generator.subschema_for::<FullAfter>();
        json_schema!({ "description": "What a phase waits for", "anyOf": [{ "type": "string" }, full] })
    }
}

impl JsonSchema for Estimate {
    fn schema_name() -> Cow<'static, str> {
        "Estimate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let time = generator.subschema_for::<Time>();
        let full = generator.subschema_for::<FullEstimate>();
        json_schema!({ "description": "How long one task takes", "anyOf": [time, full] })
    }
}
