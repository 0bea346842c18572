//! Shared state.

use std::mem::MaybeUninit;
use std::slice;

use pccl::{Class, Device, Fault, RawTensor, Strategy, SyncError};

use crate::abi::{
    pcclComm_t, pcclResult_t, pcclSharedState_t, pcclSharedStateSyncInfo_t, pcclSharedStateSyncStrategy_t,
    pcclTensorInfo_t,
};
use crate::boundary::{self, Failure, Outcome};
use crate::communicator::connected;
use crate::convert::{self, bytes_of, data_type, number, put};

/// Makes the tensors of all members of the group bit-identical, and agrees on the revision. All members must call it,
/// with no op in flight. All or nothing: after an error the tensors are as they were. Tensors on CUDA devices are copied to
/// main memory, and back when they were changed; all that their context has been given to do is waited for.
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
        let tensors = unsafe { infos.iter().map(|info| checked(info)).collect::<Outcome<Vec<_>>>() }?;
        // SAFETY: as the caller promises.
        let info = unsafe { connected.synchronize_raw(state.revision, &tensors, strategy) }
            .map_err(|e| failure(&e))?;
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
///
/// # Safety
/// The name must be null, or end in a zero byte.
unsafe fn checked(info: &pcclTensorInfo_t) -> Outcome<RawTensor> {
    // SAFETY: as the caller promises.
    let name = unsafe { convert::text(info.name, "the name of a tensor") }?;
    let of = |why: &str| Failure::argument(format!("tensor \"{name}\": {why}"));
    let device = match number(info.device_type) {
        0 => Device::Cpu,
        1 => {
            pccl::cuda_support()
                .map_err(|why| of(&format!("it is said to be on a CUDA device, and {why}")))?;
            Device::Cuda
        }
        other => return Err(of(&format!("{other} is no pcclDeviceType_t (0 or 1)"))),
    };
    let dtype = data_type(info.datatype)?;
    let bytes = bytes_of(info.count, dtype)?;
    if info.data.is_null() && bytes > 0 {
        return Err(of("its data is null"));
    }
    let (name, data) = (name.to_owned(), info.data.cast());
    Ok(RawTensor { name, dtype, data, bytes, device, compared: !info.allow_content_inequality })
}

fn failure(error: &SyncError) -> Failure {
    let class = match error.fault() {
        Some(Fault::ConflictingSender { .. } | Fault::Strategy { .. } | Fault::KeySet { .. }) => Class::Fatal,
        _ => error.class(),
    };
    Failure::coded(error.code(), class, error).hint(error.hint())
}
