//! The caller's tensors as blocks, and beside them what is received, until it stands.

use std::any::Any;
use std::collections::BTreeMap;

use pccl_kernels::hash::{hash_block, hash_tensor};
use pccl_proto::shared_state::{MANIFEST, MAX_BLOCK_BYTES, StateMemory};

use super::SyncError;
use crate::buffer::{Borrower, LentSlices};

/// Bytes of a hash.
const HASH_BYTES: usize = size_of::<u128>();
/// The manifest is fetched like a block.
const MAX_BLOCKS: usize = MAX_BLOCK_BYTES as usize / HASH_BYTES;

/// How the compared tensors are cut into blocks.
pub(super) struct Parts {
    /// Name, bytes and number of blocks of each tensor.
    tensors: Vec<(String, usize, usize)>,
    /// Tensor and first byte of each block.
    blocks: Vec<(u32, usize)>,
    block_bytes: usize,
}

impl Parts {
    pub(super) fn new<'a>(
        tensors: impl Iterator<Item = (&'a str, usize)>,
        block_bytes: u32,
    ) -> Result<Self, SyncError> {
        let block_bytes = block_bytes as usize;
        let mut parts = Self { tensors: Vec::new(), blocks: Vec::new(), block_bytes };
        for (i, (name, bytes)) in tensors.enumerate() {
            let count = bytes.div_ceil(block_bytes);
            if parts.blocks.len() + count > MAX_BLOCKS {
                let why = format!("the tensors have more than {MAX_BLOCKS} blocks; use larger blocks");
                return Err(SyncError::Invalid { tensor: Some(name.to_owned()), why });
            }
            parts.blocks.extend((0..count).map(|b| (i as u32, b * block_bytes)));
            parts.tensors.push((name.to_owned(), bytes, count));
        }
        Ok(parts)
    }

    /// The hash over the hashes of the tensors, from those of the blocks.
    pub(super) fn content(&self, hashes: &[u128]) -> u128 {
        let mut all = Vec::with_capacity(self.tensors.len() * HASH_BYTES);
        let mut rest = hashes;
        for (_, bytes, count) in &self.tensors {
            let (ours, others) = rest.split_at(*count);
            all.extend_from_slice(&hash_tensor(ours, *bytes as u64).to_le_bytes());
            rest = others;
        }
        hash_block(&all)
    }

    fn range(&self, block: u32) -> (usize, std::ops::Range<usize>) {
        let (tensor, start) = self.blocks[block as usize];
        let end = self.tensors[tensor as usize].1.min(start + self.block_bytes);
        (tensor as usize, start..end)
    }
}

struct Received {
    bytes: Vec<u8>,
    /// Its hash, once it is complete and right.
    hash: Option<u128>,
}

/// The memory of a synchronization. The caller's tensors are only read.
pub(super) struct Memory {
    lent: LentSlices,
    parts: Parts,
    /// The hashes of what was there before.
    before: Vec<u8>,
    /// The hashes of what is received; empty while nothing is.
    manifest: Vec<u8>,
    received: BTreeMap<u32, Received>,
}

fn hash_at(manifest: &[u8], block: u32) -> u128 {
    let mut bytes = [0; HASH_BYTES];
    let at = block as usize * HASH_BYTES;
    bytes.copy_from_slice(&manifest[at..at + HASH_BYTES]);
    u128::from_le_bytes(bytes)
}

impl Memory {
    pub(super) fn new(lent: LentSlices, parts: Parts, hashes: &[u128]) -> Self {
        let before = hashes.iter().flat_map(|h| h.to_le_bytes()).collect();
        Self { lent, parts, before, manifest: Vec::new(), received: BTreeMap::new() }
    }

    /// What was received: index among the compared tensors, first byte, bytes.
    pub(super) fn received(self) -> impl Iterator<Item = (usize, usize, Vec<u8>)> {
        let parts = self.parts;
        self.received.into_iter().map(move |(block, received)| {
            let (tensor, range) = parts.range(block);
            (tensor, range.start, received.bytes)
        })
    }
}

impl Borrower for Memory {
    fn lent(&mut self) -> &mut LentSlices {
        &mut self.lent
    }
}

impl StateMemory for Memory {
    fn blocks(&self) -> u32 {
        self.parts.blocks.len() as u32
    }

    fn len_of(&self, block: u32) -> u32 {
        if block == MANIFEST { self.before.len() as u32 } else { self.parts.range(block).1.len() as u32 }
    }

    fn bytes(&self, block: u32) -> &[u8] {
        if block == MANIFEST {
            return if self.manifest.is_empty() { &self.before } else { &self.manifest };
        }
        if let Some(received) = self.received.get(&block) {
            return &received.bytes;
        }
        let (tensor, range) = self.parts.range(block);
        &self.lent.get(tensor)[range]
    }

    fn incoming(&mut self, block: u32) -> &mut [u8] {
        let len = self.len_of(block) as usize;
        if block == MANIFEST {
            self.manifest.resize(len, 0);
            return &mut self.manifest;
        }
        let new = || Received { bytes: vec![0; len], hash: None };
        &mut self.received.entry(block).or_insert_with(new).bytes
    }

    fn accept_manifest(&mut self, content: u128) -> Option<Vec<u32>> {
        let hashes: Vec<u128> = (0..self.blocks()).map(|b| hash_at(&self.manifest, b)).collect();
        if self.parts.content(&hashes) != content {
            return None;
        }
        let (before, manifest) = (&self.before, &self.manifest);
        // What an earlier election brought is kept if it is still wanted.
        self.received.retain(|block, received| {
            let wanted = hash_at(manifest, *block);
            received.hash == Some(wanted) && wanted != hash_at(before, *block)
        });
        let missing =
            |b: &u32| hash_at(manifest, *b) != hash_at(before, *b) && !self.received.contains_key(b);
        Some((0..hashes.len() as u32).filter(missing).collect())
    }

    fn accept(&mut self, block: u32) -> bool {
        let wanted = hash_at(&self.manifest, block);
        let Some(received) = self.received.get_mut(&block) else { return false };
        let hash = hash_block(&received.bytes);
        received.hash = Some(hash);
        if hash != wanted {
            self.received.remove(&block);
        }
        hash == wanted
    }

    fn discard(&mut self) {
        self.manifest = Vec::new();
        self.received.clear();
    }

    fn name_of(&self, block: u32) -> String {
        let (tensor, _) = self.parts.range(block);
        self.parts.tensors[tensor].0.clone()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}
