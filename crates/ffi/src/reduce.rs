//! All-reduce, blocking and asynchronous.

use std::ffi::c_void;

use pccl::{Call, Class, Collective, CollectiveError, Communicator, DataType, OpInfo, RawOp, RawPending};

use crate::abi::{
    pcclAsyncReduceOp_t, pcclComm_t, pcclQuantizationOptions_t, pcclReduceDescriptor_t, pcclReduceInfo_t,
    pcclResult_t,
};
use crate::boundary::{self, Failure, Outcome};
use crate::communicator::{self, Comm, connected, lock};
use crate::convert::{self, bytes_of, data_type, number, put, reduce_op};

/// Result code and text of an op that did not succeed.
pub(crate) fn op_failure(error: &CollectiveError) -> Failure {
    Failure::coded(error.code(), error.class(), error).hint(error.hint())
}

pub(crate) fn info_of(info: &OpInfo) -> pcclReduceInfo_t {
    pcclReduceInfo_t {
        local_world_size: info.world,
        tx_bytes: info.sent_bytes,
        rx_bytes: info.received_bytes,
    }
}

pub(crate) fn too_few() -> Failure {
    let text =
        "the peer group has fewer than 2 members: wait for others, and let them in by pcclUpdateTopology";
    Failure::new(pcclResult_t::pcclTooFewPeers, Class::Retry, text)
}

/// Checks that an op's memory may be used.
pub(crate) fn check_memory(raw: &RawOp) -> Outcome {
    if raw.input.is_null() && raw.input_bytes > 0 {
        return Err(Failure::argument("sendbuff is null"));
    }
    if raw.output.is_null() && raw.output_bytes > 0 {
        return Err(Failure::argument("recvbuff is null"));
    }
    let (input, output) = (raw.input.addr(), raw.output.addr());
    let same = input == output && raw.input_bytes == raw.output_bytes;
    let overlap = input < output.saturating_add(raw.output_bytes)
        && output < input.saturating_add(raw.input_bytes)
        && raw.input_bytes.min(raw.output_bytes) > 0;
    if overlap && !same {
        return Err(Failure::argument(
            "sendbuff and recvbuff overlap: give the same address for both, or none in common",
        ));
    }
    Ok(())
}

fn quantized(call: Call, options: pcclQuantizationOptions_t) -> Outcome<Call> {
    let algorithm = number(options.algorithm);
    let integer = match algorithm {
        // The other field may be anything then.
        0 | 3 => DataType::U8,
        _ => data_type(options.quantized_datatype)?,
    };
    call.quantized_by_codes(integer, algorithm).map_err(Failure::argument)
}

/// Starts the op that a descriptor describes.
///
/// # Safety
/// The buffers must be null, or valid until the op has ended, as for [`Communicator::start_raw`].
pub(crate) unsafe fn start(
    comm: &Comm,
    connected: &Communicator,
    (send, recv): (*const c_void, *mut c_void),
    descriptor: &pcclReduceDescriptor_t,
) -> Outcome<RawPending> {
    let dtype = data_type(descriptor.src_descriptor.datatype)?;
    let op = reduce_op(descriptor.op)?;
    let call = quantized(comm.call(descriptor.tag).op(op), descriptor.quantization_options)?;
    if descriptor.count == 0 {
        return Err(Failure::argument("count is 0"));
    }
    let bytes = bytes_of(descriptor.count, dtype)?;
    let raw = RawOp {
        collective: Collective::AllReduce,
        dtype,
        count: descriptor.count,
        root: 0,
        input: send.cast(),
        input_bytes: bytes,
        output: recv.cast(),
        output_bytes: bytes,
    };
    check_memory(&raw)?;
    if connected.ended().is_none() && connected.world_size() < 2 {
        return Err(too_few());
    }
    // SAFETY: not null, apart or the same, and valid as the caller promises.
    unsafe { connected.start_raw(&raw, &call) }.map_err(|e| op_failure(&e))
}

/// Reduces `sendbuff` of all members of the group into everybody's `recvbuff`, which may be the same. If a peer is lost
/// and the run leaves it to the caller to try again (the default of `pcclCreateMaster`), it returns
/// `pcclRankConnectionLost` with the input as it was.
///
/// # Safety
/// The pointers must be null, or valid: the buffers for `count` elements, during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclAllReduce(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    descriptor: *const pcclReduceDescriptor_t,
    communicator: *const pcclComm_t,
    reduce_info_out: *mut pcclReduceInfo_t,
) -> pcclResult_t {
    boundary::call("pcclAllReduce", || {
        let (comm, connected) = connected(communicator)?;
        // SAFETY: as the caller promises, and the op has ended when `wait` returns.
        let pending = unsafe {
            start(&comm, &connected, (sendbuff, recvbuff), convert::read(descriptor, "descriptor")?)
        }?;
        let info = pending.wait().map_err(|e| op_failure(&e))?;
        // SAFETY: as the caller promises.
        unsafe { put(reduce_info_out, info_of(&info)) };
        Ok(())
    })
}

/// Starts an all-reduce; `pcclAwaitAsyncReduce` ends it. Until then the buffers belong to the library.
///
/// # Safety
/// The pointers must be null, or valid: the buffers for `count` elements until the op has been awaited, or the
/// communicator has been left or destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclAllReduceAsync(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    descriptor: *const pcclReduceDescriptor_t,
    communicator: *const pcclComm_t,
    reduce_handle_out: *mut pcclAsyncReduceOp_t,
) -> pcclResult_t {
    boundary::call("pcclAllReduceAsync", || {
        let (comm, connected) = connected(communicator)?;
        if reduce_handle_out.is_null() {
            return Err(Failure::argument("reduce_handle_out is null"));
        }
        // SAFETY: as the caller promises.
        let descriptor = unsafe { convert::read(descriptor, "descriptor") }?;
        let tag = descriptor.tag;
        let mut started = lock(&comm.started);
        if started.contains_key(&tag) {
            return Err(Failure::argument(format!("tag {tag} is in use by an op that has not been awaited")));
        }
        // SAFETY: as the caller promises.
        let pending = unsafe { start(&comm, &connected, (sendbuff, recvbuff), descriptor) }?;
        pending.hand_over();
        started.insert(tag, pending);
        drop(started);
        // SAFETY: not null, and valid as the caller promises.
        unsafe { reduce_handle_out.write(pcclAsyncReduceOp_t { comm: communicator.cast_mut(), tag }) };
        Ok(())
    })
}

/// Waits for an op, once.
///
/// # Safety
/// The pointers must be null, or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclAwaitAsyncReduce(
    reduce_handle: *const pcclAsyncReduceOp_t,
    reduce_info_out: *mut pcclReduceInfo_t,
) -> pcclResult_t {
    boundary::call("pcclAwaitAsyncReduce", || {
        // SAFETY: as the caller promises.
        let handle = unsafe { convert::read(reduce_handle, "reduce_handle") }?;
        let comm = communicator::comm(handle.comm)?;
        let tag = handle.tag;
        let pending = lock(&comm.started).remove(&tag).ok_or_else(|| {
            Failure::argument(format!("no op of tag {tag} waits: it was not started, or it has been awaited"))
        })?;
        let info = pending.wait().map_err(|e| op_failure(&e))?;
        // SAFETY: as the caller promises.
        unsafe { put(reduce_info_out, info_of(&info)) };
        Ok(())
    })
}
