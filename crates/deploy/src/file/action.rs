//! What a task runs: one of the runners with its settings. All texts are templates.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Time;

/// What a task runs.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A program.
    Command(CommandAction),
    /// `terraform init` and `apply`.
    Terraform(TerraformAction),
    /// `kubectl apply` and waiting for rollouts.
    Kubectl(KubectlAction),
    /// `helm upgrade --install`.
    Helm(HelmAction),
    /// An HTTP request and what its answer must be.
    Http(HttpAction),
    /// A Prometheus query and what its value must be.
    Prometheus(PrometheusAction),
    /// This program: `pccl check`, `pccl status`.
    Pccl(PcclAction),
    /// A program that stays.
    Service(ServiceAction),
}

impl Action {
    /// The runner's name.
    pub fn runner(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Terraform(_) => "terraform",
            Self::Kubectl(_) => "kubectl",
            Self::Helm(_) => "helm",
            Self::Http(_) => "http",
            Self::Prometheus(_) => "prometheus",
            Self::Pccl(_) => "pccl",
            Self::Service(_) => "service",
        }
    }

    /// The service that this action starts; none if it starts none.
    pub fn service(&self) -> Option<&ServiceAction> {
        match self {
            Self::Service(service) if !service.stop => Some(service),
            _ => None,
        }
    }

    /// Whether it looks at something and changes nothing, so that it may be done again at any time.
    pub fn only_asks(&self) -> bool {
        let reads = |method: &str| ["GET", "HEAD"].iter().any(|one| one.eq_ignore_ascii_case(method));
        match self {
            Self::Http(http) => http.body.is_none() && http.method.as_deref().is_none_or(reads),
            Self::Prometheus(_) => true,
            _ => false,
        }
    }

    /// How long it is repeated until it succeeds, if it is.
    pub(super) fn within(&self) -> Option<Time> {
        match self {
            Self::Command(action) => action.within,
            Self::Http(action) => action.within,
            Self::Prometheus(action) => action.within,
            Self::Pccl(action) => action.within,
            Self::Terraform(_) | Self::Kubectl(_) | Self::Helm(_) | Self::Service(_) => None,
        }
    }
}

/// A program and its arguments, without a shell.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandAction {
    /// Program and arguments. For a shell: `[sh, -c, "…"]`.
    pub run: Vec<String>,
    /// Working directory, relative to the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Environment, in addition to the engine's own: a template, or `{ secret: NAME }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, EnvValue>,
    /// Run it again until it succeeds, for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Time>,
    /// Pause between two runs of `within`.
    #[serde(default = "default_every")]
    pub every: Time,
}

/// A Terraform root module.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TerraformAction {
    /// Root module, relative to the file.
    pub dir: String,
    /// With it, all tasks of the phase share one state: one `apply` serves all that are ready, and a task is done when
    /// the resources below its address are. `module.region_deployment["{{ target.name }}"]`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Path of the state (`-state`), for one state for each task without a backend. Relative to the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Terraform workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Variables (`-var`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<String, Value>,
    /// Files of variables (`-var-file`), relative to the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub var_files: Vec<String>,
    /// Settings of the backend (`-backend-config`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub backend: BTreeMap<String, String>,
    /// Environment: a template, or `{ secret: NAME }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, EnvValue>,
    /// Most `-parallelism`; the scope's current limit may lower it.
    #[serde(default = "default_parallelism")]
    pub parallelism: u32,
    /// `terraform destroy` instead of `apply`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub destroy: bool,
    /// After a run that was killed: replace resources whose creation began and is not known to have ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace_unfinished: bool,
}

/// Manifests to apply, and what to wait for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KubectlAction {
    /// Context of the kubeconfig.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Path of the kubeconfig, relative to the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<String>,
    /// API server, instead of the kubeconfig's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Files, folders or URLs to apply, server-side. Paths are relative to the file.
    pub apply: Vec<String>,
    /// Folders with a kustomization to apply.
    pub kustomize: Vec<String>,
    /// What to wait for by `rollout status`: `statefulset/besu`.
    pub rollout: Vec<String>,
    /// What to wait for by `wait`: condition → resources, `condition=Ready: [pod/besu-0]`.
    pub wait: BTreeMap<String, Vec<String>>,
    /// Files or resources to delete (`--ignore-not-found`); for `undo`.
    pub delete: Vec<String>,
    /// Any other call: `[rollout, restart, statefulset/besu]`. Runs first.
    pub args: Vec<String>,
    /// Environment: a template, or `{ secret: NAME }`.
    pub env: BTreeMap<String, EnvValue>,
}

/// A Helm release.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HelmAction {
    /// Name of the release.
    pub release: String,
    /// Chart: a folder relative to the file, a URL or `repository/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chart: Option<String>,
    /// Version of the chart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Namespace; made if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Path of the kubeconfig, relative to the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<String>,
    /// Files of values, relative to the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Single values (`--set-string`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Uninstall the release; for `undo`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uninstall: bool,
    /// Environment: a template, or `{ secret: NAME }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, EnvValue>,
}

/// A request and what its answer must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpAction {
    /// Address, with `http://` or `https://`.
    pub url: String,
    /// Method; GET, or POST if there is a body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers: a template, or `{ secret: NAME }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, EnvValue>,
    /// Body, as text; a section or list is sent as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Status codes that are right. Default: 200 to 299.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<u16>,
    /// Text that the answer must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Values that the JSON of the answer must have: JSON pointer → value, or a comparison such as `">= 32"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, Value>,
    /// Ask again until the answer is right, for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Time>,
    /// Pause between two requests of `within`.
    #[serde(default = "default_every")]
    pub every: Time,
}

/// A query and what its value must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrometheusAction {
    /// Address of the Prometheus server.
    pub url: String,
    /// PromQL. Every series that comes back must be right, and there must be one.
    pub query: String,
    /// A comparison: `">= 32"`, `"== 1"`, `"< 0.01"`.
    pub expect: String,
    /// Headers: a template, or `{ secret: NAME }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, EnvValue>,
    /// Ask again until the value is right, for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Time>,
    /// Pause between two queries of `within`.
    #[serde(default = "default_every")]
    pub every: Time,
}

/// This program again.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PcclAction {
    /// Arguments: `[status, --master, "{{ vars.master }}"]`.
    pub args: Vec<String>,
    /// Working directory, relative to the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Environment: a template, or `{ secret: NAME }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, EnvValue>,
    /// Run it again until it succeeds, for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Time>,
    /// Pause between two runs of `within`.
    #[serde(default = "default_every")]
    pub every: Time,
}

/// A program that stays when the task is done and the engine has ended. The task is done when the phase's `verify` holds.
/// One that runs already is not started again; one that was started as something else is replaced.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAction {
    /// Program and arguments, without a shell; it must not put itself into the background. `pccl` is this program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<String>,
    /// Working directory, relative to the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Environment, in addition to the engine's own: a template, or `{ secret: NAME }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, EnvValue>,
    /// Pause between two looks whether it is ready.
    #[serde(default = "default_look")]
    pub every: Time,
    /// From the request to end (SIGTERM to all its processes) to SIGKILL.
    #[serde(default = "default_grace")]
    pub grace: Time,
    /// Stop it. `pccl deploy down` does so for every phase of services that has no `undo`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop: bool,
}

impl Default for ServiceAction {
    fn default() -> Self {
        let (every, grace) = (default_look(), default_grace());
        Self { run: Vec::new(), dir: None, env: BTreeMap::new(), every, grace, stop: false }
    }
}

/// A value of the environment or of a header: a template, or a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum EnvValue {
    /// A template.
    Text(String),
    /// `{ secret: NAME }`.
    Secret {
        /// Its name in `secrets`.
        secret: String,
    },
}

fn default_every() -> Time {
    Time::from_secs(5)
}

fn default_look() -> Time {
    Time::from_millis(200)
}

fn default_grace() -> Time {
    Time::from_secs(10)
}

fn default_parallelism() -> u32 {
    128
}

impl<'de> Deserialize<'de> for EnvValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Reference {
            secret: String,
        }

        struct TextOrSecret;
        impl<'de> Visitor<'de> for TextOrSecret {
            type Value = EnvValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or `{ secret: NAME }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<EnvValue, E> {
                Ok(EnvValue::Text(text.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<EnvValue, E> {
                Ok(EnvValue::Text(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<EnvValue, E> {
                Ok(EnvValue::Text(value.to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<EnvValue, E> {
                Ok(EnvValue::Text(value.to_string()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<EnvValue, E> {
                Ok(EnvValue::Text(value.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EnvValue, A::Error> {
                let Reference { secret } = Reference::deserialize(MapAccessDeserializer::new(map))?;
                Ok(EnvValue::Secret { secret })
            }
        }
        from.deserialize_any(TextOrSecret)
    }
}

impl JsonSchema for EnvValue {
    fn schema_name() -> Cow<'static, str> {
        "EnvValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A template, or a secret by its name",
            "anyOf": [
                { "type": ["string", "number", "boolean"] },
                {
                    "type": "object",
                    "required": ["secret"],
                    "properties": { "secret": { "type": "string" } },
                    "additionalProperties": false,
                },
            ],
        })
    }
}

impl Action {
    /// The values that may name secrets, with their paths in the action.
    pub fn references(&self) -> Vec<(String, &EnvValue)> {
        let (key, values) = match self {
            Self::Command(action) => ("env", &action.env),
            Self::Terraform(action) => ("env", &action.env),
            Self::Kubectl(action) => ("env", &action.env),
            Self::Helm(action) => ("env", &action.env),
            Self::Pccl(action) => ("env", &action.env),
            Self::Service(action) => ("env", &action.env),
            Self::Http(action) => ("headers", &action.headers),
            Self::Prometheus(action) => ("headers", &action.headers),
        };
        values.iter().map(|(name, value)| (format!("{key}.{name}"), value)).collect()
    }
}
