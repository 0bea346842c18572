//! Several all-reduces at once, tried again until all are done.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::c_int;

use pccl::{Communicator, OpInfo, RawPending};

use crate::abi::{pcclComm_t, pcclReduceInfo_t, pcclReduceOpDescriptor_t, pcclResult_t};
use crate::boundary::{self, Failure, Outcome};
use crate::communicator::{Comm, connected};
use crate::convert::put;
use crate::reduce::{info_of, op_failure, start, too_few};

/// Performs all ops, at most `max_in_flight` at once, and tries again what was cut when a peer was lost. Success means
/// that every one was reduced; else the text names one that was not, and inputs of ops that were not reduced are as they
/// were.
///
/// # Safety
/// The pointers must be null, or valid: `descriptors` for `count` of them, and each one's buffers for its elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclAllReduceMultipleWithRetry(
    descriptors: *const pcclReduceOpDescriptor_t,
    count: usize,
    communicator: *const pcclComm_t,
    reduce_info_out: *mut pcclReduceInfo_t,
    max_in_flight: c_int,
) -> pcclResult_t {
    boundary::call("pcclAllReduceMultipleWithRetry", || {
        if descriptors.is_null() || count == 0 {
            return Err(Failure::argument("there are no descriptors"));
        }
        let (comm, connected) = connected(communicator)?;
        let Some(max_in_flight) = usize::try_from(max_in_flight).ok().filter(|n| *n > 0) else {
            return Err(Failure::argument(format!("max_in_flight is {max_in_flight}, not at least 1")));
        };
        // SAFETY: not null, and valid as the caller promises.
        let ops = unsafe { std::slice::from_raw_parts(descriptors, count) };
        let mut tags = BTreeSet::new();
        if let Some(twice) = ops.iter().map(|op| op.descriptor.tag).find(|tag| !tags.insert(*tag)) {
            return Err(Failure::argument(format!("tag {twice} stands for two of the ops")));
        }
        let info = Many { comm: &comm, connected: &connected, ops }.run(max_in_flight)?;
        // SAFETY: as the caller promises.
        unsafe { put(reduce_info_out, info) };
        Ok(())
    })
}

struct Many<'a> {
    comm: &'a Comm,
    connected: &'a Communicator,
    ops: &'a [pcclReduceOpDescriptor_t],
}

impl Many<'_> {
    fn run(&self, max_in_flight: usize) -> Outcome<pcclReduceInfo_t> {
        // The lowest ones first on every peer, so that what one waits for is under way on the others.
        let mut waiting: BTreeSet<usize> = (0..self.ops.len()).collect();
        let mut running: VecDeque<(usize, RawPending)> = VecDeque::new();
        let mut total = pcclReduceInfo_t::default();
        let mut failed: Option<Failure> = None;
        loop {
            while failed.is_none() && running.len() < max_in_flight {
                let Some(i) = waiting.pop_first() else { break };
                match self.start(i) {
                    Ok(pending) => running.push_back((i, pending)),
                    // As many as may be at once are in flight, whatever the caller allows.
                    Err(e) if e.is_too_many() && !running.is_empty() => {
                        waiting.insert(i);
                        break;
                    }
                    Err(e) => failed = Some(e),
                }
            }
            let Some((i, pending)) = running.pop_front() else { break };
            match pending.wait() {
                Ok(info) => self.add(&mut total, &info),
                Err(e) => {
                    let e = op_failure(&e);
                    if e.is_retry() && failed.is_none() {
                        waiting.insert(i);
                    } else {
                        failed = failed.or(Some(e));
                    }
                }
            }
        }
        failed.map_or(Ok(total), Err)
    }

    fn start(&self, i: usize) -> Outcome<RawPending> {
        if self.connected.ended().is_none() && self.connected.world_size() < 2 {
            return Err(too_few());
        }
        let op = &self.ops[i];
        // SAFETY: as the caller of the C function promises; `run` returns when every op that was started has ended.
        unsafe { start(self.comm, self.connected, (op.sendbuf, op.recvbuf), &op.descriptor) }
    }

    fn add(&self, total: &mut pcclReduceInfo_t, info: &OpInfo) {
        let one = info_of(info);
        total.local_world_size = one.local_world_size.min(self.connected.world_size().max(1));
        total.tx_bytes += one.tx_bytes;
        total.rx_bytes += one.rx_bytes;
    }
}
