//! What goes wrong, as the user sees it: one line that names what and where, a hint, an exit code.

use std::fmt;
use std::io;
use std::path::Path;

use pccl::{Class, CollectiveError, ConnectError, SyncError, VoteError};
use pccl_config::ConfigError;

use crate::exit::Exit;

/// An error for a person.
#[derive(Debug)]
pub(crate) struct CliError {
    exit: Exit,
    what: String,
    hint: Option<String>,
}

impl CliError {
    /// `what` is a whole sentence without its full stop: "failed to …".
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hint: None }
    }

    /// What a person can do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The system refused something.
    pub(crate) fn system(what: &str, source: &io::Error) -> Self {
        Self::new(Exit::System, format!("failed to {what}: {source}"))
    }

    /// An input file cannot be used.
    pub(crate) fn input(path: &Path, why: impl fmt::Display) -> Self {
        Self::new(Exit::Input, format!("failed to read {}: {why}", path.display()))
    }

    /// The process's exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        // Its text has place and hint already.
        Self::new(Exit::Config, format!("failed to read the configuration: {error}"))
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        let exit = match error {
            ConnectError::Listen(_) => Exit::Port,
            ConnectError::System(_) => Exit::System,
            _ => Exit::Connect,
        };
        let text = error.to_string();
        let what = if text.starts_with("failed to ") { text } else { format!("failed to connect: {text}") };
        Self::new(exit, what).hint(error.hint())
    }
}

impl From<CollectiveError> for CliError {
    fn from(error: CollectiveError) -> Self {
        Self::new(Exit::Collective, error.to_string()).hint(error.hint())
    }
}

impl From<SyncError> for CliError {
    fn from(error: SyncError) -> Self {
        Self::new(Exit::Collective, error.to_string()).hint(error.hint())
    }
}

impl From<VoteError> for CliError {
    fn from(error: VoteError) -> Self {
        let hint = match error.class() {
            Class::Reconfigure => "connect again",
            _ => "all peers must call the same in the same order; see `pccl status`",
        };
        Self::new(Exit::Collective, error.to_string()).hint(hint)
    }
}
