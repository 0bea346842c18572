//! The deployment file: what the operator writes.
//!
//! [`Deployment::from_yaml`] reads and checks a file; [`schema`] describes it to editors. Every type here is what one
//! section of the file may hold; what the keys mean is said once, in their doc comments, and shown by the schema.

mod action;
mod check;
mod limits;
mod phase;
mod services;
mod targets;
#[cfg(test)]
mod tests;
mod units;
mod vars;
mod waves;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{FileError, Source};
use crate::yaml;

pub use action::{
    Action, CommandAction, EnvValue, HelmAction, HttpAction, KubectlAction, PcclAction, PrometheusAction,
    ServiceAction, TerraformAction,
};
pub use limits::{Bucket, Calls, ConcurrencyLimit, Limit, Preset};
pub use phase::{After, Estimate, OnUnknown, Phase, Retry};
pub use targets::{Count, Generated, Item, List, Target};
pub(crate) use units::saturating;
pub use units::{Rate, Share, Time};
pub use waves::{Failures, Gate, Invariant, Waves};

/// The name under which `for_each` finds the targets.
pub const TARGETS: &str = "targets";

/// A deployment file.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "pccl deployment")]
pub struct Deployment {
    /// Name of the deployment: its journal and its lock carry it.
    pub name: String,
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How much runs at once unless `--mode` says otherwise.
    #[serde(default)]
    pub mode: Mode,
    /// Most slots in use at once. Default: 50 in mode `standard`, 128 in `max`, no limit in `ultra` and `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Values for templates: `{{ vars.name }}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<String, Value>,
    /// Where secrets are found; they reach a task as environment variables or headers only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Secret>,
    /// Where to deploy: names, or names with labels and values. Waves go by their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// Other things to repeat a phase for: validators, chains.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lists: BTreeMap<String, List>,
    /// What to do. In modes with barriers, phases run in the order in which they stand here.
    pub phases: Vec<Phase>,
    /// What the clouds allow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// What must stay true in every schedule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invariants: Vec<Invariant>,
    /// Roll out to some targets first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waves: Option<Waves>,
    /// When to stop starting new targets.
    #[serde(default)]
    pub failures: Failures,
    /// Retries of all tasks together, as a share of all tasks; at least 10 are always allowed.
    #[serde(default = "default_retry_budget")]
    pub retry_budget: Share,
}

/// How much runs at once, and in which order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One task at a time.
    Sequential,
    /// Phases in sequence, up to 50 slots wide.
    Standard,
    /// Phases in sequence, up to 128 slots wide.
    Max,
    /// No barrier between phases: a task starts when its own dependencies are done.
    Ultra,
    /// Ultra's order under the limits of each scope, failure tolerance and waves.
    #[default]
    Auto,
}

impl Mode {
    /// All modes, slowest first.
    pub const ALL: [Self; 5] = [Self::Sequential, Self::Standard, Self::Max, Self::Ultra, Self::Auto];

    /// The name that the file uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Standard => "standard",
            Self::Max => "max",
            Self::Ultra => "ultra",
            Self::Auto => "auto",
        }
    }

    /// The mode with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a secret is found. Its value is never written to journal, log or report.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Secret {
    /// `{ env: NAME }`: in an environment variable of the engine.
    Env(String),
    /// `{ file: PATH }`: in a file, without the line end at its end.
    File(String),
    /// `{ command: [vault, read, …] }`: what a program prints.
    Command(Vec<String>),
}

fn default_retry_budget() -> Share {
    Share::Percent(20)
}

impl Deployment {
    /// Reads and checks the text of a deployment file; `file_name` is for messages.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what to do.
    pub fn from_yaml(text: &str, file_name: &str) -> Result<Self, FileError> {
        Self::from_yaml_with(text, file_name, &[])
    }

    /// The same, with other values for some of the file's `vars`: names, and values as text.
    ///
    /// # Errors
    /// The first thing that is wrong, also with the values.
    pub fn from_yaml_with(
        text: &str,
        file_name: &str,
        given: &[(String, String)],
    ) -> Result<Self, FileError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = Source { file: file_name, text };
        let root = yaml::parse(source)?;
        let mut deployment: Self = yaml::read(&root, source)?;
        vars::set(&mut deployment.vars, given)
            .and_then(|()| check::check(&deployment))
            .map_err(|(path, problem)| FileError::new(problem, source, root.find(&path)))?;
        Ok(deployment)
    }

    /// The phase with this name, and its place in the file.
    pub fn phase(&self, name: &str) -> Option<(usize, &Phase)> {
        self.phases.iter().enumerate().find(|(_, phase)| phase.name == name)
    }
}

/// The JSON schema of the file, for editors.
pub fn schema() -> Value {
    schemars::schema_for!(Deployment).to_value()
}
