//! Schedules are data: an algorithm is a pure function from (world, rank, count) to what this rank does for every chunk.
//!
//! A *chunk* is a range of elements with one program. The executor cuts chunks into pieces and runs the program once for
//! every piece; the cost model prices schedules; property tests run them for whole worlds.

mod cost;
mod direct;
mod doubling;
mod links;
mod ring;

pub use cost::choose;
pub use links::LinkModel;

use crate::vocabulary::{Algorithm, Collective, Fingerprint};

/// Position of a member in its epoch.
pub type Rank = u32;

/// Memory that a step reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The caller's input.
    Input,
    /// The caller's output (the same memory as the input for in-place ops).
    Output,
    /// A buffer of the op's own, as long as the chunk.
    Scratch(u8),
}

/// The operand order of a fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `own op received`, then `op` the next received, in the listed order.
    OwnFirst,
    /// `received op own`; only with a single sender.
    OwnLast,
}

/// One step of a program. Steps of a piece run in order; a sending step does not wait for its bytes to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Copy the piece.
    Copy {
        /// From here.
        from: Place,
        /// To there.
        to: Place,
    },
    /// Send the piece to each of these ranks.
    Send {
        /// Receivers, in this order.
        to: Vec<Rank>,
        /// Tells transfers between the same two peers for the same piece apart.
        phase: u16,
        /// What is sent.
        from: Place,
    },
    /// Receive a piece from each of these ranks and reduce, in the listed order whatever the order of arrival.
    Fold {
        /// Senders, in the order of reduction.
        from: Vec<Rank>,
        /// As sent.
        phase: u16,
        /// Our own operand.
        own: Place,
        /// Where the result goes.
        into: Place,
        /// Operand order.
        side: Side,
        /// Whether the result is the final one (an average is divided now).
        last: bool,
    },
    /// Receive the piece and keep it as it is, in the output.
    Store {
        /// The sender.
        from: Rank,
        /// As sent.
        phase: u16,
    },
}

/// What this rank does for a range of elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// First element, counted over all chunks of the op; the same on all ranks.
    pub start: u64,
    /// Elements.
    pub len: u64,
    /// Where the chunk begins in the input, in elements (unused if no step reads the input).
    pub input: u64,
    /// Where the chunk begins in the output, in elements (unused if no step writes the output).
    pub output: u64,
    /// The program; empty if this rank has nothing to do with the chunk.
    pub steps: Vec<Step>,
}

/// What this rank does in an attempt. Chunks are in the order of `start`, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The algorithm it came from.
    pub algorithm: Algorithm,
    /// Every chunk of the op.
    pub chunks: Vec<Chunk>,
}

/// Where block `i` of `count` elements in `blocks` blocks begins; the first `count % blocks` have one more.
pub fn block_start(count: u64, blocks: u32, i: u32) -> u64 {
    let (blocks, i) = (u64::from(blocks), u64::from(i));
    (count / blocks) * i + (count % blocks).min(i)
}

/// Bytes of a frame that fills so many segments of a loopback connection, with its header. A few bytes more would be a
/// segment of their own, which costs as much as a full one: 1 MiB among 4 peers of one host took 10 % longer.
pub(crate) const fn whole_frame_bytes(segments: u64) -> u64 {
    const SEGMENT_BYTES: u64 = 65_483;
    const HEADER_BYTES: u64 = 64;
    (segments * SEGMENT_BYTES - HEADER_BYTES) / 64 * 64
}

/// Where the blocks of an all-reduce begin, and the last one ends: all alike, or, where these would be a little longer than
/// whole frames, all but the last one a little shorter.
fn bounds(count: u64, unit_bytes: u64, world: u32) -> Vec<u64> {
    let alike = count / u64::from(world) * unit_bytes;
    let whole = alike / whole_frame_bytes(2) * whole_frame_bytes(2);
    let left_over = (alike - whole) * u64::from(world);
    if whole == 0 || left_over > alike / 16 {
        return (0..=world).map(|i| block_start(count, world, i)).collect();
    }
    let units = whole / unit_bytes;
    (0..world).map(|i| units * u64::from(i)).chain([count]).collect()
}

/// Elements of block `i`.
pub fn block_len(count: u64, blocks: u32, i: u32) -> u64 {
    block_start(count, blocks, i + 1) - block_start(count, blocks, i)
}

/// Units (elements, or quantized blocks) of the input of `rank`.
pub fn input_len(f: &Fingerprint, _world: u32, _rank: Rank) -> u64 {
    match f.collective {
        Collective::Barrier => 0,
        _ => f.units(),
    }
}

/// Units of the output of `rank`.
pub fn output_len(f: &Fingerprint, world: u32, rank: Rank) -> u64 {
    match f.collective {
        Collective::Barrier => 0,
        Collective::ReduceScatter => block_len(f.count, world, rank),
        Collective::AllGather => f.count.saturating_mul(u64::from(world)),
        Collective::AllReduce | Collective::Broadcast => f.units(),
    }
}

/// What `rank` does for an op in a world of `world` peers, by `algorithm` where the collective knows it. Quantized sums
/// cannot be added to on their way, so each chunk of them has an owner, whatever is asked for.
pub fn schedule(f: &Fingerprint, algorithm: Algorithm, world: u32, rank: Rank) -> Schedule {
    debug_assert!(rank < world);
    let empty = f.count == 0 || f.collective == Collective::Barrier;
    let chunks = match (f.collective, algorithm) {
        _ if empty => Vec::new(),
        _ if world == 1 => vec![alone(f)],
        (Collective::AllReduce, Algorithm::Star) => direct::star(f.units(), world, rank),
        (Collective::AllReduce, _) if f.quantization.is_some() => {
            direct::all_reduce(&bounds(f.units(), f.unit_bytes(), world), world, rank)
        }
        (Collective::AllReduce, Algorithm::Ring) => {
            ring::all_reduce(&bounds(f.count, f.unit_bytes(), world), world, rank)
        }
        (Collective::AllReduce, Algorithm::Doubling) => doubling::all_reduce(f.count, world, rank),
        (Collective::AllReduce, Algorithm::Direct) => {
            direct::all_reduce(&bounds(f.count, f.unit_bytes(), world), world, rank)
        }
        (Collective::ReduceScatter, _) => direct::reduce_scatter(f.count, world, rank),
        (Collective::AllGather, Algorithm::Ring) => ring::all_gather(f.count, world, rank),
        (Collective::AllGather, _) => direct::all_gather(f.count, world, rank),
        (Collective::Broadcast, _) => direct::broadcast(f.count, world, rank, f.root),
        (Collective::Barrier, _) => Vec::new(),
    };
    Schedule { algorithm, chunks }
}

fn alone(f: &Fingerprint) -> Chunk {
    let copy = Step::Copy { from: Place::Input, to: Place::Output };
    Chunk { start: 0, len: f.units(), input: 0, output: 0, steps: vec![copy] }
}

impl Schedule {
    /// The same without the copies of the input: of an op whose output lies elsewhere the input stays as it is.
    pub(crate) fn read_the_input(&mut self) {
        for chunk in &mut self.chunks {
            let copy = |step: &Step| match step {
                Step::Copy { from: Place::Input, to: to @ Place::Scratch(_) } => Some(*to),
                _ => None,
            };
            let Some(kept) = chunk.steps.iter().find_map(copy) else { continue };
            chunk.steps.retain(|step| copy(step).is_none());
            for step in &mut chunk.steps {
                if let Step::Send { from: place, .. } | Step::Fold { own: place, .. } = step
                    && *place == kept
                {
                    *place = Place::Input;
                }
            }
        }
    }

    /// Elements that this rank sends to `rank`.
    pub fn elements_to(&self, rank: Rank) -> u64 {
        self.sum(|step| match step {
            Step::Send { to, .. } => to.iter().filter(|r| **r == rank).count(),
            _ => 0,
        })
    }

    /// Elements that this rank receives from `rank`.
    pub fn elements_from(&self, rank: Rank) -> u64 {
        self.sum(|step| match step {
            Step::Fold { from, .. } => from.iter().filter(|r| **r == rank).count(),
            Step::Store { from, .. } => usize::from(*from == rank),
            _ => 0,
        })
    }

    fn sum(&self, times: impl Fn(&Step) -> usize) -> u64 {
        let per_chunk = |c: &Chunk| c.len * c.steps.iter().map(&times).sum::<usize>() as u64;
        self.chunks.iter().map(per_chunk).sum()
    }
}

#[cfg(test)]
mod tests;
