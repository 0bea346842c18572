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
        let bytes = |op: &Op<M>| op.fingerprint.travelling_bytes();
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

#[cfg(feature = "sim")]
impl<M: OpMemory, K: Kernels> Peer<M, K> {
    /// What is left although no op is in flight: nothing must be.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut note = |what: String, n: usize| {
            if n > 0 {
                left.push(format!("{what}: {n}"));
            }
        };
        note("ops".into(), self.ops.len());
        note("actions".into(), self.actions.len());
        note("completions".into(), self.completed.len());
        note("verdicts told by members that settle".into(), self.told.len());
        for (session, link) in &self.links.table {
            let queued: usize = link.stripes.iter().map(|s| s.queue.len()).sum();
            note(format!("frames to {session}"), queued);
            note(format!("frames to {session} without credit"), link.blocked.len());
            note(format!("frames of {session} for ops that are not started"), link.held.len());
            note(format!("attempts with eager bytes to {session}"), link.eager.len());
            note(format!("attempts that {session} wants credit for"), link.wanted.len());
        }
        left
    }
}
