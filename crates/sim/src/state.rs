//! Shared state of a program: small tensors with real hashes, and what a synchronization receives beside them.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;

use pccl_kernels::hash::{hash_block, hash_tensor};
use pccl_proto::shared_state::{MANIFEST, StateMemory, TensorKey};
use pccl_proto::vocabulary::DataType;

const HASH_BYTES: usize = size_of::<u128>();

/// Names, sizes and blocks of the tensors that a group's programs share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Bytes of each tensor that is compared.
    pub tensors: Vec<usize>,
}

impl Shape {
    pub(crate) fn bytes(&self) -> usize {
        self.tensors.iter().sum()
    }

    /// The tensors as they are offered, with one that everybody has for itself.
    pub fn keys(&self) -> Vec<TensorKey> {
        let compared = self.tensors.iter().enumerate().map(|(i, bytes)| (format!("w{i}"), *bytes, true));
        let own = ("a".to_owned(), 4, false);
        let key =
            |(name, bytes, compared)| TensorKey { name, dtype: DataType::U8, bytes: bytes as u64, compared };
        std::iter::once(own).chain(compared).map(key).collect()
    }

    /// The bytes of each block in the tensors, one after the other.
    fn blocks(&self) -> Vec<Range<usize>> {
        let step = self.block_bytes as usize;
        let mut blocks = Vec::new();
        let mut start = 0;
        for bytes in &self.tensors {
            let end = start + bytes;
            blocks.extend((start..end).step_by(step).map(|at| at..end.min(at + step)));
            start = end;
        }
        blocks
    }

    fn hashes(&self, bytes: &[u8]) -> Vec<u128> {
        self.blocks().into_iter().map(|range| hash_block(&bytes[range])).collect()
    }

    fn content_of(&self, hashes: &[u128]) -> u128 {
        let mut all = Vec::new();
        let mut rest = hashes;
        for bytes in &self.tensors {
            let (ours, others) = rest.split_at(bytes.div_ceil(self.block_bytes as usize));
            all.extend_from_slice(&hash_tensor(ours, *bytes as u64).to_le_bytes());
            rest = others;
        }
        hash_block(&all)
    }

    /// The hash over everything.
    pub fn content(&self, bytes: &[u8]) -> u128 {
        self.content_of(&self.hashes(bytes))
    }
}

/// The memory of one synchronization.
pub struct State {
    shape: Shape,
    blocks: Vec<Range<usize>>,
    /// What is offered; only read.
    own: Vec<u8>,
    before: Vec<u8>,
    /// The hashes of what is received; empty while nothing is.
    manifest: Vec<u8>,
    received: BTreeMap<u32, (Vec<u8>, Option<u128>)>,
}

impl State {
    /// Of a program that has `own`: the tensors that are compared, one after the other.
    pub fn new(shape: Shape, own: Vec<u8>) -> Self {
        let before = shape.hashes(&own).iter().flat_map(|h| h.to_le_bytes()).collect();
        let blocks = shape.blocks();
        Self { shape, blocks, own, before, manifest: Vec::new(), received: BTreeMap::new() }
    }

    /// What was offered.
    pub(crate) fn own(&self) -> &[u8] {
        &self.own
    }

    /// The tensors with what was received in its place.
    pub(crate) fn taken(&self) -> Vec<u8> {
        let mut all = self.own.clone();
        for (block, (bytes, _)) in &self.received {
            all[self.blocks[*block as usize].clone()].copy_from_slice(bytes);
        }
        all
    }

    fn hash_at(hashes: &[u8], block: u32) -> u128 {
        let mut bytes = [0; HASH_BYTES];
        let at = block as usize * HASH_BYTES;
        bytes.copy_from_slice(&hashes[at..at + HASH_BYTES]);
        u128::from_le_bytes(bytes)
    }
}

impl StateMemory for State {
    fn blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    fn len_of(&self, block: u32) -> u32 {
        if block == MANIFEST { self.before.len() as u32 } else { self.blocks[block as usize].len() as u32 }
    }

    fn bytes(&self, block: u32) -> &[u8] {
        if block == MANIFEST {
            return if self.manifest.is_empty() { &self.before } else { &self.manifest };
        }
        match self.received.get(&block) {
            Some((bytes, _)) => bytes,
            None => &self.own[self.blocks[block as usize].clone()],
        }
    }

    fn incoming(&mut self, block: u32) -> &mut [u8] {
        let len = self.len_of(block) as usize;
        if block == MANIFEST {
            self.manifest.resize(len, 0);
            return &mut self.manifest;
        }
        &mut self.received.entry(block).or_insert_with(|| (vec![0; len], None)).0
    }

    fn accept_manifest(&mut self, content: u128) -> Option<Vec<u32>> {
        let wanted: Vec<u128> = (0..self.blocks()).map(|b| Self::hash_at(&self.manifest, b)).collect();
        if self.shape.content_of(&wanted) != content {
            return None;
        }
        let before = &self.before;
        let differs = |b: u32| wanted[b as usize] != Self::hash_at(before, b);
        self.received.retain(|b, (_, hash)| *hash == Some(wanted[*b as usize]) && differs(*b));
        let received = &self.received;
        Some((0..wanted.len() as u32).filter(|b| differs(*b) && !received.contains_key(b)).collect())
    }

    fn accept(&mut self, block: u32) -> bool {
        let wanted = Self::hash_at(&self.manifest, block);
        let Some((bytes, hash)) = self.received.get_mut(&block) else { return false };
        *hash = Some(hash_block(bytes));
        let right = *hash == Some(wanted);
        if !right {
            self.received.remove(&block);
        }
        right
    }

    fn discard(&mut self) {
        self.manifest.clear();
        self.received.clear();
    }

    fn name_of(&self, block: u32) -> String {
        let mut start = 0;
        let at = self.blocks[block as usize].start;
        let tensor = self.shape.tensors.iter().position(|bytes| {
            start += bytes;
            at < start
        });
        format!("w{}", tensor.unwrap_or_default())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}
