//! The executor of an attempt: which bytes to send, accept, reduce, back up and restore.
//!
//! It runs the programs of a [`Schedule`] piece by piece. A piece begins when the pieces `window` before it are complete,
//! so that a few pieces go through the whole collective while they are in the cache, and memory for contributions that
//! come early is bounded by the window. Whoever moves the bytes asks where a frame goes ([`Execution::accept`]) and
//! tells when it is there ([`Execution::deliver`]); what to send comes out as [`OutFrame`]s, whose bytes are looked up
//! when they are sent ([`Execution::bytes`]).
//!
//! Why bytes may be looked up late, and again after a broken connection: what a frame refers to is overwritten only by
//! the result of its own piece, and that result cannot exist before the frame was accepted. Recursive doubling, where
//! that is not so, sends from buffers of its own, or from an input that nobody overwrites.

mod awaited;
mod backup;
#[cfg(test)]
mod tests;

pub use backup::Backup;

use crate::schedule::{Chunk, Place, Rank, Schedule, Side, Step, whole_frame_bytes};
use crate::vocabulary::{DataType, Fingerprint, Quantization, ReduceOp};

/// Most tensor bytes of a frame: no piece is longer, and a call that ends waits for no more than that.
pub const MAX_DATA_BYTES: usize = 256 << 10;

/// Arithmetic on bytes: elements in native order, buffers of any alignment, all of the same length.
pub trait Kernels {
    /// `dst = a op b`
    fn fold(&self, dtype: DataType, op: ReduceOp, dst: &mut [u8], a: &[u8], b: &[u8]);
    /// `acc = acc op b`
    fn fold_right(&self, dtype: DataType, op: ReduceOp, acc: &mut [u8], b: &[u8]);
    /// `acc = a op acc`
    fn fold_left(&self, dtype: DataType, op: ReduceOp, a: &[u8], acc: &mut [u8]);
    /// Turns the reduction of `world` operands into the result (divides an average).
    fn finalize(&self, dtype: DataType, op: ReduceOp, acc: &mut [u8], world: u32);
    /// Reduces quantized blocks: the contributions of all members, in the order of ranks, to the quantized result. What its
    /// quantization takes away is added to `residual`, if there is one.
    fn reduce_quantized(
        &self,
        as_what: Quantized,
        dst: &mut [u8],
        parts: &[&[u8]],
        residual: Option<&mut [u8]>,
    );
}

/// What quantized blocks stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantized {
    /// How they are made.
    pub quantization: Quantization,
    /// The elements that they were made of.
    pub dtype: DataType,
    /// How those are combined; an average is divided by the number of parts.
    pub op: ReduceOp,
}

/// The caller's buffers of an op.
pub trait OpMemory {
    /// Whether input and output are the same memory.
    fn in_place(&self) -> bool;
    /// The input.
    fn input(&self) -> &[u8];
    /// The output.
    fn output(&self) -> &[u8];
    /// The output, to write.
    fn output_mut(&mut self) -> &mut [u8];
    /// Both; only for ops that are not in place.
    fn split(&mut self) -> (&[u8], &mut [u8]);
    /// An attempt begins: whatever was noted of an earlier one counts no more.
    fn begin(&mut self) {}
    /// Of a quantized op: input, output, and where what is taken away from the sum is added that is about to be written to
    /// these bytes of the output, if that is kept. Asked for once for each byte of an attempt.
    fn split_to_sum(&mut self, _start: usize, _len: usize) -> (&[u8], &mut [u8], Option<&mut [u8]>) {
        let (input, output) = self.split();
        (input, output, None)
    }
    /// Of a quantized op: these bytes of the input are about to be read. Memory that makes them from something else does so
    /// now, and makes the same ones whenever it is asked.
    fn prepare(&mut self, _start: usize, _len: usize) {}
    /// Of a quantized op: these bytes of the output are complete, though the attempt may still end and another one write others.
    fn complete(&mut self, _start: usize, _len: usize) {}
}

/// A piece to send. Its bytes are [`Execution::bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutFrame {
    /// The receiver.
    pub to: Rank,
    /// For the header.
    pub phase: u16,
    /// For the header.
    pub offset: u64,
    /// Payload bytes.
    pub len: u32,
    piece: PieceId,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PieceId {
    chunk: u32,
    index: u32,
}

/// A frame that belongs to the attempt and is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    piece: PieceId,
    step: u16,
    from: Rank,
}

/// Where an expected frame's bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To this range of the output.
    Output {
        /// First byte.
        start: usize,
        /// Bytes.
        len: usize,
    },
    /// To a buffer of so many bytes, handed to [`Execution::deliver`].
    Slot {
        /// Bytes.
        len: usize,
    },
}

/// A frame that the schedule does not provide for: the sender is broken or hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame that the schedule does not provide for ({0})")]
pub struct Unexpected(&'static str);

#[derive(Debug, Clone, Copy, Default)]
struct PieceState {
    pc: u16,
    folded: u16,
    started: bool,
    receiving: bool,
    backed: bool,
}

struct Early {
    at: Expected,
    data: Vec<u8>,
}

/// An attempt on its way.
pub struct Execution {
    schedule: Schedule,
    quantized: Option<Quantized>,
    unit_bytes: usize,
    dtype: DataType,
    op: ReduceOp,
    world: u32,
    piece_units: u64,
    window: u32,
    /// Index of each chunk's first piece in `pieces`.
    first_piece: Vec<u32>,
    pieces: Vec<PieceState>,
    /// By piece index: chunks whose piece is not complete.
    open_at: Vec<u32>,
    low: u32,
    open: u32,
    early: Vec<Early>,
    early_limit: usize,
    scratch: Vec<Vec<u8>>,
    backup: Option<Backup>,
    /// The scratch buffer whose bytes lie in the backup: a copy of the input that is there anyway.
    in_backup: Option<u8>,
    wrote_output: bool,
    out: Vec<OutFrame>,
    /// Buffers of contributions that have been added.
    free: Vec<Vec<u8>>,
}

/// How an attempt is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Elements, or quantized blocks, of a piece.
    pub piece_units: u64,
    /// Pieces of a chunk that are on their way at once.
    pub window: u32,
}

/// Pieces of small blocks are not cut any further: more messages cost more than their overlap saves.
const MIN_PIECE_BYTES: u64 = 64 << 10;
/// With their headers they fill two and four segments of a loopback connection (see [`whole_frame_bytes`]).
const SHORT_PIECE_BYTES: u64 = whole_frame_bytes(2);
const LONG_PIECE_BYTES: u64 = whole_frame_bytes(4);

/// How all peers cut an op in a world of `world`: blocks of it into pieces of one frame each, so that one is reduced while
/// the next is on its way, and as many of them on their way as fit into `ring_chunk_size` bytes over all chunks.
pub fn cut(f: &Fingerprint, world: u32, ring_chunk_size: u64) -> Cut {
    let block = f.travelling_bytes().div_ceil(u64::from(world.max(1)));
    let piece_bytes = match block {
        _ if block <= SHORT_PIECE_BYTES * 5 / 4 => block.next_multiple_of(4096).max(MIN_PIECE_BYTES),
        _ if block < 2 * LONG_PIECE_BYTES => SHORT_PIECE_BYTES,
        _ => LONG_PIECE_BYTES,
    };
    let window = ring_chunk_size / (piece_bytes * u64::from(world.max(1)));
    Cut { piece_units: piece_bytes / f.unit_bytes(), window: window.clamp(2, 8) as u32 }
}

/// Pieces of a chunk. What would be left for a short last one goes with the one before: a message of its own costs more.
fn pieces_of(chunk_units: u64, piece_units: u64, unit_bytes: u64) -> u32 {
    let n = chunk_units.div_ceil(piece_units);
    let rest = chunk_units - n.saturating_sub(1) * piece_units;
    let fits = (piece_units + rest) * unit_bytes <= MAX_DATA_BYTES as u64;
    let is_short = n > 1 && rest < piece_units / 8 && fits;
    (n - u64::from(is_short)) as u32
}

impl Execution {
    /// An attempt at `schedule`. With `backup`, what an in-place op overwrites is kept there until the attempt ends.
    pub fn new(schedule: Schedule, f: &Fingerprint, world: u32, cut: Cut, backup: Option<Backup>) -> Self {
        let mut first_piece = Vec::with_capacity(schedule.chunks.len());
        let (mut total, mut longest) = (0u32, 0u32);
        for chunk in &schedule.chunks {
            first_piece.push(total);
            let n = pieces_of(chunk.len, cut.piece_units, f.unit_bytes());
            total += n;
            longest = longest.max(n);
        }
        let mut open_at = vec![0; longest as usize];
        let mut pieces = vec![PieceState::default(); total as usize];
        let mut open = 0;
        for (chunk, first) in schedule.chunks.iter().zip(&first_piece) {
            let n = pieces_of(chunk.len, cut.piece_units, f.unit_bytes());
            for index in 0..n {
                if chunk.steps.is_empty() {
                    pieces[(first + index) as usize].started = true;
                } else {
                    open_at[index as usize] += 1;
                    open += 1;
                }
            }
        }
        let early_limit = (cut.window as usize + 1) * 2 * (world as usize + 1) + 64;
        let of = |quantization| Quantized { quantization, dtype: f.dtype, op: f.op };
        Self {
            quantized: f.quantization.map(of),
            unit_bytes: f.unit_bytes() as usize,
            dtype: f.dtype,
            op: f.op,
            world,
            piece_units: cut.piece_units,
            window: cut.window,
            first_piece,
            pieces,
            open_at,
            low: 0,
            open,
            early: Vec::new(),
            early_limit,
            scratch: Vec::new(),
            backup,
            in_backup: None,
            wrote_output: false,
            out: Vec::new(),
            free: Vec::new(),
            schedule,
        }
    }

    /// The schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Whether every piece is complete here.
    pub fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// Whether the output has been written to.
    pub fn wrote_output(&self) -> bool {
        self.wrote_output
    }

    /// Bytes kept to restore the input.
    pub fn backup_bytes(&self) -> usize {
        self.backup.as_ref().map_or(0, Backup::kept_bytes)
    }

    /// Begins: the first pieces that need no frame from anybody.
    pub fn start<M: OpMemory, K: Kernels>(&mut self, mem: &mut M, k: &K) {
        mem.begin();
        if !mem.in_place() {
            self.schedule.read_the_input();
        }
        for index in 0..self.window.min(self.open_at.len() as u32) {
            self.begin_index(index, mem, k);
        }
        self.slide(mem, k);
    }

    /// The frames to send since the last call.
    pub fn take_out(&mut self) -> std::vec::Drain<'_, OutFrame> {
        self.out.drain(..)
    }

    /// Has the bytes of a frame to send made, if they are made as they are needed.
    pub fn prepare<M: OpMemory>(&self, mem: &mut M, frame: &OutFrame) {
        if frame.place == Place::Input {
            let (start, len) = self.range(frame.piece, frame.place);
            mem.prepare(start, len);
        }
    }

    /// The bytes of a frame to send, which has been prepared.
    pub fn bytes<'a, M: OpMemory>(&'a self, mem: &'a M, frame: &OutFrame) -> &'a [u8] {
        let (start, len) = self.range(frame.piece, frame.place);
        match frame.place {
            Place::Input => &mem.input()[start..start + len],
            Place::Output => &mem.output()[start..start + len],
            Place::Scratch(k) => self.scratch(k, frame.piece, (start, len)),
        }
    }

    /// Bytes of a piece in scratch buffer `k`.
    fn scratch(&self, k: u8, piece: PieceId, (start, len): (usize, usize)) -> &[u8] {
        match &self.backup {
            Some(backup) if self.in_backup == Some(k) => {
                backup.bytes(self.range(piece, Place::Output).0, len)
            }
            _ => &self.scratch[k as usize][start..start + len],
        }
    }

    /// Finds the place of a frame in the schedule and says where its bytes go. They must be followed by
    /// [`Execution::deliver`] or [`Execution::give_up`].
    pub fn accept<M: OpMemory, K: Kernels>(
        &mut self,
        (from, phase, offset, len): (Rank, u16, u64, u32),
        mem: &mut M,
        k: &K,
    ) -> Result<(Expected, Target), Unexpected> {
        let piece = self.locate(offset, len)?;
        let state = self.state(piece);
        if !state.started {
            self.begin_piece(piece, mem, k);
        }
        let chunk = &self.schedule.chunks[piece.chunk as usize];
        let wanted = |s: &Step| match s {
            Step::Fold { from: all, phase: p, .. } => *p == phase && all.contains(&from),
            Step::Store { from: f, phase: p } => *p == phase && *f == from,
            _ => false,
        };
        let step = chunk.steps.iter().position(wanted).ok_or(Unexpected("no step takes it"))?;
        let at = Expected { piece, step: step as u16, from };
        let state = self.state(piece);
        if step < state.pc as usize {
            return Err(Unexpected("it was received before"));
        }
        if let Step::Fold { from: all, .. } = &chunk.steps[step] {
            let target = Target::Slot { len: len as usize };
            let folded = if step == state.pc as usize { state.folded as usize } else { 0 };
            let known = all[..folded].contains(&from) || self.early.iter().any(|e| e.at == at);
            if known || self.early.len() >= self.early_limit {
                return Err(Unexpected("too early or twice"));
            }
            return Ok((at, target));
        }
        if step > state.pc as usize || state.receiving {
            return Err(Unexpected("too early or twice"));
        }
        self.keep(piece, mem);
        self.state_mut(piece).receiving = true;
        let (start, len) = self.range(piece, Place::Output);
        Ok((at, Target::Output { start, len }))
    }

    /// The frame's connection broke before all its bytes were there; it will come again.
    pub fn give_up(&mut self, at: Expected) {
        self.state_mut(at.piece).receiving = false;
    }

    /// Buffers handed to [`Execution::deliver`] that are free again.
    pub fn take_free(&mut self) -> std::vec::Drain<'_, Vec<u8>> {
        self.free.drain(..)
    }

    /// All bytes of an expected frame are there: in the output, or in `slot`.
    pub fn deliver<M: OpMemory, K: Kernels>(
        &mut self,
        at: Expected,
        slot: Option<Vec<u8>>,
        mem: &mut M,
        k: &K,
    ) {
        match slot {
            None => {
                let state = self.state_mut(at.piece);
                state.receiving = false;
                state.pc = at.step + 1;
                let (start, len) = self.range(at.piece, Place::Output);
                mem.complete(start, len);
            }
            Some(data) => {
                if self.quantized.is_none() && self.is_next(at) {
                    self.fold(at, &data, mem, k);
                    self.free.push(data);
                } else {
                    self.early.push(Early { at, data });
                }
            }
        }
        self.advance(at.piece, mem, k);
        self.slide(mem, k);
    }

    /// Puts back what was overwritten. Returns whether the input is as it was.
    pub fn restore<M: OpMemory>(&mut self, mem: &mut M) -> bool {
        if !mem.in_place() || !self.wrote_output {
            return true;
        }
        let Some(backup) = self.backup.take() else {
            return false;
        };
        for chunk in 0..self.schedule.chunks.len() as u32 {
            for index in 0..self.piece_count(chunk) {
                let piece = PieceId { chunk, index };
                if self.state(piece).backed {
                    let (start, len) = self.range(piece, Place::Output);
                    backup.restore(start, &mut mem.output_mut()[start..start + len]);
                }
            }
        }
        self.backup = Some(backup);
        self.wrote_output = false;
        true
    }

    /// The backup's memory, to use again.
    pub fn take_backup(&mut self) -> Option<Backup> {
        self.backup.take()
    }

    fn piece_count(&self, chunk: u32) -> u32 {
        pieces_of(self.schedule.chunks[chunk as usize].len, self.piece_units, self.unit_bytes as u64)
    }

    fn state(&self, p: PieceId) -> PieceState {
        self.pieces[(self.first_piece[p.chunk as usize] + p.index) as usize]
    }

    fn state_mut(&mut self, p: PieceId) -> &mut PieceState {
        &mut self.pieces[(self.first_piece[p.chunk as usize] + p.index) as usize]
    }

    /// Bytes of a piece in a place: first byte and length.
    fn range(&self, p: PieceId, place: Place) -> (usize, usize) {
        let chunk = &self.schedule.chunks[p.chunk as usize];
        let size = self.unit_bytes as u64;
        let first = u64::from(p.index) * self.piece_units;
        let is_last = p.index + 1 == self.piece_count(p.chunk);
        let units = if is_last { chunk.len - first } else { self.piece_units };
        let base = match place {
            Place::Input => chunk.input,
            Place::Output => chunk.output,
            Place::Scratch(_) => 0,
        };
        (((base + first) * size) as usize, (units * size) as usize)
    }

    fn wire_offset(&self, p: PieceId) -> u64 {
        let chunk = &self.schedule.chunks[p.chunk as usize];
        (chunk.start + u64::from(p.index) * self.piece_units) * self.unit_bytes as u64
    }

    fn locate(&self, offset: u64, len: u32) -> Result<PieceId, Unexpected> {
        let unit = offset / self.unit_bytes as u64;
        let after = self.schedule.chunks.partition_point(|c| c.start <= unit && c.len > 0);
        let chunk = after.checked_sub(1).ok_or(Unexpected("offset outside the tensor"))?;
        let within = unit - self.schedule.chunks[chunk].start;
        if within >= self.schedule.chunks[chunk].len {
            return Err(Unexpected("offset outside the tensor"));
        }
        let last = u64::from(self.piece_count(chunk as u32)) - 1;
        let index = (within / self.piece_units).min(last) as u32;
        let piece = PieceId { chunk: chunk as u32, index };
        let (_, expected_len) = self.range(piece, Place::Scratch(0));
        if self.wire_offset(piece) != offset || expected_len != len as usize {
            return Err(Unexpected("it is not one of the pieces"));
        }
        Ok(piece)
    }

    fn begin_index<M: OpMemory, K: Kernels>(&mut self, index: u32, mem: &mut M, k: &K) {
        for chunk in 0..self.schedule.chunks.len() as u32 {
            let piece = PieceId { chunk, index };
            if index < self.piece_count(chunk) && !self.state(piece).started {
                self.begin_piece(piece, mem, k);
            }
        }
    }

    fn begin_piece<M: OpMemory, K: Kernels>(&mut self, piece: PieceId, mem: &mut M, k: &K) {
        self.state_mut(piece).started = true;
        self.advance(piece, mem, k);
    }

    /// Begins further pieces as earlier ones are complete.
    fn slide<M: OpMemory, K: Kernels>(&mut self, mem: &mut M, k: &K) {
        while self.open_at.get(self.low as usize) == Some(&0) {
            let next = self.low + self.window;
            self.low += 1;
            if (next as usize) < self.open_at.len() {
                self.begin_index(next, mem, k);
            }
        }
    }

    /// Runs the piece's program as far as it goes.
    fn advance<M: OpMemory, K: Kernels>(&mut self, piece: PieceId, mem: &mut M, k: &K) {
        loop {
            let pc = self.state(piece).pc;
            let Some(step) = self.schedule.chunks[piece.chunk as usize].steps.get(pc as usize) else {
                break;
            };
            match step {
                Step::Copy { from, to } => {
                    let (from, to) = (*from, *to);
                    self.copy(piece, from, to, mem);
                }
                Step::Send { to, phase, from } => {
                    let (offset, len) = (self.wire_offset(piece), self.range(piece, *from).1 as u32);
                    let frame =
                        |to: &Rank| OutFrame { to: *to, phase: *phase, offset, len, piece, place: *from };
                    self.out.extend(to.iter().map(frame));
                }
                Step::Fold { .. } if self.quantized.is_some() => {
                    if !self.fold_at_once(piece, mem, k) {
                        return;
                    }
                }
                Step::Fold { from, .. } => {
                    let from = from[self.state(piece).folded as usize];
                    let at = Expected { piece, step: pc, from };
                    let Some(i) = self.early.iter().position(|e| e.at == at) else {
                        return;
                    };
                    let early = self.early.swap_remove(i);
                    self.fold(at, &early.data, mem, k);
                    self.free.push(early.data);
                    continue;
                }
                Step::Store { .. } => return,
            }
            self.state_mut(piece).pc = pc + 1;
        }
        self.finish_piece(piece);
    }

    fn finish_piece(&mut self, piece: PieceId) {
        self.open_at[piece.index as usize] -= 1;
        self.open -= 1;
    }

    fn is_next(&self, at: Expected) -> bool {
        let state = self.state(at.piece);
        if state.pc != at.step {
            return false;
        }
        match &self.schedule.chunks[at.piece.chunk as usize].steps[at.step as usize] {
            Step::Fold { from, .. } => from[state.folded as usize] == at.from,
            _ => false,
        }
    }

    /// Keeps what the first write to a piece of the output is about to destroy.
    fn keep<M: OpMemory>(&mut self, piece: PieceId, mem: &M) {
        self.wrote_output = true;
        if !mem.in_place() || self.state(piece).backed {
            return;
        }
        let (start, len) = self.range(piece, Place::Output);
        if let Some(backup) = &mut self.backup {
            backup.keep(start, &mem.output()[start..start + len]);
            self.state_mut(piece).backed = true;
        }
    }

    fn copy<M: OpMemory>(&mut self, piece: PieceId, from: Place, to: Place, mem: &mut M) {
        let (src, len) = self.range(piece, from);
        mem.prepare(src, len);
        match to {
            Place::Scratch(k) if mem.in_place() && self.backup.is_some() => {
                self.keep(piece, mem);
                self.in_backup = Some(k);
            }
            Place::Scratch(k) => {
                let (dst, _) = self.range(piece, to);
                let mut buffer = self.take_scratch(k, piece);
                buffer[dst..dst + len].copy_from_slice(&mem.input()[src..src + len]);
                self.scratch[k as usize] = buffer;
            }
            _ if mem.in_place() => {}
            _ => {
                let (dst, _) = self.range(piece, Place::Output);
                let (input, output) = mem.split();
                output[dst..dst + len].copy_from_slice(&input[src..src + len]);
                mem.complete(dst, len);
                self.wrote_output = true;
            }
        }
    }

    /// Scratch buffer `k`, taken out of `self.scratch` so that the others can be read meanwhile.
    fn take_scratch(&mut self, k: u8, piece: PieceId) -> Vec<u8> {
        let k = k as usize;
        if self.scratch.len() <= k {
            self.scratch.resize_with(k + 1, Vec::new);
        }
        let chunk: &Chunk = &self.schedule.chunks[piece.chunk as usize];
        let mut buffer = std::mem::take(&mut self.scratch[k]);
        if buffer.is_empty() {
            buffer = vec![0; chunk.len as usize * self.unit_bytes];
        }
        buffer
    }

    /// Adds quantized contributions as soon as all of them are there: a sum on its way would have to be quantized again.
    fn fold_at_once<M: OpMemory, K: Kernels>(&mut self, piece: PieceId, mem: &mut M, k: &K) -> bool {
        let step = self.state(piece).pc;
        let (Step::Fold { from, .. }, Some(what)) =
            (&self.schedule.chunks[piece.chunk as usize].steps[step as usize], self.quantized)
        else {
            return true;
        };
        let is_one = |e: &Early| e.at.piece == piece && e.at.step == step;
        if self.early.iter().filter(|e| is_one(e)).count() < from.len() {
            return false;
        }
        let own_rank = (0..self.world).find(|r| !from.contains(r)).unwrap_or(self.world) as usize;
        let (mut parts, rest): (Vec<Early>, Vec<Early>) = self.early.drain(..).partition(is_one);
        self.early = rest;
        parts.sort_by_key(|e| e.at.from);
        self.keep(piece, mem);
        let (own, len) = self.range(piece, Place::Input);
        let (into, _) = self.range(piece, Place::Output);
        mem.prepare(own, len);
        let mut all: Vec<&[u8]> = parts.iter().map(|e| &*e.data).collect();
        if mem.in_place() {
            let own = mem.input()[own..own + len].to_vec();
            all.insert(own_rank, &own);
            k.reduce_quantized(what, &mut mem.output_mut()[into..into + len], &all, None);
        } else {
            let (input, output, residual) = mem.split_to_sum(into, len);
            all.insert(own_rank, &input[own..own + len]);
            k.reduce_quantized(what, &mut output[into..into + len], &all, residual);
        }
        mem.complete(into, len);
        self.free.extend(parts.into_iter().map(|e| e.data));
        true
    }

    fn fold<M: OpMemory, K: Kernels>(&mut self, at: Expected, data: &[u8], mem: &mut M, k: &K) {
        let Step::Fold { from, own, into, side, last, .. } =
            &self.schedule.chunks[at.piece.chunk as usize].steps[at.step as usize]
        else {
            return;
        };
        let (own, into, side, last, count) = (*own, *into, *side, *last, from.len());
        let first = self.state(at.piece).folded == 0;
        let complete = self.state(at.piece).folded as usize + 1 == count;
        let operands = Operands { own: if first { own } else { into }, data, side };
        match into {
            Place::Scratch(slot) => self.fold_into_scratch(at.piece, slot, &operands, mem, k),
            _ => self.fold_into_output(at.piece, &operands, mem, k),
        }
        if complete && last {
            let (start, len) = self.range(at.piece, Place::Output);
            k.finalize(self.dtype, self.op, &mut mem.output_mut()[start..start + len], self.world);
        }
        let state = self.state_mut(at.piece);
        state.folded += 1;
        if complete {
            state.folded = 0;
            state.pc += 1;
        }
    }

    fn fold_into_scratch<M: OpMemory, K: Kernels>(
        &mut self,
        piece: PieceId,
        slot: u8,
        operands: &Operands<'_>,
        mem: &M,
        k: &K,
    ) {
        let mut buffer = self.take_scratch(slot, piece);
        let (start, len) = self.range(piece, Place::Scratch(slot));
        let dst = &mut buffer[start..start + len];
        let (own_start, _) = self.range(piece, operands.own);
        let own = match operands.own {
            Place::Scratch(o) => self.scratch(o, piece, (own_start, len)),
            _ => &mem.input()[own_start..own_start + len],
        };
        operands.fold(self.dtype, self.op, dst, own, k);
        self.scratch[slot as usize] = buffer;
    }

    fn fold_into_output<M: OpMemory, K: Kernels>(
        &mut self,
        piece: PieceId,
        operands: &Operands<'_>,
        mem: &mut M,
        k: &K,
    ) {
        self.keep(piece, mem);
        let (start, len) = self.range(piece, Place::Output);
        let (own_start, _) = self.range(piece, operands.own);
        match operands.own {
            Place::Scratch(o) => {
                let own = self.scratch(o, piece, (own_start, len));
                operands.fold(self.dtype, self.op, &mut mem.output_mut()[start..start + len], own, k);
            }
            Place::Input if !mem.in_place() => {
                let (input, output) = mem.split();
                let own = &input[own_start..own_start + len];
                operands.fold(self.dtype, self.op, &mut output[start..start + len], own, k);
            }
            _ => {
                let acc = &mut mem.output_mut()[start..start + len];
                match operands.side {
                    Side::OwnFirst => k.fold_right(self.dtype, self.op, acc, operands.data),
                    Side::OwnLast => k.fold_left(self.dtype, self.op, operands.data, acc),
                }
            }
        }
    }
}

struct Operands<'a> {
    own: Place,
    data: &'a [u8],
    side: Side,
}

impl Operands<'_> {
    fn fold<K: Kernels>(&self, dtype: DataType, op: ReduceOp, dst: &mut [u8], own: &[u8], k: &K) {
        match self.side {
            Side::OwnFirst => k.fold(dtype, op, dst, own, self.data),
            Side::OwnLast => k.fold(dtype, op, dst, self.data, own),
        }
    }
}
