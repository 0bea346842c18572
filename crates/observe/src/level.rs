//! Which events are logged: one level for all, and others for single modules.

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::filter::{LevelFilter, Targets};

/// Levels by module, as written in `logging.level` or `PCCL_LOG_LEVEL`: `info`, or `warn,pccl_net=debug`.
///
/// ```
/// let levels: pccl_observe::Levels = "WARN, pccl_net = debug".parse()?;
/// assert_eq!(levels.to_string(), "warn,pccl_net=debug");
/// # Ok::<(), pccl_observe::LevelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    default: LevelFilter,
    modules: Vec<(String, LevelFilter)>,
}

/// A level that nobody can follow.
///
/// An unknown word must not pass: the usual reading of it as a module's name turns a typing error into a silent log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{part}` in the log level `{whole}` is not understood: write off, error, warn, info, debug or trace, \
     or `module=level` for one module (`info,pccl_net=debug`)"
)]
pub struct LevelError {
    part: String,
    whole: String,
}

impl Levels {
    pub(crate) fn targets(&self) -> Targets {
        Targets::new().with_default(self.default).with_targets(self.modules.iter().cloned())
    }
}

impl Default for Levels {
    fn default() -> Self {
        Self { default: LevelFilter::INFO, modules: Vec::new() }
    }
}

impl FromStr for Levels {
    type Err = LevelError;

    fn from_str(whole: &str) -> Result<Self, Self::Err> {
        let mut levels = Self::default();
        for part in whole.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let refuse = || LevelError { part: part.to_owned(), whole: whole.to_owned() };
            match part.split_once('=') {
                None => levels.default = level(part).ok_or_else(refuse)?,
                Some((module, name)) => {
                    let module = module.trim();
                    if !is_module(module) {
                        return Err(refuse());
                    }
                    levels.modules.push((module.to_owned(), level(name.trim()).ok_or_else(refuse)?));
                }
            }
        }
        Ok(levels)
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.default)?;
        self.modules.iter().try_for_each(|(module, level)| write!(f, ",{module}={level}"))
    }
}

/// Words only: `tracing` would also take digits, which read like verbosity but count the other way round.
fn level(name: &str) -> Option<LevelFilter> {
    let word = name.chars().all(|c| c.is_ascii_alphabetic());
    word.then(|| name.parse().ok()).flatten()
}

fn is_module(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn parse(text: &str) -> Levels {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn one_level_for_all_in_any_case() {
        let targets = parse("WARN").targets();
        assert!(targets.would_enable("pccl_net", &Level::WARN));
        assert!(!targets.would_enable("pccl_net", &Level::INFO));
    }

    #[test]
    fn a_module_may_differ_and_the_longest_name_wins() {
        let targets = parse("warn, pccl_net=debug ,pccl_net::udp=error").targets();
        assert!(targets.would_enable("pccl_net::tcp", &Level::DEBUG));
        assert!(!targets.would_enable("pccl_net::udp", &Level::WARN));
        assert!(!targets.would_enable("pccl", &Level::INFO));
    }

    #[test]
    fn nothing_written_means_info() {
        assert_eq!(parse(""), Levels::default());
        assert!(Levels::default().targets().would_enable("pccl", &Level::INFO));
        assert!(!parse("off").targets().would_enable("pccl", &Level::ERROR));
    }

    #[test]
    fn a_typing_error_is_refused_and_named() {
        for (text, part) in [
            ("debgu", "debgu"),
            ("info,pccl_net=loud", "pccl_net=loud"),
            ("info,=debug", "=debug"),
            ("pccl-net=debug", "pccl-net=debug"),
            ("3", "3"),
            ("warn,", ""),
        ] {
            match text.parse::<Levels>() {
                Ok(levels) => assert_eq!((part, levels), ("", parse("warn"))),
                Err(error) => {
                    assert_eq!(error.part, part);
                    let message = error.to_string();
                    assert!(message.contains(part) && message.contains("trace"), "{message}");
                }
            }
        }
    }
}
