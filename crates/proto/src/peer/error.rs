//! What can go wrong for a peer, and what it has to say.

use std::fmt;

use crate::ids::{Epoch, SessionId, Term};
use crate::message::Refusal;
use crate::record::{Failure, Removal};

/// Why a peer's life under this session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// The master (or a neighbour in a newer epoch) says so.
    Expelled {
        /// Why, if the master said it.
        why: Option<Removal>,
        /// How long ago, milliseconds, as far as known.
        ago_ms: u64,
    },
    /// It may not take part.
    Refused(Refusal),
    /// It was not let in.
    TurnedAway(String),
    /// No master for `master_timeout`; what was in flight has been settled.
    MasterLost,
    /// It left.
    Left,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expelled { why: Some(why), ago_ms } => {
                write!(f, "this peer was expelled {ago_ms} ms ago: {why}")
            }
            Self::Expelled { why: None, .. } => {
                f.write_str("this peer was expelled: the others are in a newer epoch")
            }
            Self::Refused(why) => why.fmt(f),
            Self::TurnedAway(why) => write!(f, "this peer was turned away: {why}"),
            Self::MasterLost => f.write_str("no master could be reached for master_timeout"),
            Self::Left => f.write_str("this peer left"),
        }
    }
}

/// Why an op did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpError {
    /// Decided for all peers alike.
    Failed(Failure),
    /// The peer's life ended before it heard a verdict.
    Ended(EndReason),
    /// As the inner error, and the in-place input could not be restored because backups are off.
    InputLost(Box<OpError>),
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => why.fmt(f),
            Self::Ended(why) => why.fmt(f),
            Self::InputLost(inner) => {
                write!(f, "{inner}; the in-place input is lost because enable_buffer_backup is off")
            }
        }
    }
}

/// What a peer has to say to a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// A master knows it.
    Registered {
        /// Its session.
        session: SessionId,
        /// Members of its group.
        members: u32,
    },
    /// The connection to a master works.
    Attached {
        /// The master's term.
        term: Term,
    },
    /// The connection to the master does not work.
    MasterAway {
        /// Why.
        why: String,
    },
    /// A new epoch.
    EpochChanged {
        /// The epoch.
        epoch: Epoch,
        /// Its members.
        world: u32,
        /// Who did not stay, and why.
        removed: Vec<(SessionId, Removal)>,
        /// Who is new.
        joined: Vec<SessionId>,
        /// Ops that begin again.
        retried: u32,
    },
    /// A connection to another member is there.
    LinkUp {
        /// The member.
        peer: SessionId,
        /// Whether one was there before.
        again: bool,
    },
    /// A connection to another member broke.
    LinkDown {
        /// The member.
        peer: SessionId,
        /// Why.
        why: String,
    },
    /// Connections to another member come about, and nothing comes through them: the master is told.
    LinkFruitless {
        /// The member.
        peer: SessionId,
        /// How many have broken since something came through.
        breaks: u32,
        /// In how long, milliseconds.
        for_ms: u64,
    },
    /// A stranger was turned away.
    StrangerRefused {
        /// Why.
        why: String,
    },
    /// Another member called a different op by the same tag.
    Mismatch {
        /// The member.
        peer: SessionId,
        /// The op.
        tag: u64,
    },
    /// No master was found for `master_timeout`.
    Settles {
        /// Ops that are complete here: the other members are asked.
        complete: usize,
        /// Ops that are not.
        incomplete: usize,
    },
    /// The session is over.
    Ended(EndReason),
}

impl fmt::Display for PeerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered { session, members } => {
                write!(f, "registered as peer {session}; the group has {members} members")
            }
            Self::Attached { term } => write!(f, "attached to the master of term {term}"),
            Self::MasterAway { why } => write!(f, "the master cannot be reached: {why}"),
            Self::EpochChanged { epoch, world, removed, joined, retried } => {
                write!(f, "epoch {epoch} with {world} members")?;
                for (peer, why) in removed {
                    write!(f, "; without peer {peer}: {why}")?;
                }
                for peer in joined {
                    write!(f, "; new: peer {peer}")?;
                }
                if *retried > 0 {
                    write!(f, "; {retried} ops begin again")?;
                }
                Ok(())
            }
            Self::LinkUp { peer, again: false } => write!(f, "connected to peer {peer}"),
            Self::LinkUp { peer, again: true } => {
                write!(f, "connected to peer {peer} again, going on where it was")
            }
            Self::LinkDown { peer, why } => write!(f, "the connection to peer {peer} broke: {why}"),
            Self::LinkFruitless { peer, breaks, for_ms } => write!(
                f,
                "connections to peer {peer} come about, and no data comes through: {breaks} of them broke in {for_ms} ms. \
                 Packets of full size may be lost on the way there: compare the MTU of the hosts' interfaces with that \
                 of the way between them (pccl check measures it)"
            ),
            Self::StrangerRefused { why } => write!(f, "a connection was refused: {why}"),
            Self::Mismatch { peer, tag } => write!(f, "peer {peer} called a different op by tag {tag}"),
            Self::Settles { complete, incomplete } => write!(
                f,
                "no master could be reached for master_timeout: {incomplete} ops in flight are cut; the other members \
                 are asked about the {complete} that are complete here"
            ),
            Self::Ended(why) => why.fmt(f),
        }
    }
}
