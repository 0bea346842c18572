//! A tensor as quantized blocks that are made, and taken, piece by piece: while some are on their way, others are made.

use crate::quantize::{BLOCK, Format, Residual};

/// Bytes of a tensor for which another thread pays when all of its blocks are taken at once.
const BYTES_PER_THREAD: usize = 4 << 20;

/// What a peer contributes to a quantized op, and what it gets.
#[derive(Debug)]
pub struct Blocks {
    format: Format,
    contribution: Vec<u8>,
    result: Vec<u8>,
    /// By block of the contribution.
    made: Vec<Made>,
    feedback: Option<Feedback>,
}

/// How far a block of the contribution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// It has not been made.
    Not,
    /// It is there.
    Yes,
    /// It is there, and what is left of it has what quantizing the sum took away.
    AndSum,
}

/// What quantization has taken away from the tensor.
#[derive(Debug)]
struct Feedback {
    /// By earlier ops. None: nothing.
    before: Option<Residual>,
    /// With this one, where blocks have been made.
    after: Residual,
}

impl Blocks {
    /// For a tensor of `count` elements. Memory is mapped by the system only as it is written to.
    pub fn new(format: Format, count: usize) -> Self {
        let bytes = format.bytes(count);
        let made = vec![Made::Not; count.div_ceil(BLOCK)];
        Self { format, contribution: vec![0; bytes], result: vec![0; bytes], made, feedback: None }
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
        self.made.resize(count.div_ceil(BLOCK), Made::Not);
        Self { format, feedback: None, ..self }
    }

    /// The same for a tensor of `count` elements of which what quantization takes away is kept, in the memory of `spare`.
    /// What earlier ops have taken away `before` is contributed with it.
    ///
    /// # Panics
    /// When `before` is not of such a tensor, or blocks have been made.
    #[must_use]
    pub fn with_feedback(self, count: usize, before: Option<Residual>, spare: Option<Residual>) -> Self {
        let after = Residual::for_count(self.format, count, spare);
        let mut blocks = Self { feedback: Some(Feedback { before: None, after }), ..self };
        blocks.resume(before);
        blocks
    }

    /// What earlier ops have taken away `before` is contributed with the tensor, of which there is feedback.
    ///
    /// # Panics
    /// When `before` is not of such a tensor, or blocks have been made.
    pub fn resume(&mut self, before: Option<Residual>) {
        let Some(feedback) = &mut self.feedback else { return };
        let as_long = before.as_ref().is_none_or(|before| before.0.len() == feedback.after.0.len());
        assert!(as_long, "of the same length");
        assert!(self.made.iter().all(|made| *made == Made::Not), "nothing has been made");
        feedback.before = before;
    }

    /// Another attempt begins: what the sums of the one before took away counts no more.
    pub fn begin(&mut self) {
        if self.feedback.is_some() {
            // They are made again: the same bytes, and what is left of them.
            let again = |made: &&mut Made| **made == Made::AndSum;
            self.made.iter_mut().filter(again).for_each(|made| *made = Made::Not);
        }
    }

    /// The op has ended. Returns the residual that stands, and the memory of the other one: what is left after this op if
    /// it has `committed`, else what was before it.
    pub fn end_feedback(&mut self, committed: bool) -> (Option<Residual>, Option<Residual>) {
        let Some(Feedback { before, mut after }) = self.feedback.take() else { return (None, None) };
        if !committed {
            return (before, Some(after));
        }
        let bytes = self.format.residual_bytes();
        for (made, (i, after)) in self.made.iter().zip(after.0.chunks_mut(bytes).enumerate()) {
            if *made == Made::Not {
                // Not contributed, so all is left.
                match &before {
                    Some(before) => after.copy_from_slice(&before.0[i * bytes..i * bytes + after.len()]),
                    None => after.fill(0),
                }
            }
        }
        (Some(after), before)
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
        if self.made[blocks.clone()].iter().all(|made| *made != Made::Not) {
            return;
        }
        debug_assert!(
            !self.made[blocks.clone()].contains(&Made::AndSum),
            "pieces of an attempt do not overlap"
        );
        let tensor = &tensor[self.elements(&blocks, tensor.len())];
        let contribution = &mut self.contribution[start..start + len];
        match &mut self.feedback {
            None => self.format.encode(tensor, contribution),
            Some(feedback) => {
                let range = residuals(self.format, &blocks, feedback.after.0.len());
                let before = feedback.before.as_ref().map(|before| &before.0[range.clone()]);
                let after = &mut feedback.after.0[range];
                self.format.encode_with_residual(tensor, before, contribution, after);
            }
        }
        self.made[blocks].fill(Made::Yes);
    }

    /// Contribution and result, and where what is taken away from the sum of these bytes is added, if that is kept. Asked
    /// for once in an attempt, after the same bytes of the contribution have been prepared.
    ///
    /// # Panics
    /// When the bytes are no whole blocks.
    pub fn both_to_sum(&mut self, start: usize, len: usize) -> (&[u8], &mut [u8], Option<&mut [u8]>) {
        let blocks = self.blocks(start, len);
        let residual = self.feedback.as_mut().map(|feedback| {
            let range = residuals(self.format, &blocks, feedback.after.0.len());
            self.made[blocks].fill(Made::AndSum);
            &mut feedback.after.0[range]
        });
        (&self.contribution, &mut self.result, residual)
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

/// Bytes of a residual of so many that belong to blocks.
fn residuals(format: Format, blocks: &std::ops::Range<usize>, all: usize) -> std::ops::Range<usize> {
    let bytes = format.residual_bytes();
    (blocks.start * bytes).min(all)..(blocks.end * bytes).min(all)
}
