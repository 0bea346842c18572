//! Shared state: named tensors that a group keeps bit-identical, with a revision.
//!
//! Every member offers what it has ([`Offer`]); the master elects whose content wins ([`elect`], a pure function); those
//! that have other content fetch the blocks that differ from all that hold them ([`Fetch`]). The decision stands when
//! the store has revision and hash ([`Agreed`]); until then nobody's tensors are written to.
//!
//! Revisions: a sync raises the revision by exactly one. While the group has agreed on none, or on 0, the highest one
//! that is offered is accepted, so that a run can be resumed. Who offers more is expelled, who offers less receives.
//!
//! Blocks are numbered over all tensors that are compared, in the order of their names; a tensor of no bytes has none.

mod elect;
mod fetch;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use elect::{Election, Outcome, elect};
pub use fetch::{Fetch, Piece};

use crate::ids::SessionId;
use crate::vocabulary::DataType;

/// Bytes of a block, unless the caller says otherwise.
pub const BLOCK_BYTES: u32 = 4 << 20;
/// Most bytes of a block.
pub const MAX_BLOCK_BYTES: u32 = 16 << 20;
/// Stands for the hashes of all blocks, which are fetched like a block before any other.
pub const MANIFEST: u32 = u32::MAX;

/// What a member wants of a synchronization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Strategy {
    /// The most common content wins. If one member says so, all must.
    EnforcePopular,
    /// Never sends, and is not counted.
    ReceiveOnly,
    /// Never receives: its content must win, or it is expelled.
    SendOnly,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EnforcePopular => "enforce-popular",
            Self::ReceiveOnly => "receive-only",
            Self::SendOnly => "send-only",
        })
    }
}

/// What a tensor is, apart from its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorKey {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DataType,
    /// Its size.
    pub bytes: u64,
    /// Whether its content must be equal everywhere (else it is neither compared nor sent).
    pub compared: bool,
}

/// What a member has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The revision that the caller gave it.
    pub revision: u64,
    /// What the caller wants.
    pub strategy: Strategy,
    /// False for a member that should have received and could not: its content does not count until it has.
    pub counts: bool,
    /// Whether newcomers may be let in first; they are if all members say so.
    pub admits: bool,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Hash over the hashes of the tensors that are compared.
    pub content: u128,
    /// The tensors, sorted by name.
    pub tensors: Vec<TensorKey>,
}

/// What a group last agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// The revision.
    pub revision: u64,
    /// The hash of the content, as in [`Offer::content`].
    pub content: u128,
}

/// How two members' tensors differ in kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyDifference {
    /// A tensor that only the other one has.
    Missing(String),
    /// A tensor that the other one has not.
    Extra(String),
    /// Another type or size.
    Kind {
        /// The tensor.
        name: String,
        /// Type and size here.
        here: (DataType, u64),
        /// Type and size there.
        there: (DataType, u64),
    },
    /// Compared by one and not by the other.
    Compared(String),
    /// Blocks of another size.
    BlockBytes {
        /// Bytes here.
        here: u32,
        /// Bytes there.
        there: u32,
    },
}

impl fmt::Display for KeyDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "tensor \"{name}\" is missing"),
            Self::Extra(name) => write!(f, "tensor \"{name}\" is not known there"),
            Self::Kind { name, here, there } => write!(
                f,
                "tensor \"{name}\" is {} bytes of {} and should be {} bytes of {}",
                here.1, here.0, there.1, there.0
            ),
            Self::Compared(name) => {
                write!(
                    f,
                    "tensor \"{name}\" may differ (allow_content_inequality) on one side and not on the other"
                )
            }
            Self::BlockBytes { here, there } => write!(f, "blocks of {here} bytes, {there} bytes there"),
        }
    }
}

/// Why a member is expelled from its group by a synchronization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Others enforce the popular content, and it does not.
    Strategy {
        /// What it wanted.
        wanted: Strategy,
        /// One that enforces.
        with: SessionId,
    },
    /// Its revision is higher than it can be.
    Revision {
        /// What it offered.
        offered: u64,
        /// What was expected.
        expected: u64,
    },
    /// Its tensors are not those of the group.
    KeySet {
        /// One that has those of the group.
        with: SessionId,
        /// The first difference.
        difference: KeyDifference,
    },
    /// It only sends, and other content won.
    ConflictingSender {
        /// One whose content won.
        with: SessionId,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strategy { wanted, with } => write!(
                f,
                "it synchronized as {wanted}, but peer {with} enforces the popular content, and then all must"
            ),
            Self::Revision { offered, expected } => {
                write!(f, "its shared state has revision {offered}, but {expected} was expected")
            }
            Self::KeySet { with, difference } => {
                write!(f, "its shared state has other tensors than that of peer {with}: {difference}")
            }
            Self::ConflictingSender { with } => {
                write!(f, "it synchronized as send-only, but the content of peer {with} won")
            }
        }
    }
}

/// Why nobody's content can win.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoCandidate {
    /// Every member only receives.
    AllReceive,
    /// Every revision is too low.
    Behind {
        /// The highest that was offered.
        highest: u64,
        /// What was expected.
        expected: u64,
    },
    /// Those that had the content are no more, and the others have not received all of it.
    HoldersLost,
}

impl fmt::Display for NoCandidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReceive => f.write_str("every peer only receives, none has content to send"),
            Self::Behind { highest, expected } => write!(
                f,
                "the highest revision offered is {highest}, but {expected} was expected: raise it by one before each \
                 synchronization"
            ),
            Self::HoldersLost => {
                f.write_str("every peer that had the elected content is gone, and no other has all of it")
            }
        }
    }
}

/// The caller's tensors, as blocks. What was there before stays until the caller takes what was received.
pub trait StateMemory: Send {
    /// Blocks of all compared tensors.
    fn blocks(&self) -> u32;
    /// Bytes of a block, or of the [`MANIFEST`].
    fn len_of(&self, block: u32) -> u32;
    /// A block to send, or the [`MANIFEST`]: of what was received where something was, else of what was there before.
    fn bytes(&self, block: u32) -> &[u8];
    /// Where a block that is received goes, or the [`MANIFEST`].
    fn incoming(&mut self, block: u32) -> &mut [u8];
    /// The [`MANIFEST`] of `content` is there. The blocks that differ, or None if it is not that of `content`.
    fn accept_manifest(&mut self, content: u128) -> Option<Vec<u32>>;
    /// A block is there. False if its hash is not that of the manifest.
    fn accept(&mut self, block: u32) -> bool;
    /// What has been received is not wanted: what was there before counts.
    fn discard(&mut self);
    /// The tensor that a block belongs to.
    fn name_of(&self, block: u32) -> String;
    /// As what it is, for its owner.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}
