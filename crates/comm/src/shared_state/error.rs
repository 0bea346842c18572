//! What can go wrong with a synchronization.

use pccl_proto::ids::SessionId;
use pccl_proto::peer::{EndReason, SyncStartError};
use pccl_proto::record::Removal;
use pccl_proto::shared_state::{Fault, NoCandidate};

use crate::error::Class;

/// A synchronization did not succeed. The tensors and the revision are as they were, but for
/// [`SyncError::NotWritten`].
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// It was not called as it must be.
    #[error("failed to synchronize{}: {why}", .tensor.as_ref().map(|t| format!(" tensor \"{t}\"")).unwrap_or_default())]
    Invalid {
        /// The tensor, if it is about one.
        tensor: Option<String>,
        /// What is wrong.
        why: String,
    },
    /// It could not be started.
    #[error("failed to synchronize: {why}")]
    NotStarted {
        /// Why.
        why: SyncStartError,
    },
    /// Nobody's content could win.
    #[error("failed to synchronize: {why}")]
    NoCandidate {
        /// Why.
        why: NoCandidate,
    },
    /// Members wait for different things.
    #[error("failed to synchronize: members wait for different things: {waits}")]
    Mismatch {
        /// Who waits for what.
        waits: String,
        /// The peers.
        peers: Vec<String>,
    },
    /// This peer's membership ended first, or with it.
    #[error("failed to synchronize: {why}")]
    Ended {
        /// Why.
        why: EndReason,
    },
    /// The group has synchronized, but what this peer got could not be written to a device.
    #[error(
        "failed to write tensor \"{tensor}\" of revision {revision} to its device, where its content is undefined now: {why}"
    )]
    NotWritten {
        /// The first tensor that could not be written.
        tensor: String,
        /// That all members have now.
        revision: u64,
        /// What the device's driver says.
        why: String,
    },
}

impl SyncError {
    pub(super) fn mismatch(waits: &[(SessionId, String)]) -> Self {
        let texts: Vec<_> = waits.iter().map(|(s, what)| format!("peer {s} in {what}")).collect();
        let peers = waits.iter().map(|(s, _)| s.to_string()).collect();
        Self::Mismatch { waits: texts.join(", "), peers }
    }

    /// What to do next.
    pub fn class(&self) -> Class {
        match self {
            Self::NotStarted { why: SyncStartError::Busy | SyncStartError::PendingOps(_) } => Class::Retry,
            Self::NotStarted { why: SyncStartError::Ended(_) }
            | Self::Ended { .. }
            | Self::NoCandidate { why: NoCandidate::HoldersLost } => Class::Reconfigure,
            Self::Invalid { .. }
            | Self::NotWritten { .. }
            | Self::NotStarted { .. }
            | Self::NoCandidate { .. }
            | Self::Mismatch { .. } => Class::Fatal,
        }
    }

    /// Why this peer was expelled, if its shared state was the reason.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Ended { why: EndReason::Expelled { why: Some(Removal::SharedState(fault)), .. } } => {
                Some(fault)
            }
            _ => None,
        }
    }

    /// What to do next, in words.
    pub fn hint(&self) -> &'static str {
        if let Some(fault) = self.fault() {
            return match fault {
                Fault::Strategy { .. } => "let all peers enforce the popular content, or none",
                Fault::Revision { .. } => {
                    "raise the revision by exactly one before each synchronization, and connect again with one not above \
                     that of the group"
                }
                Fault::KeySet { .. } => {
                    "give all peers the same tensors by name, type and size, and connect again"
                }
                Fault::ConflictingSender { .. } => "let only peers with the same content be send-only",
            };
        }
        match (self, self.class()) {
            (Self::NoCandidate { why: NoCandidate::AllReceive }, _) => "let at least one peer send",
            (Self::NoCandidate { why: NoCandidate::Behind { .. } }, _) => {
                "raise the revision by exactly one before each synchronization"
            }
            (Self::NoCandidate { .. }, _) => {
                "load a checkpoint and connect again: what this peer has is not the group's newest state"
            }
            (Self::NotWritten { .. }, _) => {
                "the next synchronization writes it again if the device works, for it differs from that of the others"
            }
            (_, Class::Retry) => "call it again when the other call has returned",
            (_, Class::Reconfigure) => "connect again and synchronize",
            _ => "correct the call; all members must synchronize together",
        }
    }

    /// The peers that the error names.
    pub fn peers(&self) -> Vec<String> {
        match (self, self.fault()) {
            (Self::Mismatch { peers, .. }, _) => peers.clone(),
            (
                _,
                Some(
                    Fault::Strategy { with, .. }
                    | Fault::KeySet { with, .. }
                    | Fault::ConflictingSender { with },
                ),
            ) => vec![with.to_string()],
            _ => Vec::new(),
        }
    }
}
