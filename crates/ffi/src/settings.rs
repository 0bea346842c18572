//! Options of a communicator or a master: the keys of the configuration, from a file, the environment and the program.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::time::Duration;

use pccl::Algorithm;
use pccl_config::Config;

use crate::boundary::{Failure, Outcome};

/// Options that are not keys of the configuration.
const OWN: &str = "algorithm, connect_timeout_ms or config_file";

/// What the program has set. It goes before the environment, which goes before the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// By environment variable, because that is how the configuration takes a value from outside of its file.
    values: BTreeMap<String, String>,
    file: Option<(String, String)>,
    algorithm: Option<Algorithm>,
    connect_timeout: Option<Duration>,
}

impl Settings {
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Outcome {
        match key {
            "algorithm" if value == "auto" => self.algorithm = None,
            "algorithm" => self.algorithm = Some(value.parse().map_err(Failure::argument)?),
            "connect_timeout_ms" => {
                let ms = value.parse().map_err(|_| {
                    Failure::argument(format!(
                        "connect_timeout_ms is \"{value}\", not a number of milliseconds"
                    ))
                })?;
                self.connect_timeout = Some(Duration::from_millis(ms));
            }
            "config_file" => return self.try_with(|settings| settings.read(value)),
            _ => {
                let variable =
                    pccl_config::schema().iter().find(|k| k.path == key).map(pccl_config::Key::variable);
                let variable = variable.ok_or_else(|| {
                    Failure::argument(format!(
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
    fn try_with(&mut self, change: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        let mut changed = self.clone();
        change(&mut changed)?;
        changed.config()?;
        *self = changed;
        Ok(())
    }

    fn read(&mut self, path: &str) -> Outcome {
        let text = fs::read_to_string(path)
            .map_err(|e| Failure::argument(format!("failed to read the configuration {path}: {e}")))?;
        self.file = Some((path.to_owned(), text));
        Ok(())
    }

    pub(crate) fn config(&self) -> Outcome<Config> {
        let outside = |name: &str| {
            // PCCL's programs set it to names of their own; the log has read it.
            let foreign = name == pccl_observe::LEVEL_VARIABLE;
            self.values.get(name).cloned().or_else(|| env::var(name).ok().filter(|_| !foreign))
        };
        let (path, text) = self.file.as_ref().map_or(("", ""), |(path, text)| (path.as_str(), text.as_str()));
        let config = Config::from_yaml(text, path, &outside).map_err(Failure::argument)?;
        pccl::check_configuration(&config).map_err(Failure::argument)?;
        Ok(config)
    }

    pub(crate) fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    pub(crate) fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
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
            ("auth.secret", "s3cret-s3cret-s3cret"),
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
