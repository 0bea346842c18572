//! What can go wrong, for callers: each error says what to do next.

use std::time::Duration;

use pccl_net::ListenError;
use pccl_proto::ids::SessionId;
use pccl_proto::message::Refusal;
use pccl_proto::peer::{EndReason, OpError, StartError};
use pccl_proto::record::Failure;

/// What a caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Call again.
    Retry,
    /// Connect again ([`crate::Communicator::reconnect`]) and synchronize.
    Reconfigure,
    /// Give up: calling again ends the same way.
    Fatal,
    /// The in-place input is gone (backups are off): load it again.
    InputLost,
}

/// An op did not succeed. The input is as it was, unless the error says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// It was not called as it must be.
    #[error("failed to start {op} with tag {tag}: {why}")]
    Invalid {
        /// The collective.
        op: &'static str,
        /// The tag.
        tag: u64,
        /// What is wrong.
        why: String,
    },
    /// It could not be started.
    #[error("failed to start {op} with tag {tag}: {why}")]
    NotStarted {
        /// The collective.
        op: &'static str,
        /// The tag.
        tag: u64,
        /// Why.
        why: StartError,
    },
    /// It failed for all peers alike.
    #[error("failed to complete {op} with tag {tag}: {why}")]
    Failed {
        /// The collective.
        op: &'static str,
        /// The tag.
        tag: u64,
        /// Why.
        why: Failure,
    },
    /// This peer's membership ended first.
    #[error("failed to complete {op} with tag {tag}: {why}")]
    Ended {
        /// The collective.
        op: &'static str,
        /// The tag.
        tag: u64,
        /// Why.
        why: EndReason,
    },
    /// As the text says, and the in-place input is lost.
    #[error("failed to complete {op} with tag {tag}: {why}")]
    InputLost {
        /// The collective.
        op: &'static str,
        /// The tag.
        tag: u64,
        /// Why.
        why: String,
    },
}

impl CollectiveError {
    pub(crate) fn from_op(op: &'static str, tag: u64, error: OpError) -> Self {
        match error {
            OpError::Failed(why) => Self::Failed { op, tag, why },
            OpError::Ended(why) => Self::Ended { op, tag, why },
            other @ OpError::InputLost(_) => Self::InputLost { op, tag, why: other.to_string() },
        }
    }

    /// The collective that was called.
    pub fn op(&self) -> &'static str {
        match self {
            Self::Invalid { op, .. }
            | Self::NotStarted { op, .. }
            | Self::Failed { op, .. }
            | Self::Ended { op, .. }
            | Self::InputLost { op, .. } => op,
        }
    }

    /// What to do next.
    pub fn class(&self) -> Class {
        match self {
            Self::NotStarted { why: StartError::TooMany(_), .. } => Class::Retry,
            Self::NotStarted { why: StartError::Ended(_), .. } | Self::Ended { .. } => Class::Reconfigure,
            Self::Invalid { .. } | Self::NotStarted { .. } => Class::Fatal,
            Self::Failed { why, .. } => match why {
                Failure::Cut { .. } | Failure::TooManyRecoveries { .. } | Failure::TimedOut { .. } => {
                    Class::Retry
                }
                _ => Class::Fatal,
            },
            Self::InputLost { .. } => Class::InputLost,
        }
    }

    /// What to do next, in words.
    pub fn hint(&self) -> &'static str {
        match self.class() {
            Class::Retry => "call it again: the input is as it was",
            Class::Reconfigure => "connect again, synchronize, and go on",
            Class::Fatal => "correct the call; all peers must call the same op by the same tag",
            Class::InputLost => {
                "load the input again, or turn fault_tolerance.enable_buffer_backup on at the master"
            }
        }
    }

    /// The peers that the error names.
    pub fn peers(&self) -> Vec<String> {
        let sessions: Vec<SessionId> = match self {
            Self::Failed { why, .. } => match why {
                Failure::Mismatch { calls } => calls.iter().map(|(s, _)| *s).collect(),
                Failure::Cut { lost } | Failure::TooManyRecoveries { lost, .. } => {
                    lost.iter().map(|(s, _)| *s).collect()
                }
                Failure::TimedOut { missing } => missing.clone(),
                Failure::Impossible { by: waits } | Failure::Deadlock { waits } => {
                    waits.iter().map(|(s, _)| *s).collect()
                }
            },
            _ => Vec::new(),
        };
        sessions.iter().map(ToString::to_string).collect()
    }
}

/// This peer could not become a member.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No port to listen on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A host name that leads nowhere.
    #[error("failed to find the address of master \"{host}\": {why}")]
    Resolve {
        /// As given.
        host: String,
        /// What the resolver says.
        why: String,
    },
    /// No master answered.
    #[error("failed to reach a master at {masters} within {} s: {why}", .waited.as_secs())]
    NoMaster {
        /// As given.
        masters: String,
        /// How long it was tried.
        waited: Duration,
        /// What went wrong last.
        why: String,
    },
    /// The master says no.
    #[error("failed to join the run: {0}")]
    Refused(Refusal),
    /// Anything else ended it.
    #[error("failed to join the run: {0}")]
    Ended(EndReason),
    /// Checkpoints are asked for, and their place cannot be used.
    #[cfg(feature = "checkpoint")]
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    /// The system refused a socket or a thread.
    #[error("failed to set up sockets and threads: {0}")]
    System(#[from] std::io::Error),
}

impl ConnectError {
    /// What to do next.
    pub fn class(&self) -> Class {
        match self {
            Self::Resolve { .. } | Self::NoMaster { .. } | Self::Ended(_) => Class::Retry,
            _ => Class::Fatal,
        }
    }

    /// What to do next, in words.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Listen(_) => "free a port or widen network.p2p_ports",
            Self::Resolve { .. } => "check network.master_host",
            Self::NoMaster { .. } => {
                "see that `pccl master` runs there and trusts this peer; `pccl doctor cant-connect` measures what is in the way"
            }
            Self::Refused(Refusal::Group { .. }) => {
                "use a certificate or peer_group that go together, or change network.tls.groups at the master"
            }
            Self::Refused(_) => "make this peer's configuration agree with the master's",
            Self::Ended(_) => "connect again",
            #[cfg(feature = "checkpoint")]
            Self::Checkpoint(why) => why.hint(),
            Self::System(_) => "check the limits on open files and threads (ulimit -n, -u)",
        }
    }
}

/// A vote did not end as it should.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum VoteError {
    /// Ops of this peer are in flight; newcomers can come in only between ops.
    #[error("failed to vote for {vote}: {in_flight} ops of this peer are in flight; wait for them first")]
    PendingOps {
        /// The vote.
        vote: &'static str,
        /// How many.
        in_flight: usize,
    },
    /// Another thread of this peer votes.
    #[error("failed to vote for {vote}: another thread of this peer votes already")]
    Busy {
        /// The vote.
        vote: &'static str,
    },
    /// Members wait for different things.
    #[error("failed to vote for {vote}: every peer waits and no wait can end: {waits}")]
    Mismatch {
        /// The vote.
        vote: &'static str,
        /// Who waits for what.
        waits: String,
    },
    /// This peer's membership ended first.
    #[error("failed to vote for {vote}: {why}")]
    Ended {
        /// The vote.
        vote: &'static str,
        /// Why.
        why: EndReason,
    },
}

impl VoteError {
    /// What to do next.
    pub fn class(&self) -> Class {
        match self {
            Self::Ended { .. } => Class::Reconfigure,
            Self::PendingOps { .. } | Self::Busy { .. } => Class::Retry,
            Self::Mismatch { .. } => Class::Fatal,
        }
    }
}
