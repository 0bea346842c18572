//! Shared state: named tensors that the group keeps bit-identical.

mod error;
mod hashes;
mod memory;
#[cfg(feature = "checkpoint")]
mod saved;

#[cfg(feature = "checkpoint")]
use std::collections::BTreeMap;
use std::collections::BTreeSet;

use pccl_proto::peer::SyncFailure;
use pccl_proto::shared_state::{BLOCK_BYTES, MAX_BLOCK_BYTES, Offer, Strategy, TensorKey};
use pccl_proto::vocabulary::DataType;

pub use self::error::SyncError;
use self::memory::{Memory, Parts};
use crate::buffer::{self, as_bytes_mut};
use crate::communicator::Communicator;
use crate::element::Element;

/// Most bytes of all names together, with 16 more for each tensor: the offer is one message.
const MAX_NAME_BYTES: usize = 4 << 20;

/// A named tensor, borrowed for the call.
#[derive(Debug)]
pub struct Tensor<'a> {
    name: String,
    dtype: DataType,
    bytes: &'a mut [u8],
    compared: bool,
    shape: Option<Vec<usize>>,
}

impl<'a> Tensor<'a> {
    /// A tensor of elements.
    pub fn new<T: Element>(name: impl Into<String>, elements: &'a mut [T]) -> Self {
        Self::from_bytes(name, T::DTYPE, as_bytes_mut(elements))
    }

    /// A tensor with a type known at run time; elements in native byte order, any alignment.
    pub fn from_bytes(name: impl Into<String>, dtype: DataType, bytes: &'a mut [u8]) -> Self {
        Self { name: name.into(), dtype, bytes, compared: true, shape: None }
    }

    /// Elements in each dimension, for checkpoints. Default: one dimension.
    #[must_use]
    pub fn shaped(mut self, shape: impl Into<Vec<usize>>) -> Self {
        self.shape = Some(shape.into());
        self
    }

    /// Its content may differ from peer to peer: it is neither compared nor sent. Its name, type and size must still be
    /// those of the others.
    #[must_use]
    pub fn allow_content_inequality(mut self) -> Self {
        self.compared = false;
        self
    }
}

/// The tensors that [`Communicator::synchronize`] makes equal, and their revision.
///
/// All members must have the same tensors by name, type and size; their order does not matter.
#[derive(Debug)]
pub struct SharedState<'a> {
    /// Raised by the caller by exactly one before each synchronization. The first one that is not 0 may be any, to resume
    /// a run. Lower than expected: this peer receives; higher: it is expelled. A synchronization that succeeds sets it to
    /// the revision that was agreed on.
    pub revision: u64,
    tensors: Vec<Tensor<'a>>,
    block_bytes: u32,
    admits: bool,
    #[cfg(feature = "checkpoint")]
    pub(crate) wants_checkpoint: bool,
    #[cfg(feature = "checkpoint")]
    pub(crate) notes: BTreeMap<String, String>,
}

impl<'a> SharedState<'a> {
    /// No tensors yet.
    pub fn new(revision: u64) -> Self {
        Self {
            revision,
            tensors: Vec::new(),
            block_bytes: BLOCK_BYTES,
            admits: true,
            #[cfg(feature = "checkpoint")]
            wants_checkpoint: false,
            #[cfg(feature = "checkpoint")]
            notes: BTreeMap::new(),
        }
    }

    /// One more tensor.
    #[must_use]
    pub fn with(mut self, tensor: Tensor<'a>) -> Self {
        self.push(tensor);
        self
    }

    /// One more tensor.
    pub fn push(&mut self, tensor: Tensor<'a>) {
        self.tensors.push(tensor);
    }

    /// Bytes of a block, the unit that is hashed and fetched: 1 to 16 MiB, the same on all peers. Default 4 MiB.
    #[must_use]
    pub fn block_bytes(mut self, bytes: u32) -> Self {
        self.block_bytes = bytes.clamp(1, MAX_BLOCK_BYTES);
        self
    }

    /// Whether newcomers that wait are let in before the tensors are compared; they are if all members say so. Default
    /// true.
    #[must_use]
    pub fn admit_newcomers(mut self, admits: bool) -> Self {
        self.admits = admits;
        self
    }
}

/// How a synchronization went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncInfo {
    /// The revision that all have now.
    pub revision: u64,
    /// Tensor bytes sent to others; 0 if all agreed.
    pub sent_bytes: u64,
    /// Tensor bytes received; 0 if this peer had the content that won.
    pub received_bytes: u64,
    /// Names of the tensors that were written to, in order.
    pub changed: Vec<String>,
    /// Whether newcomers were let in during the call: the world has grown.
    pub joined: bool,
    /// Elections after the first one, because a member was lost or the master changed.
    pub recoveries: u32,
}

impl Communicator {
    /// Makes the tensors of all members bit-identical. All members must call it, with no op in flight.
    ///
    /// Newcomers that wait are let in first, and take part by their own call. Then the content of one member, for all
    /// tensors together, wins: with [`Strategy::EnforcePopular`] the most common one, of equally common ones that of the
    /// longest-standing member. Those that differ fetch the blocks that differ from all that have them. All or nothing: an
    /// error leaves the tensors as they were, byte for byte, also if this peer was cut off half-way.
    pub fn synchronize(
        &self,
        state: &mut SharedState<'_>,
        strategy: Strategy,
    ) -> Result<SyncInfo, SyncError> {
        self.check_ours()?;
        check(state)?;
        state.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let parts = Parts::new(compared(state).map(|t| (t.name.as_str(), t.bytes.len())), state.block_bytes)?;
        let slices: Vec<&[u8]> = compared(state).map(|t| &*t.bytes).collect();
        let hashes = hashes::of_blocks(&slices, state.block_bytes as usize);
        let offer = Offer {
            revision: state.revision,
            strategy,
            counts: true,
            admits: state.admits,
            block_bytes: state.block_bytes,
            content: parts.content(&hashes),
            tensors: state.tensors.iter().map(key).collect(),
        };
        let make = |lent| Memory::new(lent, parts, &hashes);
        let ended = buffer::synchronize(&self.engine, offer, &slices, make);
        let (result, memory) = ended.map_err(|why| SyncError::NotStarted { why })?;
        let done = result.map_err(|why| match why {
            SyncFailure::Nobody(why) => SyncError::NoCandidate { why },
            SyncFailure::Mismatch { waits } => SyncError::mismatch(&waits),
            SyncFailure::Ended(why) => SyncError::Ended { why },
        })?;
        state.revision = done.agreed.revision;
        let changed = take(*memory, state);
        #[cfg(feature = "checkpoint")]
        self.checkpoint(done.agreed, state);
        Ok(SyncInfo {
            revision: done.agreed.revision,
            sent_bytes: done.sent_bytes,
            received_bytes: done.received_bytes,
            changed,
            joined: done.joined,
            recoveries: done.recoveries,
        })
    }
}

impl Communicator {
    pub(crate) fn check_ours(&self) -> Result<(), SyncError> {
        if self.is_ours() {
            return Ok(());
        }
        let why = "this process was forked from the one that connected; connect in the child".into();
        Err(SyncError::Invalid { tensor: None, why })
    }
}

pub(crate) fn compared<'s, 'a>(state: &'s SharedState<'a>) -> impl Iterator<Item = &'s Tensor<'a>> {
    state.tensors.iter().filter(|t| t.compared)
}

fn key(tensor: &Tensor<'_>) -> TensorKey {
    TensorKey {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        bytes: tensor.bytes.len() as u64,
        compared: tensor.compared,
    }
}

/// Writes what was received to the caller's tensors. Returns the names of those that it changed.
fn take(memory: Memory, state: &mut SharedState<'_>) -> Vec<String> {
    let mut tensors: Vec<&mut Tensor<'_>> = state.tensors.iter_mut().filter(|t| t.compared).collect();
    let mut changed = BTreeSet::new();
    for (tensor, start, bytes) in memory.received() {
        tensors[tensor].bytes[start..start + bytes.len()].copy_from_slice(&bytes);
        changed.insert(tensor);
    }
    changed.into_iter().map(|i| tensors[i].name.clone()).collect()
}

fn check(state: &SharedState<'_>) -> Result<(), SyncError> {
    let invalid = |tensor: Option<&str>, why: String| {
        Err(SyncError::Invalid { tensor: tensor.map(str::to_owned), why })
    };
    let mut names = BTreeSet::new();
    for tensor in &state.tensors {
        if !names.insert(&tensor.name) {
            return invalid(Some(&tensor.name), "another tensor has this name".into());
        }
        let (size, dtype) = (tensor.dtype.size_bytes(), tensor.dtype);
        if !tensor.bytes.len().is_multiple_of(size) {
            let bytes = tensor.bytes.len();
            let why = format!("{bytes} bytes are no whole number of {dtype} elements of {size} bytes");
            return invalid(Some(&tensor.name), why);
        }
        let elements = |shape: &Vec<usize>| shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
        let count = tensor.bytes.len() / size;
        if let Some(shape) = tensor.shape.as_ref().filter(|shape| elements(shape) != Some(count)) {
            let why = format!("its shape {shape:?} is not one of {count} elements");
            return invalid(Some(&tensor.name), why);
        }
    }
    let name_bytes: usize = names.iter().map(|n| n.len() + 16).sum();
    if name_bytes > MAX_NAME_BYTES {
        let why = format!(
            "{} tensors with {name_bytes} bytes of names, the limit is {MAX_NAME_BYTES}",
            names.len()
        );
        return invalid(None, why);
    }
    Ok(())
}
