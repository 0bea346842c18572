//! What a master has to say to a log.

use std::fmt;
use std::net::SocketAddr;

use crate::ids::{Epoch, PeerGroup, SessionId, Term};
use crate::lease::MasterId;
use crate::record::Removal;
use crate::shared_state::NoCandidate;

/// Something that happened, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterEvent {
    /// It has a term.
    Active {
        /// Its term.
        term: Term,
        /// Members that the store knows.
        members: u32,
    },
    /// Another master has a newer one.
    Deposed {
        /// Its term.
        term: Term,
        /// The newer one.
        newer: Term,
    },
    /// Its lease is over before the store has renewed it: it decides nothing until it is.
    LeaseLost {
        /// Its term.
        term: Term,
    },
    /// The store has renewed the lease after all.
    LeaseRegained {
        /// Its term.
        term: Term,
    },
    /// It ends its term in good order.
    GivesWay {
        /// Its term.
        term: Term,
        /// For whom, if for one in particular.
        heir: Option<MasterId>,
    },
    /// The store answers again.
    StoreIsBack,
    /// The store did not answer as it should.
    StoreTrouble {
        /// What it said.
        why: String,
    },
    /// A newcomer.
    Registered {
        /// Its session.
        session: SessionId,
        /// Its group.
        group: PeerGroup,
        /// Where it lives.
        addr: SocketAddr,
    },
    /// A newcomer or a connection was turned away.
    ConnectionRefused {
        /// From where.
        from: SocketAddr,
        /// Why.
        why: String,
    },
    /// A peer was turned away, because its certificate does not allow its group.
    GroupRefused {
        /// From where.
        from: SocketAddr,
        /// Why.
        why: String,
    },
    /// A member connected again.
    Attached {
        /// Which.
        session: SessionId,
    },
    /// A member's connection ended.
    Detached {
        /// Which.
        session: SessionId,
    },
    /// A session ended.
    Removed {
        /// Which.
        session: SessionId,
        /// Why.
        why: Removal,
    },
    /// An epoch change begins.
    ChangeBegins {
        /// Which group.
        group: PeerGroup,
        /// The epoch that ends.
        epoch: Epoch,
        /// Why.
        why: String,
    },
    /// A new epoch stands.
    EpochChanged {
        /// Which group.
        group: PeerGroup,
        /// The epoch.
        epoch: Epoch,
        /// Its members.
        world: u32,
        /// Attempts committed, retried, failed with the change.
        verdicts: (u32, u32, u32),
    },
    /// The shared state of a group is equal, and stands.
    Synchronized {
        /// Which group.
        group: PeerGroup,
        /// The revision.
        revision: u64,
        /// Members that received something.
        receivers: u32,
    },
    /// The shared state of a group stays as it is.
    NobodyElected {
        /// Which group.
        group: PeerGroup,
        /// Why.
        why: NoCandidate,
    },
    /// Nobody is heard: it may be us.
    HearsNobody,
    /// The master's own timer was late: silence of the others is no proof.
    WasStopped {
        /// By so much, milliseconds.
        late_ms: u64,
    },
}

impl fmt::Display for MasterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active { term, members } => {
                write!(f, "active in term {term}; the store knows {members} members")
            }
            Self::Deposed { term, newer } => {
                write!(f, "term {term} is over: another master has term {newer}; this one stands by")
            }
            Self::LeaseLost { term } => write!(
                f,
                "the lease of term {term} is over and was not renewed: no epoch change, no join and no election until it \
                 is; ops of complete groups go on"
            ),
            Self::LeaseRegained { term } => write!(f, "the lease of term {term} is valid again"),
            Self::GivesWay { term, heir: Some(heir) } => {
                write!(f, "term {term} ends: the master {heir} is to lead")
            }
            Self::GivesWay { term, heir: None } => write!(f, "term {term} ends: another master may lead"),
            Self::StoreIsBack => f.write_str("the store answers again"),
            Self::StoreTrouble { why } => write!(f, "the store did not answer as it should: {why}"),
            Self::Registered { session, group, addr } => {
                write!(f, "peer {session} at {addr} registered for group {group}")
            }
            Self::ConnectionRefused { from, why } | Self::GroupRefused { from, why } => {
                write!(f, "refused a connection from {from}: {why}")
            }
            Self::Attached { session } => write!(f, "peer {session} attached again"),
            Self::Detached { session } => write!(f, "the connection of peer {session} ended"),
            Self::Removed { session, why } => write!(f, "peer {session} is out: {why}"),
            Self::ChangeBegins { group, epoch, why } => write!(f, "group {group}: epoch {epoch} ends: {why}"),
            Self::EpochChanged { group, epoch, world, verdicts: (committed, retried, failed) } => write!(
                f,
                "group {group}: epoch {epoch} with {world} members; of the ops in flight {committed} committed, \
                 {retried} begin again, {failed} failed"
            ),
            Self::Synchronized { group, revision, receivers } => {
                write!(
                    f,
                    "group {group}: shared state of revision {revision} stands; {receivers} peers received"
                )
            }
            Self::NobodyElected { group, why } => {
                write!(f, "group {group}: no shared state was elected: {why}")
            }
            Self::HearsNobody => f.write_str("no peer is heard: nobody is judged until somebody is"),
            Self::WasStopped { late_ms } => {
                write!(f, "this process was stopped for {late_ms} ms: everybody gets a new timeout")
            }
        }
    }
}
