//! Quantized all-reduce, seen from the caller's memory: pieces of it are quantized when they are about to travel.
//!
//! The op itself runs on quantized blocks in memory of its own. A tensor that is reduced in place is not touched until the
//! op has committed, so a retry contributes the same bytes; an output apart from its input is written as pieces arrive.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use pccl_kernels::Blocks;
use pccl_kernels::quantize::{BLOCK, Format};
use pccl_proto::execute::OpMemory;
use pccl_proto::vocabulary::{
    Algorithm, Collective, DataType, Fingerprint, QUANTIZATION_BLOCK, Quantization,
};

use crate::buffer::Buffers;
use crate::engine::lock;

const _: () = assert!(BLOCK as u64 == QUANTIZATION_BLOCK);

/// How blocks of an op that [`check`] has passed are made.
pub(crate) fn format(dtype: DataType, quantization: Quantization) -> Format {
    Format::from_codes(dtype.code(), quantization.code())
        .unwrap_or_else(|| unreachable!("ops of {dtype} are not quantized"))
}

/// The memory of a quantized op: blocks, and the tensor that they are made of.
pub(crate) struct Quantized {
    blocks: Blocks,
    tensor: Buffers,
}

/// Blocks of ops that have ended, for the next ones: to have the system map and clear new memory costs as much as to
/// quantize.
#[derive(Default)]
pub(crate) struct Spare(Mutex<Vec<(Instant, Blocks)>>);

/// How long they are kept for a caller that may have gone on to something else.
const SPARE_FOR: Duration = Duration::from_secs(5);
/// Most of them.
const MOST_SPARE: usize = 16;

impl Spare {
    /// The memory of the op that `f` describes, on this tensor.
    pub(crate) fn memory_for(&self, f: &Fingerprint, tensor: Buffers) -> Buffers {
        let Some(how) = f.quantization else { return tensor };
        let (format, count) = (format(f.dtype, how), f.count as usize);
        let blocks = match lock(&self.0).pop() {
            Some((_, old)) => old.again(format, count),
            None => Blocks::new(format, count),
        };
        Buffers::Quantized(Box::new(Quantized { blocks, tensor }))
    }

    /// Keeps the blocks of an op that has ended.
    fn keep(&self, blocks: Blocks) {
        let mut kept = lock(&self.0);
        kept.truncate(MOST_SPARE - 1);
        kept.push((Instant::now(), blocks));
    }

    /// Gives back what nobody has wanted for a while.
    pub(crate) fn expire(&self) {
        lock(&self.0).retain(|(since, _)| since.elapsed() < SPARE_FOR);
    }
}

impl Quantized {
    /// The tensor, of an op that was not started.
    pub(crate) fn into_tensor(self) -> Buffers {
        self.tensor
    }

    /// The op has ended. If it has committed, what is reduced in place gets its result. Returns the tensor.
    pub(crate) fn finish(mut self, committed: bool, spare: &Spare) -> Buffers {
        if committed && self.tensor.in_place() {
            self.blocks.take_all(self.tensor.output_mut());
        }
        spare.keep(self.blocks);
        self.tensor
    }
}

impl OpMemory for Quantized {
    /// The blocks never are.
    fn in_place(&self) -> bool {
        false
    }

    fn input(&self) -> &[u8] {
        self.blocks.contribution()
    }

    fn output(&self) -> &[u8] {
        self.blocks.result()
    }

    fn output_mut(&mut self) -> &mut [u8] {
        self.blocks.result_mut()
    }

    fn split(&mut self) -> (&[u8], &mut [u8]) {
        self.blocks.both()
    }

    fn prepare(&mut self, start: usize, len: usize) {
        self.blocks.prepare(self.tensor.input(), start, len);
    }

    fn complete(&mut self, start: usize, len: usize) {
        if !self.tensor.in_place() {
            self.blocks.take(self.tensor.output_mut(), start, len);
        }
    }
}

/// What PCCL's API calls a quantization: the type of the integers, of 8 or 16 bits (signed or not makes no difference to the
/// result), and 1 for min-max, 2 for zero point and scale; 0 is none.
pub fn quantization_of(integer: DataType, algorithm: u32) -> Result<Option<Quantization>, String> {
    let wide = match integer {
        _ if algorithm == 0 => return Ok(None),
        DataType::U8 | DataType::I8 => false,
        DataType::U16 | DataType::I16 => true,
        other => return Err(format!("values cannot be quantized to {other}: take u8, i8, u16 or i16")),
    };
    match (algorithm, wide) {
        (1, false) => Ok(Some(Quantization::MinMaxU8)),
        (1, true) => Ok(Some(Quantization::MinMaxU16)),
        (2, false) => Ok(Some(Quantization::ZeroPointU8)),
        (2, true) => Ok(Some(Quantization::ZeroPointU16)),
        _ => Err(format!("{algorithm} is no quantization algorithm (0 to 2)")),
    }
}

/// Whether an op can be quantized as it asks to be.
pub(crate) fn check(f: &Fingerprint) -> Result<(), String> {
    let Some(quantization) = f.quantization else { return Ok(()) };
    if f.collective != Collective::AllReduce {
        return Err(format!("{} cannot be quantized: only an all-reduce can", f.collective));
    }
    if Format::from_codes(f.dtype.code(), quantization.code()).is_none() {
        return Err(format!("elements of {} cannot be quantized: take f16, bf16, f32 or f64", f.dtype));
    }
    match f.algorithm {
        None | Some(Algorithm::Direct | Algorithm::Star) => Ok(()),
        Some(other) => Err(format!(
            "algorithm {other} would quantize sums again and again: ask for direct or star, or for none"
        )),
    }
}
