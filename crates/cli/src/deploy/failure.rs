//! What goes wrong in `pccl deploy`, apart from tasks that fail.

use std::fmt;
use std::io;
use std::path::Path;

use pccl_deploy::FileError;
use pccl_deploy::plan::PlanError;

use crate::error::CliError;
use crate::exit::Exit;

/// Why a command of `pccl deploy` cannot do its work.
#[derive(Debug)]
#[non_exhaustive]
pub(super) enum DeployError {
    /// The file is refused.
    File(FileError),
    /// The file cannot be read.
    Unreadable { path: String, why: String },
    /// There is no plan.
    Plan(PlanError),
    /// Somebody else runs this deployment.
    Locked { operator: String, since_ms: u64 },
    /// Somebody else has taken over.
    Fenced,
    /// The journal cannot be used.
    Journal(String),
    /// There is no run to go on with.
    NoRun { folder: String },
    /// The operating system refused something.
    System(String),
    /// A secret cannot be had.
    Secret { name: String, why: String },
}

impl DeployError {
    pub(super) fn system(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::System(format!("failed to {what} {}: {error}", path.display()))
    }
}

impl fmt::Display for DeployError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => write!(f, "failed to read the deployment: {error}"),
            Self::Unreadable { path, why } => write!(f, "failed to read {path}: {why}"),
            Self::Plan(error) => write!(f, "{error}"),
            Self::Locked { operator, since_ms } => {
                let when = super::clock::Stamp(*since_ms);
                write!(f, "failed to lock the deployment: {operator} runs it since {when}")
            }
            Self::Fenced => {
                f.write_str("failed to write the journal: another session has taken over this deployment")
            }
            Self::Journal(why) => write!(f, "failed to use the journal: {why}"),
            Self::NoRun { folder } => write!(f, "failed to find a run: the journal in {folder} has none"),
            Self::System(what) => f.write_str(what),
            Self::Secret { name, why } => write!(f, "failed to find the secret `{name}`: {why}"),
        }
    }
}

impl From<rusqlite::Error> for DeployError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Journal(error.to_string())
    }
}

impl From<DeployError> for CliError {
    fn from(error: DeployError) -> Self {
        let (exit, hint) = match &error {
            // Its text has place and hint already.
            DeployError::File(_) => (Exit::Config, None),
            DeployError::Unreadable { .. } => {
                (Exit::Config, Some("give the file as argument; default: deploy.yaml"))
            }
            DeployError::Plan(PlanError::Selection { hint, .. }) => {
                return Self::new(Exit::Usage, error.to_string()).hint(hint.clone());
            }
            DeployError::Plan(_) => (Exit::Usage, Some("see `pccl deploy validate`")),
            DeployError::Locked { .. } => {
                (Exit::Locked, Some("wait for it, or ask them; `pccl deploy status` shows how far it is"))
            }
            DeployError::Fenced => (Exit::Locked, Some("`pccl deploy status` shows the other session")),
            DeployError::Journal(_) => {
                (Exit::System, Some("`--state DIR` chooses another folder for the journal"))
            }
            DeployError::NoRun { .. } => (Exit::Usage, Some("`pccl deploy run` begins one")),
            DeployError::System(_) => (Exit::System, None),
            DeployError::Secret { .. } => (Exit::Config, Some("see `secrets` in the deployment file")),
        };
        let shown = Self::new(exit, error.to_string());
        match hint {
            Some(hint) => shown.hint(hint),
            None => shown,
        }
    }
}
