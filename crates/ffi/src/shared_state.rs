//! Shared state.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::slice;

use pccl::{
    Class, Communicator, DataType, Fault, NoCandidate, SharedState, Strategy, SyncError, SyncInfo,
    SyncStartError, Tensor,
};

use crate::abi::{
    pcclComm_t, pcclResult_t, pcclSharedState_t, pcclSharedStateSyncInfo_t, pcclSharedStateSyncStrategy_t,
    pcclTensorInfo_t,
};
use crate::boundary::{self, Failure, Outcome};
use crate::communicator::connected;
use crate::convert::{self, bytes_of, data_type, number, put};

/// Makes the tensors of all members of the group bit-identical, and agrees on the revision. All members must call it,
/// with no op in flight. All or nothing: after an error the tensors are as they were.
///
/// # Safety
/// The pointers must be null, or valid: `infos` for `count` of them, each one's name and data too, during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclSynchronizeSharedState(
    communicator: *const pcclComm_t,
    shared_state: *mut pcclSharedState_t,
    strategy: MaybeUninit<pcclSharedStateSyncStrategy_t>,
    sync_info_out: *mut pcclSharedStateSyncInfo_t,
) -> pcclResult_t {
    boundary::call("pcclSynchronizeSharedState", || {
        let (_, connected) = connected(communicator)?;
        let strategy = match number(strategy) {
            0 => Strategy::EnforcePopular,
            1 => Strategy::ReceiveOnly,
            2 => Strategy::SendOnly,
            other => {
                return Err(Failure::argument(format!(
                    "{other} is no pcclSharedStateSyncStrategy_t (0 to 2)"
                )));
            }
        };
        // SAFETY: as the caller promises.
        let state = unsafe { convert::read(shared_state.cast_const(), "shared_state") }?;
        let infos = match state.count {
            0 => &[],
            _ if state.infos.is_null() => return Err(Failure::argument("infos is null")),
            // SAFETY: not null, and valid as the caller promises.
            count => unsafe { slice::from_raw_parts(state.infos, count) },
        };
        // SAFETY: as the caller promises.
        let tensors = unsafe { infos.iter().map(|info| Checked::new(info)).collect::<Outcome<Vec<_>>>() }?;
        // SAFETY: as the caller promises.
        let info = unsafe { synchronize(&connected, state.revision, &tensors, strategy) }?;
        // SAFETY: not null, and valid as the caller promises.
        unsafe { (&raw mut (*shared_state).revision).write(info.revision) };
        let sync_info =
            pcclSharedStateSyncInfo_t { tx_bytes: info.sent_bytes, rx_bytes: info.received_bytes };
        // SAFETY: as the caller promises.
        unsafe { put(sync_info_out, sync_info) };
        Ok(())
    })
}

/// A tensor whose description makes sense.
struct Checked<'a> {
    name: &'a str,
    dtype: DataType,
    data: *mut u8,
    bytes: usize,
    compared: bool,
}

impl<'a> Checked<'a> {
    /// # Safety
    /// The name must be null, or end in a zero byte.
    unsafe fn new(info: &'a pcclTensorInfo_t) -> Outcome<Self> {
        // SAFETY: as the caller promises.
        let name = unsafe { convert::text(info.name, "the name of a tensor") }?;
        let of = |why: &str| Failure::argument(format!("tensor \"{name}\": {why}"));
        match number(info.device_type) {
            0 => {}
            1 => {
                return Err(of(
                    "this library has no support for CUDA (pcclGetBuildInfo): give it in main memory",
                ));
            }
            other => return Err(of(&format!("{other} is no pcclDeviceType_t (0 or 1)"))),
        }
        let dtype = data_type(info.datatype)?;
        let bytes = bytes_of(info.count, dtype)?;
        if info.data.is_null() && bytes > 0 {
            return Err(of("its data is null"));
        }
        Ok(Self { name, dtype, data: info.data.cast(), bytes, compared: !info.allow_content_inequality })
    }

    fn range(&self) -> Range<usize> {
        self.data.addr()..self.data.addr() + self.bytes
    }
}

/// # Safety
/// The tensors must be valid for reading and writing.
unsafe fn synchronize(
    connected: &Communicator,
    revision: u64,
    tensors: &[Checked<'_>],
    strategy: Strategy,
) -> Outcome<SyncInfo> {
    // A tensor that shares memory with one before it (tied weights) takes part as a copy.
    let mut seen: Vec<Range<usize>> = Vec::with_capacity(tensors.len());
    let mut copies: Vec<Option<Vec<u8>>> = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let range = tensor.range();
        let shares = seen.iter().any(|s| s.start < range.end && range.start < s.end);
        // SAFETY: valid for reading, as the caller promises.
        copies.push(shares.then(|| unsafe { bytes_mut(tensor) }.to_vec()));
        if !shares {
            seen.push(range);
        }
    }
    let mut state = SharedState::new(revision).admit_newcomers(false);
    for (tensor, copy) in tensors.iter().zip(&mut copies) {
        let bytes = match copy {
            Some(copy) => copy.as_mut_slice(),
            // SAFETY: valid as the caller promises, and shared with no other tensor here.
            None => unsafe { bytes_mut(tensor) },
        };
        let one = Tensor::from_bytes(tensor.name, tensor.dtype, bytes);
        state.push(if tensor.compared { one } else { one.allow_content_inequality() });
    }
    let info = connected.synchronize(&mut state, strategy).map_err(|e| failure(&e))?;
    drop(state);
    for (tensor, copy) in tensors.iter().zip(&copies) {
        let changed = info.changed.iter().any(|name| name == tensor.name);
        if let Some(copy) = copy.as_ref().filter(|_| changed) {
            // SAFETY: valid for writing as the caller promises; the slices above are no longer used.
            unsafe { bytes_mut(tensor) }.copy_from_slice(copy);
        }
    }
    Ok(info)
}

/// # Safety
/// The tensor must be valid for reading and writing, and nobody else may use it meanwhile.
unsafe fn bytes_mut<'a>(tensor: &Checked<'_>) -> &'a mut [u8] {
    let data = if tensor.bytes == 0 { std::ptr::dangling_mut() } else { tensor.data };
    // SAFETY: not null, and as the caller promises.
    unsafe { slice::from_raw_parts_mut(data, tensor.bytes) }
}

fn failure(error: &SyncError) -> Failure {
    let code = match error {
        SyncError::Invalid { .. } => pcclResult_t::pcclInvalidArgument,
        SyncError::NotStarted { why: SyncStartError::PendingOps(_) } => pcclResult_t::pcclPendingAsyncOps,
        SyncError::NoCandidate { why: NoCandidate::Behind { .. } } => pcclResult_t::pcclInvalidUsage,
        SyncError::NoCandidate { .. } => pcclResult_t::pcclNoSharedStateAvailable,
        SyncError::Ended { .. } if error.fault().is_none() => pcclResult_t::pcclRankConnectionLost,
        _ => pcclResult_t::pcclInvalidUsage,
    };
    let class = match error.fault() {
        Some(Fault::ConflictingSender { .. } | Fault::Strategy { .. } | Fault::KeySet { .. }) => Class::Fatal,
        _ => error.class(),
    };
    Failure::new(code, class, error).hint(error.hint())
}
