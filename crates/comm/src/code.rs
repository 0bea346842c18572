//! Result codes for other languages: stable numbers, those of PCCL's C API.

use pccl_proto::peer::{EndReason, StartError, SyncStartError};
use pccl_proto::record::Failure;
use pccl_proto::shared_state::NoCandidate;

use crate::error::{CollectiveError, ConnectError, VoteError};
use crate::shared_state::SyncError;

/// What went wrong, as a number. [`crate::Class`] says what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ResultCode {
    /// The library has not been initialized.
    NotInitialized = 1,
    /// A fault of the library or of the system.
    InternalError = 2,
    /// An argument is wrong.
    InvalidArgument = 3,
    /// The call is not allowed now.
    InvalidUsage = 4,
    /// The peer group has fewer than two members.
    TooFewPeers = 5,
    /// No master lets this peer in.
    MasterConnectionFailed = 6,
    /// The other peers cannot be reached.
    RankConnectionFailed = 7,
    /// A peer was lost, or this peer's membership ended.
    RankConnectionLost = 8,
    /// Nobody's shared state could win.
    NoSharedStateAvailable = 9,
    /// Ops of this peer are in flight.
    PendingAsyncOps = 10,
    /// The vote on the topology did not end as it should.
    UpdateTopologyFailed = 11,
    /// The vote on the measured links did not end as it should.
    TopologyOptimizationFailed = 12,
}

impl ConnectError {
    /// The error as a number.
    pub fn code(&self) -> ResultCode {
        match self {
            Self::Listen(_) | Self::System(_) => ResultCode::InternalError,
            Self::Ended(EndReason::TurnedAway(_)) => ResultCode::RankConnectionFailed,
            _ => ResultCode::MasterConnectionFailed,
        }
    }
}

impl VoteError {
    /// The error as a number.
    pub fn code(&self) -> ResultCode {
        match self {
            Self::PendingOps { .. } => ResultCode::PendingAsyncOps,
            Self::Busy { .. } => ResultCode::InvalidUsage,
            Self::Mismatch { vote, .. } | Self::Ended { vote, .. } => match *vote {
                "update_topology" => ResultCode::UpdateTopologyFailed,
                "optimize_topology" => ResultCode::TopologyOptimizationFailed,
                _ => ResultCode::InvalidUsage,
            },
        }
    }
}

impl CollectiveError {
    /// The error as a number.
    pub fn code(&self) -> ResultCode {
        match self {
            Self::Invalid { .. }
            | Self::NotStarted {
                why:
                    StartError::TagInUse(_) | StartError::NoSuchRoot { .. } | StartError::BufferTooSmall { .. },
                ..
            }
            | Self::Failed { why: Failure::Mismatch { .. } | Failure::Impossible { .. }, .. } => {
                ResultCode::InvalidArgument
            }
            Self::Failed { why: Failure::Deadlock { .. }, .. }
            | Self::NotStarted { why: StartError::NotAMember | StartError::TooMany(_), .. }
            | Self::Ended { why: EndReason::Left, .. } => ResultCode::InvalidUsage,
            _ => ResultCode::RankConnectionLost,
        }
    }
}

impl SyncError {
    /// The error as a number.
    pub fn code(&self) -> ResultCode {
        match self {
            Self::Invalid { .. } => ResultCode::InvalidArgument,
            Self::NotWritten { .. } => ResultCode::InternalError,
            Self::NotStarted { why: SyncStartError::PendingOps(_) } => ResultCode::PendingAsyncOps,
            Self::NoCandidate { why: NoCandidate::Behind { .. } } => ResultCode::InvalidUsage,
            Self::NoCandidate { .. } => ResultCode::NoSharedStateAvailable,
            Self::Ended { .. } if self.fault().is_none() => ResultCode::RankConnectionLost,
            _ => ResultCode::InvalidUsage,
        }
    }
}
