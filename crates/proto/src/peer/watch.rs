//! What a peer's ops have come to, for tests that strike at a chosen point.

use super::{Op, Peer};
use crate::execute::{Kernels, OpMemory};
use crate::ids::{ConnId, Epoch};

/// Where a peer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the tensors of all ops in flight.
    pub op_bytes: u64,
    /// Tensor bytes that they have put on their way, over all attempts.
    pub sent_bytes: u64,
    /// Tensor bytes that they have received, over all attempts.
    pub received_bytes: u64,
    /// Attempts that are complete here and have no verdict.
    pub done: usize,
    /// Between `Prepare` and the epoch change.
    pub frozen: bool,
    /// The epoch.
    pub epoch: Epoch,
}

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    /// Where this peer stands.
    pub fn progress(&self) -> Progress {
        let bytes = |op: &Op<M>| op.fingerprint.count * op.fingerprint.dtype.size_bytes() as u64;
        Progress {
            op_bytes: self.ops.values().map(bytes).sum(),
            sent_bytes: self.ops.values().map(|op| op.sent_bytes).sum(),
            received_bytes: self.ops.values().map(|op| op.received_bytes).sum(),
            done: self.ops.values().filter(|op| op.is_done()).count(),
            frozen: self.frozen,
            epoch: self.epoch(),
        }
    }

    /// Whether a connection is the one to the master.
    pub fn is_control(&self, conn: ConnId) -> bool {
        self.control.is(conn)
    }
}
