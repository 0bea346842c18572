//! What a peer or a master knows about itself, asked for at each scrape.

use std::collections::BTreeMap;

/// A part of the program that has something to show: a peer, a master.
///
/// It is asked from the thread that serves the page, and should answer in milliseconds or say that it cannot.
pub trait Source: Send + Sync + 'static {
    /// Where it stands. `None`: it has ended, or does not answer.
    fn sample(&self) -> Option<Sample>;
    /// Whether it works, and whether it can be used.
    fn health(&self) -> Health;
}

/// Two questions that an orchestrator asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Not alive: it should be started again. The text says why.
    pub alive: Result<(), String>,
    /// Not ready: nothing should be sent to it for now. The text says why.
    pub ready: Result<String, String>,
}

/// Where a source stands.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Sample {
    /// A peer.
    Peer(PeerSample),
    /// A master.
    Master(MasterSample),
}

/// A peer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerSample {
    /// Its group.
    pub group: u32,
    /// Where other peers reach it, once it is a member.
    pub address: Option<String>,
    /// Its rank, if it is a member.
    pub rank: Option<u32>,
    /// Members of all groups.
    pub peers: u64,
    /// Members of its group.
    pub world_size: u64,
    /// The epoch it is in.
    pub epoch: u64,
    /// The newest term it has heard of.
    pub term: u64,
    /// Ops that have not ended.
    pub ops_in_flight: u64,
    /// Age of the oldest of them, seconds.
    pub oldest_op_seconds: f64,
    /// Bytes kept to restore inputs.
    pub backup_bytes: u64,
    /// Revision of the shared state.
    pub revision: u64,
    /// Whether it is attached to a master.
    pub attached: bool,
    /// Since a master was heard, seconds.
    pub heartbeat_age_seconds: f64,
    /// Seconds that calls have waited, by reason.
    pub waited: Vec<(&'static str, f64)>,
    /// Its links, by the other member's address.
    pub links: BTreeMap<String, LinkSample>,
}

/// A link to another member: all connections between the two.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkSample {
    /// All its connections stand.
    pub up: bool,
    /// Connections that stand.
    pub connections: u64,
    /// Bytes that the other side's kernel has acknowledged, as far as seen.
    pub sent_bytes: u64,
    /// Bytes received, as far as seen.
    pub received_bytes: u64,
    /// Segments sent again, as far as seen.
    pub retransmits: u64,
    /// The kernel's smoothed round trip, the largest of the connections, seconds.
    pub rtt_seconds: f64,
    /// Frames that wait to be sent.
    pub queued_frames: u64,
    /// Frames wait because the member has not called the op.
    pub no_credit: bool,
    /// The oldest op waits for this member's data.
    pub awaited: bool,
}

/// A master.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MasterSample {
    /// Whether it decides.
    pub active: bool,
    /// Its term.
    pub term: u64,
    /// The groups by number.
    pub groups: BTreeMap<u32, GroupSample>,
}

/// A peer group as the master knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupSample {
    /// Its epoch.
    pub epoch: u64,
    /// Its members.
    pub members: u64,
    /// Registered peers that wait to be let in.
    pub newcomers: u64,
    /// Revision of the shared state.
    pub revision: u64,
    /// Ops that a member has called and that have no verdict.
    pub ops_in_flight: u64,
    /// Age of the oldest of them, seconds.
    pub oldest_op_seconds: f64,
    /// Seconds since each peer was heard, by its address.
    pub heard: BTreeMap<String, f64>,
    /// What waits for each peer: ops that it has not promised, and a vote of others that it has not joined.
    pub awaited: BTreeMap<String, u64>,
}
