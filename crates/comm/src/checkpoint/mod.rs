//! Checkpoints: the shared state on a disk or in an object store, for the day when every peer has died.
//!
//! Each peer copies its share of the state (its size over the number of peers) inside [`synchronize`] and writes the
//! copy in the background, as slowly as it can afford: a checkpoint holds one revision, and ops go on meanwhile. Shares
//! are safetensors files; whoever finishes last sees that all blocks together have the hash that the peers agreed on,
//! and writes the manifest. Only with it does a checkpoint count, so whatever is cut off, the one before stays whole.
//!
//! All peers of a group must write to the same place: a directory that all of them see, or an object store.
//!
//! [`synchronize`]: crate::Communicator::synchronize

mod cut;
mod error;
mod manifest;
mod name;
mod place;
mod read;
mod retention;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pccl_proto::shared_state::Agreed;

pub use self::error::CheckpointError;
pub use self::read::{CheckpointInfo, Checkpoints, StoredTensor};

use self::manifest::{Head, TensorEntry};
use self::name::SetName;
use self::place::Place;
use self::writer::{Job, Writer};
use crate::communicator::Communicator;
use crate::shared_state::{SharedState, compared};

/// How long a checkpoint that is due waits for the one before it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a peer that leaves waits for its part to be written.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// Where, when and how many checkpoints are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointOptions {
    url: String,
    interval_steps: u32,
    keep: u32,
}

impl CheckpointOptions {
    /// A directory that all peers see, or a URL: `s3://bucket/folder`, `az://container/folder`, `gs://bucket/folder`,
    /// `file:///folder` (object stores if the library is built with them). Credentials come from the environment
    /// (`AWS_*`, `AZURE_*`, `GOOGLE_*`).
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), interval_steps: 100, keep: 3 }
    }

    /// Revisions between two checkpoints: those that this number divides are written. 0: only those that are asked for
    /// by [`SharedState::checkpoint`]. Default 100; the same on all peers.
    #[must_use]
    pub fn interval_steps(mut self, steps: u32) -> Self {
        self.interval_steps = steps;
        self
    }

    /// How many complete checkpoints of a group are kept, at least 1. Default 3.
    #[must_use]
    pub fn keep(mut self, count: u32) -> Self {
        self.keep = count.max(1);
        self
    }
}

/// How the writing of checkpoints gets on, at this peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointStatus {
    /// The revision whose part is being written now.
    pub writing: Option<u64>,
    /// The last revision whose part this peer has written.
    pub written: Option<u64>,
    /// The last revision that this peer has completed, as the last one of all to finish.
    pub completed: Option<u64>,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
}

/// What a communicator needs to write checkpoints.
pub(crate) struct Checkpointer {
    options: CheckpointOptions,
    writer: Writer,
}

impl Checkpointer {
    pub(crate) fn start(options: &CheckpointOptions) -> Result<Self, CheckpointError> {
        let place = Arc::new(Place::open(&options.url)?);
        let writer = Writer::start(Arc::clone(&place), options.keep).map_err(|e| CheckpointError::Place {
            url: place.url().to_owned(),
            why: format!("failed to start a thread: {e}"),
        })?;
        Ok(Self { options: options.clone(), writer })
    }

    pub(crate) fn finish(&self) {
        self.writer.finish(LAST_PATIENCE);
    }

    fn is_due(&self, revision: u64, asked: bool) -> bool {
        let interval = u64::from(self.options.interval_steps);
        asked || (interval > 0 && revision > 0 && revision.is_multiple_of(interval))
    }

    /// Copies this peer's share of the state, if a checkpoint is due, and lets it be written.
    fn copy(&self, agreed: Agreed, world: &World, state: &SharedState<'_>) {
        let Agreed { revision, content } = agreed;
        if !self.is_due(revision, state.wants_checkpoint()) {
            return;
        }
        // Two copies at once would be memory that nobody has allowed.
        if !self.writer.finish(PATIENCE) {
            tracing::warn!(
                target: "pccl::checkpoint",
                "the checkpoint of revision {revision} is left out: an earlier one is still being written; see why its \
                 place is slow, or write fewer"
            );
            return;
        }
        let mut head =
            Head::new(world.run, world.group, revision, world.epoch, content, state.block_bytes_used());
        head.notes.clone_from(state.notes());
        head.tensors = compared(state).map(entry).collect();
        let blocks = head.blocks();
        let pieces = blocks.pieces(&blocks.shard(world.rank, world.peers));
        let tensors: Vec<&[u8]> = compared(state).map(crate::shared_state::Tensor::bytes).collect();
        let slices = pieces.iter().map(|p| &tensors[p.tensor][p.bytes.start as usize..p.bytes.end as usize]);
        let mut data = Vec::with_capacity(slices.clone().map(<[u8]>::len).sum());
        for slice in slices {
            data.extend_from_slice(slice);
        }
        let name = SetName::new(world.group, revision, world.epoch, world.run, content);
        self.writer.write(Job { name, head, rank: world.rank, peers: world.peers, data: Bytes::from(data) });
    }
}

fn entry(tensor: &crate::shared_state::Tensor<'_>) -> TensorEntry {
    TensorEntry {
        name: tensor.name().to_owned(),
        dtype: tensor.dtype().to_string(),
        shape: tensor.shape(),
        bytes: tensor.bytes().len() as u64,
    }
}

/// Who takes part in a checkpoint.
struct World {
    run: u128,
    group: u32,
    epoch: u64,
    rank: u32,
    peers: u32,
}

impl Communicator {
    /// Called when the state has been agreed on, before the caller may change it.
    pub(crate) fn checkpoint(&self, agreed: Agreed, state: &SharedState<'_>) {
        let Some(checkpointer) = &self.checkpointer else { return };
        let world = self.engine.look(|s| {
            let view = s.peer.view()?;
            Some(World {
                run: s.peer.run().0,
                group: self.group(),
                epoch: view.epoch.0,
                rank: s.peer.rank(),
                peers: view.members.len() as u32,
            })
        });
        // Whoever has no world any more hears of it by its next call.
        if let Some(world) = world {
            checkpointer.copy(agreed, &world, state);
        }
    }

    /// How the writing of checkpoints gets on; none if no checkpoints are asked for.
    pub fn checkpoint_status(&self) -> Option<CheckpointStatus> {
        self.checkpointer.as_ref().map(|c| c.writer.status())
    }

    /// Waits until this peer's part of the checkpoint under way is written, without sparing disk and network; at most
    /// for `limit`, and not for a place that does not answer. Says whether nothing is left to write.
    pub fn finish_checkpoint(&self, limit: Duration) -> bool {
        self.checkpointer.as_ref().is_none_or(|c| c.writer.finish(limit))
    }
}
