//! What happens in a fleet, for whoever watches it: one stream of events, which the displays only render.

use std::net::SocketAddr;

use serde::Serialize;

use super::ledger::RoundSummary;
use pccl_chaos::{Judgement, Kind, Tally};

/// One thing that happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The master listens, the workers start.
    Started {
        /// The master.
        master: SocketAddr,
        /// Workers.
        workers: u32,
        /// Bytes that a round averages.
        bytes: u64,
        /// Tensors of the model.
        tensors: usize,
    },
    /// A worker started later is a member.
    Joined {
        /// The worker.
        worker: String,
        /// Members now.
        world_size: u32,
        /// From its call to connect.
        seconds: f64,
    },
    /// A worker has learned that it was expelled.
    Expelled {
        /// The worker.
        worker: String,
        /// Why.
        why: String,
    },
    /// We struck.
    Struck {
        /// How.
        kind: Kind,
        /// Whom; of a join, the extra worker.
        worker: String,
        /// In the op of this round.
        round: u64,
    },
    /// We have started a worker in the place of one that we killed.
    Replaced {
        /// The new one.
        worker: String,
    },
    /// We let a frozen worker go on.
    Thawed {
        /// The worker.
        worker: String,
    },
    /// A strike is over.
    Judged(Judgement),
    /// All who are left have done a round.
    Round(RoundSummary),
    /// The end.
    Ended {
        /// What came out.
        outcome: Outcome,
        /// All rounds.
        rounds: Vec<RoundSummary>,
    },
}

/// Whether all survivors had the same bits after every round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// They had.
    Identical,
    /// They had not.
    Diverged,
}

/// What came out of a run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    /// On bit identity.
    pub(super) verdict: Verdict,
    /// Rounds done.
    pub(super) rounds: u64,
    /// Ops that lost a peer and still completed.
    pub(super) recoveries: u32,
    /// Peers in the last round.
    pub(super) world_size: u32,
    /// Strikes that hit, and those that did not.
    pub(super) chaos: Tally,
    /// Every strike.
    pub(super) strikes: Vec<Judgement>,
    /// Kinds of strikes that were wanted and never hit.
    pub(super) not_hit: Vec<Kind>,
    /// Whether it was ended before its time.
    pub(super) interrupted: bool,
    /// Wall time.
    pub(super) seconds: f64,
}

impl Outcome {
    /// Whether all is well.
    pub(super) fn is_well(&self) -> bool {
        self.verdict == Verdict::Identical && self.not_hit.is_empty() && !self.interrupted && self.rounds > 0
    }
}

/// Somebody who watches.
pub(super) trait Display {
    /// Shows it.
    fn show(&mut self, event: &Event);
}
