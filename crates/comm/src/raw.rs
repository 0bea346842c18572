//! Ops on memory that is given by its address, for bindings to other languages: [`crate::Communicator::start_raw`].

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pccl_proto::peer::{OpId, OpInfo};
use pccl_proto::vocabulary::{Collective, DataType, Fingerprint, ReduceOp};

use crate::collectives::result_of;
use crate::cuda::DeviceMemory;
use crate::engine::{Ended, Engine};
use crate::error::CollectiveError;
use crate::options::Call;

/// What to do with which memory.
#[derive(Debug, Clone, Copy)]
pub struct RawOp {
    /// Which collective.
    pub collective: Collective,
    /// Element type.
    pub dtype: DataType,
    /// Elements as the collective counts them: of the whole tensor; for all-gather, of one peer's input.
    pub count: usize,
    /// Rank of the root of a broadcast.
    pub root: u32,
    /// First byte of the input.
    pub input: *const u8,
    /// Bytes of the input.
    pub input_bytes: usize,
    /// First byte of the output; the same as that of the input to work in place.
    pub output: *mut u8,
    /// Bytes of the output.
    pub output_bytes: usize,
}

/// Where a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// In main memory.
    Cpu,
    /// In the memory of a CUDA device, whose driver knows which one ([`crate::cuda_support`]).
    Cuda,
}

/// A tensor of a shared state.
#[derive(Debug, Clone)]
pub struct RawTensor {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: DataType,
    /// First byte.
    pub data: *mut u8,
    /// Bytes.
    pub bytes: usize,
    /// Where that is.
    pub device: Device,
    /// Whether its content must be the same on all peers.
    pub compared: bool,
}

impl RawTensor {
    /// Where it is.
    pub(crate) fn range(&self) -> Range<usize> {
        self.data.addr()..self.data.addr().saturating_add(self.bytes)
    }

    /// The same, for the driver of its device.
    pub(crate) fn device_memory(&self) -> DeviceMemory {
        DeviceMemory { address: self.data.addr() as u64, bytes: self.bytes }
    }
}

/// An op on its way, whose memory the caller keeps.
#[must_use = "its memory may be used again when a wait for it has returned"]
pub struct RawPending {
    engine: Arc<Engine>,
    id: Option<OpId>,
    op: &'static str,
}

/// What peers compare, from what the caller says.
pub(crate) fn fingerprint(raw: &RawOp, call: &Call) -> Fingerprint {
    let reduces = matches!(raw.collective, Collective::AllReduce | Collective::ReduceScatter);
    Fingerprint {
        collective: raw.collective,
        dtype: raw.dtype,
        op: if reduces { call.op } else { ReduceOp::Sum },
        count: raw.count as u64,
        root: raw.root,
        algorithm: call.algorithm,
        quantization: call.quantization,
    }
}

/// Whether the memory of a quantized op is as long as its tensor.
pub(crate) fn check_bytes(raw: &RawOp) -> Result<(), String> {
    let needed = raw.count.checked_mul(raw.dtype.size_bytes());
    if needed == Some(raw.input_bytes) && needed == Some(raw.output_bytes) {
        return Ok(());
    }
    let (input, output) = (raw.input_bytes, raw.output_bytes);
    Err(format!("{} elements of {} in {input} bytes of input and {output} of output", raw.count, raw.dtype))
}

impl RawPending {
    pub(crate) fn new(engine: &Arc<Engine>, id: OpId, op: &'static str) -> Self {
        Self { engine: Arc::clone(engine), id: Some(id), op }
    }

    fn end(&self, ended: Ended) -> Result<OpInfo, CollectiveError> {
        result_of(self.op, self.engine.finished(ended))
    }

    /// Nobody waits for it for now: the library's thread takes over.
    pub fn hand_over(&self) {
        self.engine.hand_over();
    }

    /// Whether the op has ended; [`RawPending::wait`] then returns at once.
    pub fn is_done(&self) -> bool {
        self.id.is_none_or(|id| self.engine.has_ended(id))
    }

    /// Waits for the op.
    pub fn wait(mut self) -> Result<OpInfo, CollectiveError> {
        // Taken out once, here: the handle is consumed.
        let Some(id) = self.id.take() else { unreachable!("a handle has an op until it is waited for") };
        let ended = self.engine.wait_for(id);
        self.end(ended)
    }

    /// Waits for the op, at most for so long; gives the handle back if it has not ended by then.
    pub fn wait_for(mut self, time: Duration) -> Result<Result<OpInfo, CollectiveError>, Self> {
        let Some(id) = self.id else { unreachable!("a handle has an op until it is waited for") };
        match self.engine.wait_until(id, Instant::now() + time) {
            Some(ended) => {
                self.id = None;
                Ok(self.end(ended))
            }
            None => Err(self),
        }
    }
}

impl Drop for RawPending {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.engine.forget(id);
        }
    }
}
