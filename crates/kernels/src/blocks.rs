//! A tensor as quantized blocks that are made, and taken, piece by piece: while some are on their way, others are made.

use crate::quantize::{BLOCK, Format};

/// Bytes of a tensor for which another thread pays when all of its blocks are taken at once.
const BYTES_PER_THREAD: usize = 4 << 20;

/// What a peer contributes to a quantized op, and what it gets.
#[derive(Debug)]
pub struct Blocks {
    format: Format,
    contribution: Vec<u8>,
    result: Vec<u8>,
    /// By block of the contribution.
    made: Vec<bool>,
}

impl Blocks {
    /// For a tensor of `count` elements. Memory is mapped by the system only as it is written to.
    pub fn new(format: Format, count: usize) -> Self {
        let bytes = format.bytes(count);
        let made = vec![false; count.div_ceil(BLOCK)];
        Self { format, contribution: vec![0; bytes], result: vec![0; bytes], made }
    }

    /// The same in the memory of earlier ones, if that is neither too small nor much too large.
    #[must_use]
    pub fn again(mut self, format: Format, count: usize) -> Self {
        let bytes = format.bytes(count);
        let fits = |memory: &Vec<u8>| (bytes..=2 * bytes.max(1 << 20)).contains(&memory.capacity());
        if !fits(&self.contribution) || !fits(&self.result) {
            return Self::new(format, count);
        }
        // What is in it is written over before it is read: that is what `made` is for, and what a result is.
        self.contribution.resize(bytes, 0);
        self.result.resize(bytes, 0);
        self.made.clear();
        self.made.resize(count.div_ceil(BLOCK), false);
        Self { format, ..self }
    }

    /// The contribution; blocks that have not been prepared are arbitrary.
    pub fn contribution(&self) -> &[u8] {
        &self.contribution
    }

    /// The result.
    pub fn result(&self) -> &[u8] {
        &self.result
    }

    /// The result, to write.
    pub fn result_mut(&mut self) -> &mut [u8] {
        &mut self.result
    }

    /// Both.
    pub fn both(&mut self) -> (&[u8], &mut [u8]) {
        (&self.contribution, &mut self.result)
    }

    /// Makes the blocks of these bytes of the contribution from the tensor. Blocks are made once.
    ///
    /// # Panics
    /// When the bytes are no whole blocks, or the tensor is not as long as the blocks are for.
    pub fn prepare(&mut self, tensor: &[u8], start: usize, len: usize) {
        let blocks = self.blocks(start, len);
        if self.made[blocks.clone()].iter().all(|made| *made) {
            return;
        }
        let tensor = &tensor[self.elements(&blocks, tensor.len())];
        self.format.encode(tensor, &mut self.contribution[start..start + len]);
        self.made[blocks].fill(true);
    }

    /// Writes what these bytes of the result stand for to the tensor.
    ///
    /// # Panics
    /// As [`Blocks::prepare`].
    pub fn take(&self, tensor: &mut [u8], start: usize, len: usize) {
        let elements = self.elements(&self.blocks(start, len), tensor.len());
        self.format.decode(&self.result[start..start + len], &mut tensor[elements]);
    }

    /// Writes what the result stands for to the tensor; on several cores if it is large.
    ///
    /// # Panics
    /// When the tensor is not as long as the blocks are for.
    pub fn take_all(&self, tensor: &mut [u8]) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let parts = (tensor.len() / BYTES_PER_THREAD).clamp(1, cores);
        let blocks = self.made.len().div_ceil(parts).max(1);
        let elements = tensor.chunks_mut(blocks * BLOCK * self.format.dtype.size());
        let mut shares = self.result.chunks(blocks * self.format.block_bytes()).zip(elements);
        let own = shares.next();
        std::thread::scope(|scope| {
            for (result, elements) in shares {
                scope.spawn(|| self.format.decode(result, elements));
            }
            if let Some((result, elements)) = own {
                self.format.decode(result, elements);
            }
        });
    }

    fn blocks(&self, start: usize, len: usize) -> std::ops::Range<usize> {
        let bytes = self.format.block_bytes();
        assert!(start.is_multiple_of(bytes) && len.is_multiple_of(bytes), "whole blocks");
        start / bytes..(start + len) / bytes
    }

    /// Bytes of the tensor that blocks stand for; the last block may be a short one there.
    fn elements(&self, blocks: &std::ops::Range<usize>, tensor_bytes: usize) -> std::ops::Range<usize> {
        let bytes = BLOCK * self.format.dtype.size();
        (blocks.start * bytes).min(tensor_bytes)..(blocks.end * bytes).min(tensor_bytes)
    }
}
