//! What a worker says: one stream of events, shown to a person or to a program.

use serde::{Deserialize, Serialize};

use crate::output;
use crate::supervised;
use pccl_observe::table::seconds;

/// One thing that a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum WorkerEvent {
    /// It is a member.
    Joined {
        /// Its session.
        session: String,
        /// Its rank in the epoch.
        rank: u32,
        /// Members.
        world_size: u32,
        /// The epoch.
        epoch: u64,
        /// From the call to connect until then.
        seconds: f64,
    },
    /// It has the fleet's model of this many rounds, its own or taken over.
    Synced {
        /// Rounds done.
        rounds: u64,
        /// Whether it took the model from the others.
        taken_over: bool,
    },
    /// It calls the averaging op of this round now.
    Reducing {
        /// The round.
        round: u64,
    },
    /// It stands before the averaging op of this round, as it was told.
    Held {
        /// The round.
        round: u64,
    },
    /// It is through the averaging op of this round.
    Reduced {
        /// The round.
        round: u64,
        /// Attempts that were cut before it.
        recoveries: u32,
    },
    /// A round is done.
    Round(RoundReport),
    /// Its membership ended; it comes back as a new session.
    Expelled {
        /// Why, in words.
        why: String,
    },
    /// It is done.
    Left {
        /// Rounds done.
        rounds: u64,
    },
}

/// How a round went for one worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoundReport {
    /// The round, from 1.
    pub(crate) round: u64,
    /// Epoch of the attempt that succeeded.
    pub(crate) epoch: u64,
    /// Peers that took part in it.
    pub(crate) world_size: u32,
    /// Time of the averaging.
    pub(crate) seconds: f64,
    /// Bytes averaged, by that time, in 10⁹ bytes per second.
    pub(crate) gbs: f64,
    /// Attempts that were cut before it.
    pub(crate) recoveries: u32,
    /// Time of the synchronization after it.
    pub(crate) sync_seconds: f64,
    /// Tensors that the synchronization had to change, which should be none.
    pub(crate) repaired: usize,
    /// 128 bits of the model that the averaging made, hexadecimal.
    pub(crate) hash: String,
}

/// Whom a worker tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A program that reads all events as lines of JSON.
    Program,
    /// A person.
    Person,
}

impl Audience {
    /// Says it.
    pub(crate) fn tell(self, event: &WorkerEvent) {
        match self {
            Self::Program => supervised::say(event),
            Self::Person => {
                if let Some(line) = line(event) {
                    output::print(&[line]);
                }
            }
        }
    }
}

/// The event for a person, if it is of interest.
fn line(event: &WorkerEvent) -> Option<String> {
    Some(match event {
        WorkerEvent::Joined { session, rank, world_size, epoch, seconds: time } => format!(
            "joined as peer {session}, rank {rank} of {world_size}, epoch {epoch}, after {}",
            seconds(*time)
        ),
        WorkerEvent::Synced { rounds, taken_over: true } => {
            format!("took over the model of round {rounds} from the others")
        }
        WorkerEvent::Synced { .. }
        | WorkerEvent::Reducing { .. }
        | WorkerEvent::Reduced { .. }
        | WorkerEvent::Held { .. } => return None,
        WorkerEvent::Round(report) => format!(
            "round {:>4}  world {:>2}  epoch {:>3}  {:>8}  {:>6.2} GB/s  {}  {}",
            report.round,
            report.world_size,
            report.epoch,
            seconds(report.seconds),
            report.gbs,
            recoveries(report.recoveries),
            &report.hash[..report.hash.len().min(16)],
        ),
        WorkerEvent::Expelled { why } => format!("out: {why}; connecting again"),
        WorkerEvent::Left { rounds } => format!("left after round {rounds}"),
    })
}

/// The number of recoveries in words.
pub(crate) fn recoveries(count: u32) -> String {
    match count {
        0 => "no recovery".to_owned(),
        1 => "1 recovery".to_owned(),
        n => format!("{n} recoveries"),
    }
}
