//! The configuration: `pccl_config.yaml` and the `PCCL_*` variables, read without touching a file or the environment.
//!
//! Text and environment come in as arguments. A setting comes from the environment, else from the file, else it is
//! the default. Every key has a variable: `PCCL_` and its path in capitals, the parts joined by two underscores
//! (`PCCL_NETWORK__MASTER_PORT`); some have a short one too (`PCCL_SITE`). A variable that is empty counts as not set.
//! In the values of the file `${NAME}` and `${NAME:-default}` stand for environment variables.
//!
//! Whatever is not understood is refused with its place: unknown keys, wrong types, values out of range, settings
//! that contradict each other.

#![forbid(unsafe_code)]

mod environment;
mod error;
mod interpolate;
mod reader;
mod reference;
mod schema;
mod sections;
mod size;
mod snippet;
#[cfg(test)]
mod tests;
mod tree;
mod validate;
mod values;

use std::collections::BTreeMap;

use serde::Serialize;

pub use environment::check_environment;
pub use error::{ConfigError, ConfigErrorKind, Origin};
pub use reference::{reference, template};
pub use schema::{Key, KeyKind, schema};
pub use sections::{
    AuthConfig, FaultToleranceConfig, LoggingConfig, MetricsConfig, NetworkConfig, PerformanceConfig,
    StoreConfig, TlsConfig,
};
pub use size::{ByteSize, ByteSizes};
pub use values::{
    BindAddress, HostPort, LOG_MODULES, ListenAddress, LogLevel, LogLevels, LogModule, MetricsAddress,
    NamedGroups, PortRange, Recovery, Role, Secret, StoreKind,
};

use reader::Reader;
use tree::Source;

/// Looks up an environment variable.
type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// All settings of a process.
///
/// Serializing it gives the effective configuration under the names of the file, secrets as `***`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Config {
    /// `role`: what this process is, where the configuration says so.
    pub role: Option<Role>,
    /// `peer_group`: the peers that reduce together.
    pub peer_group: u32,
    /// `network`.
    pub network: NetworkConfig,
    /// `auth`.
    pub auth: AuthConfig,
    /// `fault_tolerance`.
    pub fault_tolerance: FaultToleranceConfig,
    /// `performance`.
    pub performance: PerformanceConfig,
    /// `logging`.
    pub logging: LoggingConfig,
    /// `metrics`.
    pub metrics: MetricsConfig,
    /// `store`.
    pub store: StoreConfig,
    /// Where the settings that somebody gave come from.
    #[serde(skip)]
    origins: BTreeMap<&'static str, Origin>,
}

impl Config {
    /// Reads the text of a configuration file; `file_name` is for messages. An empty text gives the defaults.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn from_yaml(text: &str, file_name: &str, env: Env<'_>) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Reader::new(Source { file: file_name, text }, env)?;
        let mut config = Self::default();
        config.read(&mut reader)?;
        config.validate(&reader)?;
        config.origins = reader.origins();
        Ok(config)
    }

    /// The defaults with the `PCCL_*` variables applied, for a process without a configuration file.
    ///
    /// # Errors
    /// The first variable that is wrong.
    pub fn from_env(env: Env<'_>) -> Result<Self, ConfigError> {
        Self::from_yaml("", "", env)
    }

    /// Where the setting with this dotted path comes from.
    pub fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or(Origin::Default)
    }

    /// True if the file or the environment gave this setting.
    pub fn is_given(&self, path: &str) -> bool {
        self.origins.contains_key(path)
    }

    /// The settings whose values differ, in the order of the schema.
    pub fn differences(&self, other: &Self) -> Vec<&'static Key> {
        let value = |config: &Self, key: &Key| {
            if key.is_secret() {
                let secret = if key.path == "auth.secret" { &config.auth.secret } else { &config.store.url };
                return secret.as_ref().map(|secret| secret.expose().to_owned());
            }
            let all = serde_json::to_value(config).ok()?;
            all.pointer(&format!("/{}", key.path.replace('.', "/"))).map(ToString::to_string)
        };
        schema().iter().filter(|key| value(self, key) != value(other, key)).collect()
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), ConfigError> {
        reader.choice("role", &mut self.role, |name| Role::from_name(name).map(Some))?;
        reader.number("peer_group", &mut self.peer_group)?;
        self.network.read(reader)?;
        self.auth.read(reader)?;
        self.fault_tolerance.read(reader)?;
        self.performance.read(reader)?;
        self.logging.read(reader)?;
        reader.text("metrics.address", &mut self.metrics.address, MetricsAddress::parse)?;
        self.store.read(reader)
    }
}
