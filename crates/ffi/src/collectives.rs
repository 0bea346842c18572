//! The other collectives.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use pccl::{Collective, DataType, RawOp, ReduceOp};

use crate::abi::{pcclComm_t, pcclDataType_t, pcclRedOp_t, pcclReduceInfo_t, pcclResult_t};
use crate::boundary::{self, Failure, Outcome};
use crate::communicator::connected;
use crate::convert::{bytes_of, data_type, put, reduce_op};
use crate::reduce::{check_memory, info_of, op_failure};

/// What a collective works on.
struct Operands {
    input: *const c_void,
    input_count: usize,
    output: *mut c_void,
    output_count: usize,
    count: usize,
    dtype: DataType,
    root: u32,
}

/// # Safety
/// The operands must be null, or valid for their elements; `info_out` null, or valid for writing.
unsafe fn run(
    communicator: *const pcclComm_t,
    collective: Collective,
    operands: &Operands,
    (op, tag): (ReduceOp, u64),
    info_out: *mut pcclReduceInfo_t,
) -> Outcome<(u32, u32)> {
    let (comm, connected) = connected(communicator)?;
    let raw = RawOp {
        collective,
        dtype: operands.dtype,
        count: operands.count,
        root: operands.root,
        input: operands.input.cast(),
        input_bytes: bytes_of(operands.input_count, operands.dtype)?,
        output: operands.output.cast(),
        output_bytes: bytes_of(operands.output_count, operands.dtype)?,
    };
    check_memory(&raw)?;
    // SAFETY: not null, apart or the same, valid as the caller promises, and the op has ended when `wait` returns.
    let pending = unsafe { connected.start_raw(&raw, &comm.call(tag).op(op)) };
    let info = pending.and_then(pccl::RawPending::wait).map_err(|e| op_failure(&e))?;
    // SAFETY: as the caller promises.
    unsafe { put(info_out, info_of(&info)) };
    Ok((info.rank, info.world))
}

/// Gives everybody the `count` elements in `buffer` of the member of rank `root`.
///
/// # Safety
/// The pointers must be null, or valid: `buffer` for `count` elements, during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclBroadcast(
    buffer: *mut c_void,
    count: usize,
    datatype: MaybeUninit<pcclDataType_t>,
    root: u32,
    tag: u64,
    communicator: *const pcclComm_t,
    reduce_info_out: *mut pcclReduceInfo_t,
) -> pcclResult_t {
    boundary::call("pcclBroadcast", || {
        let dtype = data_type(datatype)?;
        let operands = Operands {
            input: buffer,
            input_count: count,
            output: buffer,
            output_count: count,
            count,
            dtype,
            root,
        };
        // SAFETY: as the caller promises.
        unsafe {
            run(communicator, Collective::Broadcast, &operands, (ReduceOp::Sum, tag), reduce_info_out)
        }?;
        Ok(())
    })
}

/// Fills `recvbuff` with the `count` elements in `sendbuff` of each member, in rank order. `recv_count` is what
/// `recvbuff` has room for: at least `count` times the world size, which may not be the one before the call if peers
/// were lost or let in; the info tells it.
///
/// # Safety
/// The pointers must be null, or valid: the buffers for their elements, during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclAllGather(
    sendbuff: *const c_void,
    count: usize,
    recvbuff: *mut c_void,
    recv_count: usize,
    datatype: MaybeUninit<pcclDataType_t>,
    tag: u64,
    communicator: *const pcclComm_t,
    reduce_info_out: *mut pcclReduceInfo_t,
) -> pcclResult_t {
    boundary::call("pcclAllGather", || {
        let operands = Operands {
            input: sendbuff,
            input_count: count,
            output: recvbuff,
            output_count: recv_count,
            count,
            dtype: data_type(datatype)?,
            root: 0,
        };
        // SAFETY: as the caller promises.
        unsafe {
            run(communicator, Collective::AllGather, &operands, (ReduceOp::Sum, tag), reduce_info_out)
        }?;
        Ok(())
    })
}

/// Reduces the `count` elements in `sendbuff` of all members and gives each one block of the result, in rank order; the
/// first blocks are one element longer if the members do not divide the count. `recvbuff` must have room for `count`
/// elements, because blocks grow if a peer is lost on the way. The block is elements `*start_out` to `*start_out +
/// *block_out` of the result; both may be null.
///
/// # Safety
/// The pointers must be null, or valid: the buffers for `count` elements, during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclReduceScatter(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: MaybeUninit<pcclDataType_t>,
    op: MaybeUninit<pcclRedOp_t>,
    tag: u64,
    communicator: *const pcclComm_t,
    start_out: *mut usize,
    block_out: *mut usize,
    reduce_info_out: *mut pcclReduceInfo_t,
) -> pcclResult_t {
    boundary::call("pcclReduceScatter", || {
        if sendbuff == recvbuff.cast_const() && count > 0 {
            return Err(Failure::argument("sendbuff and recvbuff must not be the same"));
        }
        let operands = Operands {
            input: sendbuff,
            input_count: count,
            output: recvbuff,
            output_count: count,
            count,
            dtype: data_type(datatype)?,
            root: 0,
        };
        let op = reduce_op(op)?;
        // SAFETY: as the caller promises.
        let (rank, world) =
            unsafe { run(communicator, Collective::ReduceScatter, &operands, (op, tag), reduce_info_out) }?;
        let (start, block) = pccl::block_of(count, world, rank);
        // SAFETY: as the caller promises.
        unsafe {
            put(start_out, start);
            put(block_out, block);
        }
        Ok(())
    })
}

/// Returns when every member of the group has called it.
#[unsafe(no_mangle)]
pub extern "C" fn pcclBarrier(tag: u64, communicator: *const pcclComm_t) -> pcclResult_t {
    boundary::call("pcclBarrier", || {
        let (_, connected) = connected(communicator)?;
        connected.barrier(tag).map(drop).map_err(|e| op_failure(&e))
    })
}
