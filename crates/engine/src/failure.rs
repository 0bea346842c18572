//! What goes wrong in `pccl deploy`, apart from tasks that fail.

use std::fmt;
use std::io;
use std::path::Path;

use pccl_deploy::FileError;
use pccl_deploy::plan::PlanError;

/// Why a command of `pccl deploy` cannot do its work.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeployError {
    /// The file is refused.
    File(FileError),
    /// The file cannot be read.
    Unreadable {
        /// Where it is.
        path: String,
        /// What the system says.
        why: String,
    },
    /// There is no plan.
    Plan(PlanError),
    /// Somebody else runs this deployment.
    Locked {
        /// Who.
        operator: String,
        /// Since when.
        since_ms: u64,
    },
    /// Somebody else has taken over.
    Fenced,
    /// The journal cannot be used.
    Journal(String),
    /// There is no run to go on with.
    NoRun {
        /// Where the journal is.
        folder: String,
    },
    /// A port cannot be had.
    Listen {
        /// Where.
        address: String,
        /// What the system says.
        why: String,
    },
    /// The operator stopped it before anything was decided.
    Interrupted,
    /// The operating system refused something.
    System(String),
    /// A secret cannot be had.
    Secret {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
}

impl DeployError {
    pub(crate) fn system(what: &str, path: &Path, error: &io::Error) -> Self {
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
                let when = crate::clock::Stamp(*since_ms);
                write!(f, "failed to lock the deployment: {operator} runs it since {when}")
            }
            Self::Fenced => {
                f.write_str("failed to write the journal: another session has taken over this deployment")
            }
            Self::Journal(why) => write!(f, "failed to use the journal: {why}"),
            Self::NoRun { folder } => {
                write!(f, "failed to find a run: the journal in {folder} has none, or none of this number")
            }
            Self::Listen { address, why } => write!(f, "failed to listen on {address}: {why}"),
            Self::Interrupted => f.write_str("stopped before the run went on: nothing was changed"),
            Self::System(what) => f.write_str(what),
            Self::Secret { name, why } => write!(f, "failed to find the secret `{name}`: {why}"),
        }
    }
}

impl std::error::Error for DeployError {}
