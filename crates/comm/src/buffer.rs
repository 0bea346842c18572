//! The caller's memory, seen as bytes, while an op runs. The only unsafe code of this crate.
//!
//! A blocking call lends its slices, and returns only after its op has ended and given them back ([`run`],
//! [`run_in_place`], [`Loans`], [`synchronize`]): so the pointers below are valid, and nobody else uses the memory, for as long as a lent
//! [`Buffers`] exists. An asynchronous call hands over a vector that it owns.

use std::any::Any;
use std::marker::PhantomData;

use pccl_proto::execute::OpMemory;
use pccl_proto::peer::{OpId, StartError, SyncFailure, SyncStartError, Synchronized};
use pccl_proto::shared_state::{Offer, StateMemory, Strategy};

use crate::communicator::Communicator;
use crate::cuda;
use crate::element::Element;
use crate::engine::{Ended, Engine};
use crate::error::CollectiveError;
use crate::options::Call;
use crate::quantized::{self, Order, Quantized, Spare};
use crate::raw::{self, Device, RawOp, RawPending, RawTensor};
use crate::shared_state::{SharedState, SyncError, SyncInfo, Tensor};

/// A slice of elements as bytes.
pub(crate) fn as_bytes<T: Element>(slice: &[T]) -> &[u8] {
    // SAFETY: `Element` is sealed to plain numbers without padding, so every byte is initialised; the length is that of
    // the same allocation, and u8 has no alignment to keep.
    unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), size_of_val(slice)) }
}

/// A slice of elements as bytes, to write.
pub(crate) fn as_bytes_mut<T: Element>(slice: &mut [T]) -> &mut [u8] {
    // SAFETY: as above; and any bytes are valid numbers.
    unsafe { std::slice::from_raw_parts_mut(slice.as_mut_ptr().cast(), size_of_val(slice)) }
}

/// A vector that an asynchronous op owns.
pub(crate) trait OwnedBytes: Send {
    fn bytes(&self) -> &[u8];
    fn bytes_mut(&mut self) -> &mut [u8];
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

impl<T: Element> OwnedBytes for Vec<T> {
    fn bytes(&self) -> &[u8] {
        as_bytes(self)
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        as_bytes_mut(self)
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// Memory on loan.
pub(crate) struct Lent {
    ptr: *mut u8,
    len: usize,
}

/// The memory of an op.
pub(crate) enum Buffers {
    /// Lent, input and output apart.
    Apart(LentPair),
    /// Lent, input and output the same.
    InPlace(LentOne),
    /// Owned, input and output the same.
    Owned(Box<dyn OwnedBytes>),
    /// Blocks, made of one of the above.
    Quantized(Box<Quantized>),
}

impl Buffers {
    /// The caller's, of an op that was not started.
    pub(crate) fn not_started(self, spare: &Spare) -> Self {
        match self {
            Self::Quantized(memory) => memory.into_tensor(spare),
            other => other,
        }
    }

    /// Makes the output what the input is; both are of the same length.
    pub(crate) fn copy_to_output(&mut self) {
        if let Self::Apart(pair) = self {
            pair.output.bytes_mut().copy_from_slice(pair.input.bytes());
        }
    }
}

pub(crate) struct LentPair {
    input: Lent,
    output: Lent,
}

pub(crate) struct LentOne(Lent);

// SAFETY: the pointers stand for slices of plain bytes that their owner has lent for the lifetime of the op and does not
// touch meanwhile; which thread uses them does not matter.
unsafe impl Send for Lent {}

/// If a panic unwinds while another thread may still use lent memory, the process must not go on.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Runs an op on two lent slices, from start to end.
pub(crate) fn run(
    engine: &Engine,
    order: &Order,
    input: &[u8],
    output: &mut [u8],
) -> Result<Ended, StartError> {
    let memory = Buffers::Apart(LentPair {
        // The input is never written to through this pointer: `OpMemory` gives it out as `&[u8]` only.
        input: Lent { ptr: input.as_ptr().cast_mut(), len: input.len() },
        output: Lent { ptr: output.as_mut_ptr(), len: output.len() },
    });
    run_lent(engine, order, memory)
}

/// Runs an op on one lent slice, from start to end.
pub(crate) fn run_in_place(engine: &Engine, order: &Order, buffer: &mut [u8]) -> Result<Ended, StartError> {
    let memory = Buffers::InPlace(LentOne(Lent { ptr: buffer.as_mut_ptr(), len: buffer.len() }));
    run_lent(engine, order, memory)
}

fn run_lent(engine: &Engine, order: &Order, memory: Buffers) -> Result<Ended, StartError> {
    let guard = AbortOnUnwind;
    let started = engine.start_op(order, memory);
    let ended = started.map(|id| engine.finished(engine.wait_for(id))).map_err(|(why, _memory)| why);
    std::mem::forget(guard);
    ended
}

impl Communicator {
    /// Starts an op on memory that is given by its address; [`RawPending::wait`] ends it.
    ///
    /// # Safety
    /// Until a wait for the op has returned, or its handle has been dropped after the op has ended ([`Communicator::leave`] or
    /// [`Communicator::abort`] has returned), the input must be readable and the output writable, nobody else may write to
    /// either, and they must be the same or not overlap.
    pub unsafe fn start_raw(&self, raw: &RawOp, call: &Call) -> Result<RawPending, CollectiveError> {
        let (op, tag) = (raw.collective.name(), call.tag);
        self.check_process(op, tag)?;
        let order = self.engine.order(raw::fingerprint(raw, call), call);
        // A slice of no bytes still needs an address that is not null.
        let lent =
            |ptr: *mut u8, len| Lent { ptr: if len == 0 { std::ptr::dangling_mut() } else { ptr }, len };
        let output = lent(raw.output, raw.output_bytes);
        if order.f.quantization.is_some() {
            quantized::check(&order.f).map_err(|why| CollectiveError::Invalid { op, tag, why })?;
            raw::check_bytes(raw).map_err(|why| CollectiveError::Invalid { op, tag, why })?;
        }
        let memory = if raw.input == raw.output.cast_const() && raw.input_bytes == raw.output_bytes {
            Buffers::InPlace(LentOne(output))
        } else {
            // The input is never written to through this pointer: `OpMemory` gives it out as `&[u8]` only.
            Buffers::Apart(LentPair { input: lent(raw.input.cast_mut(), raw.input_bytes), output })
        };
        let started = self.engine.start_op(&order, memory);
        let id = started.map_err(|(why, _memory)| CollectiveError::NotStarted { op, tag, why })?;
        Ok(RawPending::new(&self.engine, id, op))
    }
}

// SAFETY: the address stands for plain bytes; which thread uses them does not matter, and using them is unsafe anyway.
unsafe impl Send for RawTensor {}

impl RawTensor {
    /// # Safety
    /// The memory must be valid for reading and writing, and nobody else may use it meanwhile.
    unsafe fn memory<'a>(&self) -> &'a mut [u8] {
        let data = if self.bytes == 0 { std::ptr::dangling_mut() } else { self.data };
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(data, self.bytes) }
    }
}

impl Communicator {
    /// [`Communicator::synchronize`] on memory that is given by its address, without letting newcomers in. Tensors that
    /// share memory (tied weights) take part as if they were apart; the last of them stands in the end. Of a tensor on a
    /// device a copy in main memory takes part; it is written back if it was changed.
    ///
    /// # Safety
    /// The tensors must be valid for reading and writing, and nobody else may use them during the call.
    pub unsafe fn synchronize_raw(
        &self,
        revision: u64,
        tensors: &[RawTensor],
        strategy: Strategy,
    ) -> Result<SyncInfo, SyncError> {
        self.check_ours()?;
        let mut seen: Vec<std::ops::Range<usize>> = Vec::with_capacity(tensors.len());
        let mut copies: Vec<Option<Vec<u8>>> = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let range = tensor.range();
            let shares = seen.iter().any(|s| s.start < range.end && range.start < s.end);
            copies.push(match tensor.device {
                Device::Cuda => Some(staged(tensor)?),
                // SAFETY: as the caller promises.
                Device::Cpu => shares.then(|| unsafe { tensor.memory() }.to_vec()),
            });
            seen.push(range);
        }
        let mut state = SharedState::new(revision).admit_newcomers(false);
        for (tensor, copy) in tensors.iter().zip(&mut copies) {
            let bytes = match copy {
                Some(copy) => copy.as_mut_slice(),
                // SAFETY: as the caller promises, and it shares no byte with another one that is not a copy.
                None => unsafe { tensor.memory() },
            };
            let one = Tensor::from_bytes(&*tensor.name, tensor.dtype, bytes);
            state.push(if tensor.compared { one } else { one.allow_content_inequality() });
        }
        let info = self.synchronize(&mut state, strategy)?;
        drop(state);
        let mut failed = None;
        for (tensor, copy) in tensors.iter().zip(&copies) {
            let Some(copy) = copy.as_ref().filter(|_| info.changed.contains(&tensor.name)) else { continue };
            match tensor.device {
                // SAFETY: as the caller promises; the slices above are no longer used.
                Device::Cpu => unsafe { tensor.memory() }.copy_from_slice(copy),
                Device::Cuda => {
                    // SAFETY: as the caller promises, it is the caller's to write.
                    let written = unsafe { cuda::copy_to_device(tensor.device_memory(), copy) };
                    failed = failed.or(written.err().map(|why| (tensor.name.clone(), why)));
                }
            }
        }
        match failed {
            None => Ok(info),
            Some((tensor, why)) => Err(SyncError::NotWritten { tensor, revision: info.revision, why }),
        }
    }
}

/// The bytes of a tensor on a device; of one that takes part by its size only, none of them.
fn staged(tensor: &RawTensor) -> Result<Vec<u8>, SyncError> {
    let invalid = |why| SyncError::Invalid { tensor: Some(tensor.name.clone()), why };
    if !tensor.compared {
        // Memory that nobody writes to is not there.
        return cuda::room(tensor.bytes).map(|_| vec![0; tensor.bytes]).map_err(invalid);
    }
    cuda::copy_to_host(tensor.device_memory()).map_err(invalid)
}

/// Slices that are lent to ops one after the other, several at once. Waits, when dropped, for the ops that still have one.
pub(crate) struct Loans<'a> {
    engine: &'a Engine,
    slices: Vec<(Lent, Option<OpId>)>,
    lender: PhantomData<&'a mut [u8]>,
}

impl<'a> Loans<'a> {
    pub(crate) fn new(engine: &'a Engine, slices: impl Iterator<Item = &'a mut [u8]>) -> Self {
        let lent = |s: &'a mut [u8]| (Lent { ptr: s.as_mut_ptr(), len: s.len() }, None);
        Self { engine, slices: slices.map(lent).collect(), lender: PhantomData }
    }

    /// Starts an in-place op on slice `i`, which must have none.
    pub(crate) fn start(&mut self, i: usize, order: &Order) -> Result<(), StartError> {
        let (lent, op) = &mut self.slices[i];
        assert!(op.is_none(), "a slice is lent to one op at a time");
        let memory = Buffers::InPlace(LentOne(Lent { ptr: lent.ptr, len: lent.len }));
        *op = Some(self.engine.start_op(order, memory).map_err(|(why, _memory)| why)?);
        Ok(())
    }

    /// Waits for the op that has slice `i`.
    pub(crate) fn finish(&mut self, i: usize) -> Option<Ended> {
        let id = self.slices[i].1?;
        let guard = AbortOnUnwind;
        let ended = self.engine.finished(self.engine.wait_for(id));
        std::mem::forget(guard);
        self.slices[i].1 = None;
        Some(ended)
    }
}

impl Drop for Loans<'_> {
    fn drop(&mut self) {
        for i in 0..self.slices.len() {
            self.finish(i);
        }
    }
}

/// Slices that are lent to a synchronization, to read.
pub(crate) struct LentSlices(Vec<Lent>);

impl LentSlices {
    /// Slice `i`.
    ///
    /// # Panics
    /// When the loan has ended.
    pub(crate) fn get(&self, i: usize) -> &[u8] {
        self.0[i].bytes()
    }
}

/// Memory of a synchronization that has slices on loan.
pub(crate) trait Borrower: StateMemory + 'static {
    fn lent(&mut self) -> &mut LentSlices;
}

/// Synchronizes with slices on loan, from start to end. The memory comes back without them.
pub(crate) fn synchronize<B: Borrower>(
    engine: &Engine,
    offer: Offer,
    slices: &[&[u8]],
    make: impl FnOnce(LentSlices) -> B,
) -> Result<(Result<Synchronized, SyncFailure>, Box<B>), SyncStartError> {
    // They are never written to through these pointers: `LentSlices` gives them out as `&[u8]` only.
    let lent = slices.iter().map(|s| Lent { ptr: s.as_ptr().cast_mut(), len: s.len() });
    let memory = Box::new(make(LentSlices(lent.collect())));
    let guard = AbortOnUnwind;
    let ended = engine.synchronize(offer, memory);
    std::mem::forget(guard);
    let end = ended.map_err(|(why, _memory)| why)?;
    let Ok(mut memory) = end.memory.into_any().downcast::<B>() else {
        unreachable!("the memory that comes back is the one that went in")
    };
    memory.lent().0.clear();
    Ok((end.result, memory))
}

impl Lent {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `run`, `run_in_place`, `Loans` and `synchronize` keep the slice borrowed until the op has ended; the borrow of `self` keeps a mutable one away.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes it the only one. Never called on an input.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }
}

impl OpMemory for Buffers {
    fn in_place(&self) -> bool {
        !matches!(self, Self::Apart(_) | Self::Quantized(_))
    }

    fn input(&self) -> &[u8] {
        match self {
            Self::Apart(pair) => pair.input.bytes(),
            Self::InPlace(one) => one.0.bytes(),
            Self::Owned(vec) => vec.bytes(),
            Self::Quantized(memory) => memory.input(),
        }
    }

    fn output(&self) -> &[u8] {
        match self {
            Self::Apart(pair) => pair.output.bytes(),
            Self::InPlace(one) => one.0.bytes(),
            Self::Owned(vec) => vec.bytes(),
            Self::Quantized(memory) => memory.output(),
        }
    }

    fn output_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Apart(pair) => pair.output.bytes_mut(),
            Self::InPlace(one) => one.0.bytes_mut(),
            Self::Owned(vec) => vec.bytes_mut(),
            Self::Quantized(memory) => memory.output_mut(),
        }
    }

    fn split(&mut self) -> (&[u8], &mut [u8]) {
        match self {
            Self::Apart(pair) => (pair.input.bytes(), pair.output.bytes_mut()),
            Self::Quantized(memory) => memory.split(),
            // Not asked for in-place ops; an empty input is the harmless answer.
            other => (&[], other.output_mut()),
        }
    }

    fn begin(&mut self) {
        if let Self::Quantized(memory) = self {
            memory.begin();
        }
    }

    fn split_to_sum(&mut self, start: usize, len: usize) -> (&[u8], &mut [u8], Option<&mut [u8]>) {
        if let Self::Quantized(memory) = self {
            return memory.split_to_sum(start, len);
        }
        let (input, output) = self.split();
        (input, output, None)
    }

    fn prepare(&mut self, start: usize, len: usize) {
        if let Self::Quantized(memory) = self {
            memory.prepare(start, len);
        }
    }

    fn complete(&mut self, start: usize, len: usize) {
        if let Self::Quantized(memory) = self {
            memory.complete(start, len);
        }
    }
}
