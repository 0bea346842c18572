//! What can go wrong with a checkpoint.

use crate::error::Class;

/// A checkpoint cannot be written, found, or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The place is not named as places are.
    #[error("failed to open the checkpoints at {url}: {why}")]
    Place {
        /// The place, without credentials.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The place does not answer, or refuses.
    #[error("failed to {what} at {url}: {why}; check address, network, credentials and permissions")]
    Access {
        /// What was tried.
        what: String,
        /// The place, without credentials.
        url: String,
        /// What it says.
        why: String,
    },
    /// There is none.
    #[error("failed to find a checkpoint at {url}: {why}")]
    None {
        /// The place, without credentials.
        url: String,
        /// What was looked for.
        why: String,
    },
    /// It is not what was written.
    #[error("the checkpoint {name} is damaged: {why}")]
    Damaged {
        /// The checkpoint.
        name: String,
        /// How it is seen.
        why: String,
    },
    /// Another version of this program has written it.
    #[error("the checkpoint {name} has format version {found}, this program knows version {known}")]
    Version {
        /// The checkpoint.
        name: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// It does not hold the tensors that are to be restored.
    #[error("the checkpoint {name} does not fit: {why}")]
    Unfit {
        /// The checkpoint.
        name: String,
        /// The first difference.
        why: String,
    },
    /// A file here cannot be written.
    #[error("failed to write {path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        why: String,
    },
}

impl CheckpointError {
    /// What to do next.
    pub fn class(&self) -> Class {
        match self {
            Self::Access { .. } => Class::Retry,
            _ => Class::Fatal,
        }
    }

    /// What to do next, in words.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Place { .. } => {
                "give a directory, or a URL as s3://bucket/folder, az://container/folder, gs://bucket/folder"
            }
            Self::Access { .. } => {
                "credentials come from the environment: AWS_*, AZURE_* or GOOGLE_* variables"
            }
            Self::None { .. } => "look at what is there: `pccl checkpoint list`",
            Self::Damaged { .. } => "restore an older one: `pccl checkpoint list` names them",
            Self::Version { .. } => "use the version of pccl that wrote it",
            Self::Unfit { .. } => "give the tensors by the names, types and sizes of the checkpoint",
            Self::File { .. } => "check permissions and free space, or choose another file",
        }
    }
}
