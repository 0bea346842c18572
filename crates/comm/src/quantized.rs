//! Quantized all-reduce, seen from the caller's memory: pieces of it are quantized when they are about to travel.
//!
//! The op itself runs on quantized blocks in memory of its own. A tensor that is reduced in place is not touched until the
//! op has committed, so a retry contributes the same bytes; an output apart from its input is written as pieces arrive.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pccl_kernels::Blocks;
use pccl_kernels::quantize::{BLOCK, Format, Residual};
use pccl_proto::execute::OpMemory;
use pccl_proto::ids::Tag;
use pccl_proto::peer::{OpError, OpInfo};
use pccl_proto::vocabulary::{
    Algorithm, Collective, DataType, Fingerprint, QUANTIZATION_BLOCK, Quantization, ReduceOp,
};

use crate::buffer::Buffers;
use crate::engine::lock;
use crate::options::Call;
use crate::residuals::{Residuals, Ticket};

const _: () = assert!(BLOCK as u64 == QUANTIZATION_BLOCK);

/// How blocks of an op that [`check`] has passed are made.
pub(crate) fn format(dtype: DataType, quantization: Quantization) -> Format {
    Format::from_codes(dtype.code(), quantization.code())
        .unwrap_or_else(|| unreachable!("ops of {dtype} are not quantized"))
}

/// How values travel in a run with compression. 0 stays exactly 0, so that what has no gradient (a masked weight, the row
/// of a word that did not occur) is not set in motion by noise; of values on both sides of 0 only the outermost ones are off
/// by more than with [`Quantization::MinMaxU8`].
pub(crate) const COMPRESSION: Quantization = Quantization::ZeroPointU8;
/// Smaller ops travel as they are: what they cost is time on the way, not bytes.
pub(crate) const LEAST_COMPRESSED_BYTES: u64 = 1 << 20;

/// An op that somebody calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) tag: Tag,
    pub(crate) f: Fingerprint,
    /// Quantized because the run says so: what that takes away is kept.
    compressed: bool,
}

impl Order {
    /// Of this call, as it says and else as the run does. All members come to the same.
    pub(crate) fn new(f: Fingerprint, call: &Call, run_compresses: bool) -> Self {
        let compressed = run_compresses && call.compress && is_worth_compressing(&f);
        let quantization = if compressed { Some(COMPRESSION) } else { f.quantization };
        Self { tag: Tag(call.tag), f: Fingerprint { quantization, ..f }, compressed }
    }
}

/// Sums and averages of 1 MiB and more of floating-point elements, unless they are quantized in their own way, or by an
/// algorithm that would quantize sums again and again.
fn is_worth_compressing(f: &Fingerprint) -> bool {
    let asked = Fingerprint { quantization: Some(COMPRESSION), ..*f };
    f.bytes() >= LEAST_COMPRESSED_BYTES
        && f.quantization.is_none()
        && matches!(f.op, ReduceOp::Sum | ReduceOp::Avg)
        && check(&asked).is_ok()
}

/// The memory of a quantized op: blocks, and the tensor that they are made of.
pub(crate) struct Quantized {
    blocks: Blocks,
    tensor: Buffers,
    /// Whether what quantization takes away is kept, by the op's tag.
    compressed: bool,
    /// Of a compressed op on its way: where its residual goes.
    ticket: Option<Ticket>,
    /// Memory of a residual that stands no more.
    fallen: Option<Residual>,
}

/// Memory of ops that have ended, for the next ones: to have the system map and clear new memory costs as much as to
/// quantize.
#[derive(Default)]
pub(crate) struct Spare {
    blocks: Pool<Blocks>,
    residuals: Pool<Residual>,
}

struct Pool<T>(Mutex<Vec<(Instant, T)>>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// How long they are kept for a caller that may have gone on to something else.
const SPARE_FOR: Duration = Duration::from_secs(5);
/// Most of them.
const MOST_SPARE: usize = 16;

impl<T> Pool<T> {
    fn take(&self) -> Option<T> {
        lock(&self.0).pop().map(|(_, one)| one)
    }

    fn keep(&self, one: T) {
        let mut kept = lock(&self.0);
        kept.truncate(MOST_SPARE - 1);
        kept.push((Instant::now(), one));
    }

    /// Gives back what nobody has wanted for a while.
    fn expire(&self) {
        lock(&self.0).retain(|(since, _)| since.elapsed() < SPARE_FOR);
    }
}

impl Spare {
    /// The memory of an op on this tensor.
    pub(crate) fn memory_for(&self, order: &Order, tensor: Buffers) -> Buffers {
        let f = &order.f;
        let Some(how) = f.quantization else { return tensor };
        let (format, count) = (format(f.dtype, how), f.count as usize);
        let mut blocks = match self.blocks.take() {
            Some(old) => old.again(format, count),
            None => Blocks::new(format, count),
        };
        if order.compressed {
            blocks = blocks.with_feedback(count, None, self.residuals.take());
        }
        let compressed = order.compressed;
        Buffers::Quantized(Box::new(Quantized { blocks, tensor, compressed, ticket: None, fallen: None }))
    }

    pub(crate) fn expire(&self) {
        self.blocks.expire();
        self.residuals.expire();
    }
}

impl Quantized {
    /// The op is about to start, and no other one of its tag is on its way: takes what that tag's ops have left.
    pub(crate) fn resume(&mut self, order: &Order, residuals: &Arc<Residuals>) {
        if self.compressed {
            let (ticket, before) = residuals.take(order.tag, &order.f);
            self.blocks.resume(before);
            self.ticket = Some(ticket);
        }
    }

    /// The op has ended: brings the residual back before another op of the tag may start, a new one if the op has
    /// committed in a world to which something had to be said.
    pub(crate) fn settle(&mut self, result: &Result<OpInfo, OpError>) {
        let committed = result.as_ref().is_ok_and(|info| info.world > 1);
        self.bring_back(committed);
    }

    /// The same of an op that was not started, or has ended.
    pub(crate) fn bring_back(&mut self, committed: bool) {
        let Some(ticket) = self.ticket.take() else { return };
        let (stands, fallen) = self.blocks.end_feedback(committed);
        ticket.bring_back(stands, committed);
        self.fallen = fallen;
    }

    /// The tensor, of an op that was not started.
    pub(crate) fn into_tensor(self, spare: &Spare) -> Buffers {
        spare.blocks.keep(self.blocks);
        if let Some(fallen) = self.fallen {
            spare.residuals.keep(fallen);
        }
        self.tensor
    }

    /// The op has ended. If it has committed, what is reduced in place gets its result. Returns the tensor.
    pub(crate) fn finish(mut self, result: &Result<OpInfo, OpError>, spare: &Spare) -> Buffers {
        match (result.as_ref().ok().map(|info| info.world), self.compressed) {
            (None, _) => {}
            // Nothing has travelled, so nothing needs to be lost.
            (Some(1), true) => self.tensor.copy_to_output(),
            _ if self.tensor.in_place() => self.blocks.take_all(self.tensor.output_mut()),
            _ => {}
        }
        self.into_tensor(spare)
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

    fn begin(&mut self) {
        self.blocks.begin();
    }

    fn split_to_sum(&mut self, start: usize, len: usize) -> (&[u8], &mut [u8], Option<&mut [u8]>) {
        self.blocks.both_to_sum(start, len)
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

impl Call {
    /// With what PCCL's API calls a quantization: the type of the integers, of 8 or 16 bits (signed or not makes no difference
    /// to the result), and 1 for min-max, 2 for zero point and scale. 0 is none unless the run compresses, and 3, which PCCL
    /// does not have, none also then.
    pub fn quantized_by_codes(self, integer: DataType, algorithm: u32) -> Result<Self, String> {
        let wide = match integer {
            _ if algorithm == 0 => return Ok(self),
            _ if algorithm == 3 => return Ok(self.uncompressed()),
            DataType::U8 | DataType::I8 => false,
            DataType::U16 | DataType::I16 => true,
            other => return Err(format!("values cannot be quantized to {other}: take u8, i8, u16 or i16")),
        };
        match (algorithm, wide) {
            (1, false) => Ok(self.quantized(Quantization::MinMaxU8)),
            (1, true) => Ok(self.quantized(Quantization::MinMaxU16)),
            (2, false) => Ok(self.quantized(Quantization::ZeroPointU8)),
            (2, true) => Ok(self.quantized(Quantization::ZeroPointU16)),
            _ => Err(format!("{algorithm} is no quantization algorithm (0 to 3)")),
        }
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
