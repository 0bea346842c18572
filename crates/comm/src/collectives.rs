//! The collectives, blocking and asynchronous.

use std::collections::VecDeque;

use pccl_proto::peer::{OpInfo, StartError};
use pccl_proto::schedule::{block_len, block_start};
use pccl_proto::vocabulary::{Collective, DataType, Fingerprint, ReduceOp};

use crate::buffer::{self, Buffers, Loans, as_bytes, as_bytes_mut};
use crate::communicator::Communicator;
use crate::element::Element;
use crate::engine::Ended;
use crate::error::{Class, CollectiveError};
use crate::options::Call;
use crate::pending::Pending;
use crate::quantized;

/// One op of [`Communicator::all_reduce_many`].
#[derive(Debug)]
pub struct ManyCall<'a, T> {
    /// Reduced in place.
    pub buffer: &'a mut [T],
    /// Its tag must differ from those of the others.
    pub call: Call,
}

/// The block of a reduce-scatter that this peer got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scattered {
    /// How it went.
    pub info: OpInfo,
    /// First element of the block in the whole tensor.
    pub start: usize,
}

fn fingerprint(collective: Collective, dtype: DataType, count: usize, call: &Call) -> Fingerprint {
    Fingerprint {
        collective,
        dtype,
        op: call.op,
        count: count as u64,
        root: 0,
        algorithm: call.algorithm,
        quantization: call.quantization,
    }
}

/// The block of `count` elements that the member of this rank gets from a reduce-scatter: its first element, and how
/// many it has.
pub fn block_of(count: usize, world: u32, rank: u32) -> (usize, usize) {
    let count = count as u64;
    (block_start(count, world, rank) as usize, block_len(count, world, rank) as usize)
}

impl Communicator {
    /// Reduces `send` of all peers into everybody's `recv` (elements as many as in `send`).
    pub fn all_reduce<T: Element>(
        &self,
        send: &[T],
        recv: &mut [T],
        call: &Call,
    ) -> Result<OpInfo, CollectiveError> {
        self.all_reduce_bytes(T::DTYPE, as_bytes(send), as_bytes_mut(recv), call)
    }

    /// Reduces `buffer` of all peers into everybody's `buffer`.
    pub fn all_reduce_in_place<T: Element>(
        &self,
        buffer: &mut [T],
        call: &Call,
    ) -> Result<OpInfo, CollectiveError> {
        self.all_reduce_bytes_in_place(T::DTYPE, as_bytes_mut(buffer), call)
    }

    /// [`Communicator::all_reduce`] with a type known at run time; elements in native byte order, any alignment.
    pub fn all_reduce_bytes(
        &self,
        dtype: DataType,
        send: &[u8],
        recv: &mut [u8],
        call: &Call,
    ) -> Result<OpInfo, CollectiveError> {
        let count = count_of("all_reduce", dtype, send, call)?;
        if recv.len() != send.len() {
            let why = format!("the receive buffer has {} bytes, the send buffer {}", recv.len(), send.len());
            return Err(CollectiveError::Invalid { op: "all_reduce", tag: call.tag, why });
        }
        self.run("all_reduce", call, fingerprint(Collective::AllReduce, dtype, count, call), send, recv)
    }

    /// [`Communicator::all_reduce_in_place`] with a type known at run time.
    pub fn all_reduce_bytes_in_place(
        &self,
        dtype: DataType,
        buffer: &mut [u8],
        call: &Call,
    ) -> Result<OpInfo, CollectiveError> {
        let count = count_of("all_reduce", dtype, buffer, call)?;
        self.run_in_place("all_reduce", call, fingerprint(Collective::AllReduce, dtype, count, call), buffer)
    }

    /// Gives everybody the `buffer` of the member of rank `root`.
    pub fn broadcast<T: Element>(
        &self,
        buffer: &mut [T],
        root: u32,
        call: &Call,
    ) -> Result<OpInfo, CollectiveError> {
        let f = fingerprint(Collective::Broadcast, T::DTYPE, buffer.len(), call);
        let f = Fingerprint { root, op: ReduceOp::Sum, ..f };
        self.run_in_place("broadcast", call, f, as_bytes_mut(buffer))
    }

    /// Fills `recv` with the `send` of all members, in rank order; it gets as many elements as `send` has, times the
    /// world size of the result.
    pub fn all_gather<T: Element>(
        &self,
        send: &[T],
        recv: &mut Vec<T>,
        call: &Call,
    ) -> Result<OpInfo, CollectiveError> {
        let f = fingerprint(Collective::AllGather, T::DTYPE, send.len(), call);
        let f = Fingerprint { op: ReduceOp::Sum, ..f };
        loop {
            let world = self.membership().world_size.max(1) as usize;
            recv.resize(send.len() * world, T::default());
            match self.run("all_gather", call, f, as_bytes(send), as_bytes_mut(recv)) {
                // Newcomers were let in between the look at the world and the start.
                Err(CollectiveError::NotStarted { why: StartError::BufferTooSmall { .. }, .. }) => {}
                Ok(info) => {
                    recv.truncate(send.len() * info.world as usize);
                    return Ok(info);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Reduces `send` of all peers and gives each one block of the result, in rank order; the first blocks are one
    /// element longer if the count does not divide. `recv` is resized to the block.
    pub fn reduce_scatter<T: Element>(
        &self,
        send: &[T],
        recv: &mut Vec<T>,
        call: &Call,
    ) -> Result<Scattered, CollectiveError> {
        let f = fingerprint(Collective::ReduceScatter, T::DTYPE, send.len(), call);
        // Blocks grow if a peer is lost on the way.
        recv.resize(send.len(), T::default());
        let info = self.run("reduce_scatter", call, f, as_bytes(send), as_bytes_mut(recv))?;
        let (start, len) = block_of(send.len(), info.world, info.rank);
        recv.truncate(len);
        Ok(Scattered { info, start })
    }

    /// Returns when every member has called it.
    pub fn barrier(&self, tag: u64) -> Result<OpInfo, CollectiveError> {
        let call = Call::new(tag);
        let f = fingerprint(Collective::Barrier, DataType::U8, 0, &call);
        self.run("barrier", &call, f, &[], &mut [])
    }

    /// Starts an all-reduce of a buffer that the op owns until [`Pending::wait`] gives it back.
    /// A call that fails to start gives it back at once.
    #[expect(clippy::result_large_err, reason = "the buffer must come back, and the path is not hot")]
    pub fn all_reduce_async<T: Element>(
        &self,
        buffer: Vec<T>,
        call: &Call,
    ) -> Result<Pending<T>, (CollectiveError, Vec<T>)> {
        let f = fingerprint(Collective::AllReduce, T::DTYPE, buffer.len(), call);
        if let Err(why) = quantized::check(&f) {
            return Err((CollectiveError::Invalid { op: "all_reduce", tag: call.tag, why }, buffer));
        }
        let order = self.engine.order(f, call);
        match self.engine.start_op(&order, Buffers::Owned(Box::new(buffer))) {
            Ok(id) => {
                self.engine.hand_over();
                Ok(Pending::new(std::sync::Arc::clone(&self.engine), id, call.tag))
            }
            Err((why, memory)) => {
                let error = CollectiveError::NotStarted { op: "all_reduce", tag: call.tag, why };
                Err((error, crate::pending::take_vec(memory)))
            }
        }
    }

    /// Reduces many buffers in place, at most `max_in_flight` at once (at least one), and tries again what was cut.
    /// Success means that every one of them was reduced; an error leaves the failed one's input as it was, and those
    /// that were not begun unreduced.
    pub fn all_reduce_many<T: Element>(
        &self,
        calls: &mut [ManyCall<'_, T>],
        max_in_flight: usize,
    ) -> Result<Vec<OpInfo>, CollectiveError> {
        const OP: &str = "all_reduce";
        self.check_process(OP, 0)?;
        let ops: Vec<(Call, Fingerprint)> = calls
            .iter()
            .map(|c| (c.call, fingerprint(Collective::AllReduce, T::DTYPE, c.buffer.len(), &c.call)))
            .collect();
        let mut loans = Loans::new(&self.engine, calls.iter_mut().map(|c| as_bytes_mut(&mut *c.buffer)));
        let mut infos = vec![None; ops.len()];
        let mut waiting: VecDeque<usize> = (0..ops.len()).collect();
        let mut running: VecDeque<usize> = VecDeque::new();
        let mut failed = None;
        loop {
            while failed.is_none() && running.len() < max_in_flight.max(1) {
                let Some(i) = waiting.pop_front() else { break };
                let (call, f) = ops[i];
                if let Err(why) = quantized::check(&f) {
                    failed = Some(CollectiveError::Invalid { op: OP, tag: call.tag, why });
                    continue;
                }
                match loans.start(i, &self.engine.order(f, &call)) {
                    Ok(()) => running.push_back(i),
                    Err(why) => failed = Some(CollectiveError::NotStarted { op: OP, tag: call.tag, why }),
                }
            }
            let Some(i) = running.pop_front() else { break };
            let Some(ended) = loans.finish(i) else { continue };
            match result_of(OP, ended) {
                Ok(info) => infos[i] = Some(info),
                Err(e) if e.class() == Class::Retry && failed.is_none() => waiting.push_front(i),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        match failed {
            Some(e) => Err(e),
            None => Ok(infos.into_iter().flatten().collect()),
        }
    }

    fn run(
        &self,
        op: &'static str,
        call: &Call,
        f: Fingerprint,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<OpInfo, CollectiveError> {
        let tag = call.tag;
        self.check_process(op, tag)?;
        quantized::check(&f).map_err(|why| CollectiveError::Invalid { op, tag, why })?;
        let ended = buffer::run(&self.engine, &self.engine.order(f, call), input, output);
        result_of(op, ended.map_err(|why| CollectiveError::NotStarted { op, tag, why })?)
    }

    fn run_in_place(
        &self,
        op: &'static str,
        call: &Call,
        f: Fingerprint,
        buffer: &mut [u8],
    ) -> Result<OpInfo, CollectiveError> {
        let tag = call.tag;
        self.check_process(op, tag)?;
        quantized::check(&f).map_err(|why| CollectiveError::Invalid { op, tag, why })?;
        let ended = buffer::run_in_place(&self.engine, &self.engine.order(f, call), buffer);
        result_of(op, ended.map_err(|why| CollectiveError::NotStarted { op, tag, why })?)
    }

    pub(crate) fn check_process(&self, op: &'static str, tag: u64) -> Result<(), CollectiveError> {
        if self.is_ours() {
            return Ok(());
        }
        let why = "this process was forked from the one that connected; connect in the child".to_owned();
        Err(CollectiveError::Invalid { op, tag, why })
    }
}

fn count_of(op: &'static str, dtype: DataType, bytes: &[u8], call: &Call) -> Result<usize, CollectiveError> {
    let size = dtype.size_bytes();
    if bytes.len().is_multiple_of(size) {
        return Ok(bytes.len() / size);
    }
    let why =
        format!("a buffer of {} bytes is no whole number of {dtype} elements of {size} bytes", bytes.len());
    Err(CollectiveError::Invalid { op, tag: call.tag, why })
}

pub(crate) fn result_of(op: &'static str, ended: Ended) -> Result<OpInfo, CollectiveError> {
    ended.result.map_err(|e| CollectiveError::from_op(op, ended.tag.0, e))
}
