//! Options of a communicator or a master in another language: the keys of the configuration, from the program, the
//! environment and a file.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use pccl_config::{Config, StoreKind};
use pccl_net::Security;
use pccl_proto::vocabulary::Algorithm;

use crate::configured::{check_configuration, run_settings};
use crate::options::Options;
use crate::{Recovery, RunSettings};

/// Options that are not keys of the configuration.
const OWN: &str = "algorithm, connect_timeout_ms or config_file";

/// What the program has set. It goes before the environment, which goes before the file.
#[derive(Clone, Default)]
pub struct Settings {
    /// By environment variable, because that is how the configuration takes a value from outside of its file.
    values: BTreeMap<String, String>,
    file: Option<(String, String)>,
    algorithm: Option<Algorithm>,
    connect_timeout: Option<Duration>,
}

impl std::fmt::Debug for Settings {
    /// Without the values, among which may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("given", &self.values.keys()).finish_non_exhaustive()
    }
}

impl Settings {
    /// Sets `algorithm` (`auto` or a name), `connect_timeout_ms`, `config_file` (a path), or any key of the configuration.
    /// What leads to no valid configuration is not set.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingError> {
        match key {
            "algorithm" if value == "auto" => self.algorithm = None,
            "algorithm" => self.algorithm = Some(value.parse().map_err(SettingError::of)?),
            "connect_timeout_ms" => {
                let ms = value.parse().map_err(|_| {
                    SettingError(format!("connect_timeout_ms is \"{value}\", not a number of milliseconds"))
                })?;
                self.connect_timeout = Some(Duration::from_millis(ms));
            }
            "config_file" => return self.try_with(|settings| settings.read(value)),
            _ => {
                let variable =
                    pccl_config::schema().iter().find(|k| k.path == key).map(pccl_config::Key::variable);
                let variable = variable.ok_or_else(|| {
                    SettingError(format!(
                        "there is no option \"{key}\": it is {OWN}, or a key of the configuration like \
                         network.heartbeat_timeout_ms (see `pccl config schema`)"
                    ))
                })?;
                return self.try_with(|settings| {
                    settings.values.insert(variable, value.to_owned());
                    Ok(())
                });
            }
        }
        Ok(())
    }

    /// A change that leads to no valid configuration is not made.
    fn try_with(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<(), SettingError>,
    ) -> Result<(), SettingError> {
        let mut changed = self.clone();
        change(&mut changed)?;
        changed.config()?;
        *self = changed;
        Ok(())
    }

    fn read(&mut self, path: &str) -> Result<(), SettingError> {
        let text = fs::read_to_string(path)
            .map_err(|e| SettingError(format!("failed to read the configuration {path}: {e}")))?;
        self.file = Some((path.to_owned(), text));
        Ok(())
    }

    /// The configuration.
    pub fn config(&self) -> Result<Config, SettingError> {
        let outside = |name: &str| {
            // PCCL's programs set it to names of their own; the log has read it.
            let foreign = name == pccl_observe::LEVEL_VARIABLE;
            self.values.get(name).cloned().or_else(|| env::var(name).ok().filter(|_| !foreign))
        };
        let (path, text) = self.file.as_ref().map_or(("", ""), |(path, text)| (path.as_str(), text.as_str()));
        pccl_config::check_environment(env::vars_os()).map_err(SettingError::of)?;
        let config = Config::from_yaml(text, path, &outside).map_err(SettingError::of)?;
        check_configuration(&config).map_err(SettingError::of)?;
        Ok(config)
    }

    /// What guards the connections of a master.
    pub fn security(&self) -> Result<Option<Security>, SettingError> {
        crate::security::security(&self.config()?).map_err(SettingError::of)
    }

    /// The algorithm that ops are to be called with.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// How a peer connects. `master` (`host:port`) and `group` go before the configuration.
    pub fn options(&self, master: Option<String>, group: Option<u32>) -> Result<Options, SettingError> {
        let options = Options::configured(&self.config()?, master, group).map_err(SettingError::of)?;
        Ok(match self.connect_timeout {
            Some(timeout) => options.connect_timeout(timeout),
            None => options,
        })
    }

    /// How a master runs whose peers are callers in other languages, and the file of its store, if it has one. Unless
    /// somebody says otherwise callers try again themselves, as PCCL's do: they may have scaled their inputs by the world
    /// size; and nothing is kept.
    pub fn run_by_callers(&self) -> Result<(RunSettings, Option<PathBuf>), SettingError> {
        let config = self.config()?;
        let mut run = run_settings(&config);
        if !config.is_given("fault_tolerance.recovery") {
            run.recovery = Recovery::ByCaller;
        }
        let path = config.store.path.as_ref().map(PathBuf::from);
        match (path, config.store.kind) {
            (Some(path), StoreKind::Embedded) => Ok((run, Some(path))),
            (None, StoreKind::Embedded) if config.is_given("store.kind") => {
                Err(SettingError("store.kind is embedded: name its file in store.path".to_owned()))
            }
            _ => Ok((run, None)),
        }
    }
}

/// An option that cannot be set, or options that lead to no valid configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(String);

impl SettingError {
    #[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
    fn of(why: impl ToString) -> Self {
        Self(why.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_not_set() {
        let mut settings = Settings::default();
        for (key, value) in [
            ("algorithm", "magic"),
            ("connect_timeout_ms", "soon"),
            ("network.heartbeat_timeout_ms", "-1"),
            ("network.heartbeat_timeot_ms", "900"),
            ("config_file", "/no/such/file.yaml"),
            ("auth.secret", "too short"),
            ("network.tls.enabled", "true"),
        ] {
            assert!(settings.set(key, value).is_err(), "{key}");
        }
        settings.set("algorithm", "ring").unwrap();
        settings.set("network.heartbeat_timeout_ms", "900").unwrap();
        assert_eq!(settings.algorithm(), Some(Algorithm::Ring));
        assert_eq!(settings.config().unwrap().network.heartbeat_timeout_ms, 900);
        settings.set("algorithm", "auto").unwrap();
        assert_eq!(settings.algorithm(), None);
    }
}
