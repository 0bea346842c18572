//! SIGHUP: the configuration is read again, and what can change in a running process does.

use std::io::{IsTerminal as _, stdin};

use pccl::Security;
use pccl_config::{Config, Key};
use pccl_observe::LogHandle;

use crate::settings::ConfigArgs;

/// What a process needs to take new settings.
pub(crate) struct Reload {
    args: ConfigArgs,
    /// What holds: new values only where they have been taken.
    config: Config,
    log: LogHandle,
    security: Option<Security>,
}

impl Reload {
    /// For a process that began with `config`. None where SIGHUP says that the terminal of a process in the foreground
    /// has been closed: there it ends it.
    pub(crate) fn new(
        args: &ConfigArgs,
        config: &Config,
        log: LogHandle,
        security: Option<&Security>,
    ) -> Option<Self> {
        let (args, config, security) = (args.clone(), config.clone(), security.cloned());
        (!stdin().is_terminal()).then_some(Self { args, config, log, security })
    }

    /// Reads and takes, and says in the log what was taken and what needs a restart.
    pub(crate) fn now(&mut self) {
        let new = match self.args.load() {
            Ok(new) => new,
            Err(error) => {
                tracing::error!("SIGHUP: {error}; all settings stay as they were");
                return;
            }
        };
        if let Some(security) = &self.security {
            security.reread();
        }
        let changed = self.config.differences(&new);
        let (taken, left): (Vec<&Key>, Vec<&Key>) =
            changed.into_iter().partition(|key| key.reloads && self.take(key, &new));
        if taken.is_empty() && left.is_empty() {
            tracing::info!("SIGHUP: the configuration has been read again, nothing in it has changed");
        }
        if !taken.is_empty() {
            tracing::info!("SIGHUP: from now on the new values hold of {}", names(&taken));
        }
        if !left.is_empty() {
            tracing::warn!("SIGHUP: it takes a restart to change {}", names(&left));
        }
    }

    /// Whether the new value holds now.
    fn take(&mut self, key: &Key, new: &Config) -> bool {
        match key.path {
            "logging.level" | "logging.levels" => {
                self.config.logging.level = new.logging.level;
                self.config.logging.levels.clone_from(&new.logging.levels);
                self.log.set(&self.config.logging.directives()).is_ok()
            }
            "network.allowed_networks" => {
                // A process that guards nothing at all has no place to look at.
                let Some(security) = &self.security else { return false };
                security.set_allowed_networks(new.network.allowed_networks.clone());
                self.config.network.allowed_networks.clone_from(&new.network.allowed_networks);
                true
            }
            "network.tls.groups" => {
                // A process that asks nobody for a certificate has nothing to go by.
                let Some(security) = &self.security else { return false };
                let taken = security.set_groups(pccl::certificate_groups(new));
                if taken {
                    self.config.network.tls.groups.clone_from(&new.network.tls.groups);
                }
                taken
            }
            _ => false,
        }
    }
}

fn names(keys: &[&Key]) -> String {
    keys.iter().map(|key| key.path).collect::<Vec<_>>().join(", ")
}
