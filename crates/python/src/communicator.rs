//! A peer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use pccl::{
    Call, Class, Collective, DataType, Device, NoCandidate, Options, RawOp, RawTensor, ReduceOp, ResultCode,
    Settings, Strategy, SyncError, VoteError,
};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors::{argument, check_process, raise, usage};
use crate::op::{InFlight, Info, Orphans, Pending, SLICE, op_error, reap, wait};

/// How long a call may take to end after the peer has left.
const END: Duration = Duration::from_secs(3);

/// Name, element type, address, bytes, whether it is on a CUDA device, whether it is compared.
type TensorArgs = (String, u8, usize, usize, bool, bool);
/// What [`Communicator::membership`] tells.
type MembershipArgs = (String, u32, u32, u64, u32, u32, u32, Vec<(String, String, String)>);

/// A peer, connected or not.
#[pyclass(frozen)]
pub(crate) struct Communicator {
    options: Options,
    call: Call,
    comm: Mutex<Option<Arc<pccl::Communicator>>>,
    orphans: Orphans,
    connecting: AtomicBool,
    /// The process that made it.
    process: u32,
}

/// Nobody connects any more.
struct Connected<'a>(&'a AtomicBool);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a call that blocks on a thread of its own, looking for signals meanwhile. After one, `stop` should make it end.
fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    call: impl FnOnce() -> T + Send + 'static,
    stop: impl FnOnce() + Send,
) -> PyResult<T> {
    let (done, ended) = channel();
    let run = move || {
        // Nobody listens any more if a signal came first.
        let _ = done.send(call());
    };
    thread::Builder::new().name("pccl-call".into()).spawn(run)?;
    let ended = Mutex::new(ended);
    loop {
        match py.detach(|| lock(&ended).recv_timeout(SLICE)) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("a thread of pccl panicked, which is a bug"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Err(signal) = py.check_signals() {
            py.detach(|| {
                stop();
                let _ = lock(&ended).recv_timeout(END);
            });
            return Err(signal);
        }
    }
}

/// What the package asks for: codes, and memory (address, bytes) that `keep` owns.
#[derive(FromPyObject)]
struct Request {
    collective: u8,
    dtype: u8,
    count: usize,
    input: (usize, usize),
    output: (usize, usize),
    keep: Py<PyAny>,
    root: u32,
    op: u8,
    tag: u64,
    quantization: Option<(u8, u8)>,
}

fn quantized(py: Python<'_>, call: Call, how: Option<(u8, u8)>) -> PyResult<Call> {
    let Some((integer, algorithm)) = how else { return Ok(call) };
    let wrong = |why: &str| argument(py, "all_reduce", why);
    let integer = DataType::from_code(integer).ok_or_else(|| wrong("unknown type to quantize to"))?;
    call.quantized_by_codes(integer, algorithm.into()).map_err(|why| wrong(&why))
}

/// What people call a collective.
fn name_of(collective: u8) -> &'static str {
    Collective::from_code(collective).map_or("collective", Collective::name)
}

fn vote_error(py: Python<'_>, vote: &str, error: &VoteError) -> PyErr {
    raise(py, vote, error.code(), error.class(), &error.to_string())
}

fn sync_error(py: Python<'_>, error: &SyncError) -> PyErr {
    let text = format!("{error}; {}", error.hint());
    let raised = raise(py, "sync_shared_state", error.code(), error.class(), &text);
    if let SyncError::NoCandidate { why: NoCandidate::Behind { highest, expected } } = error {
        // For the package: a training that begins anew under an old master takes up its revisions.
        let _ = raised.value(py).setattr("_behind", (highest, expected));
    }
    raised
}

impl Communicator {
    fn check(&self, py: Python<'_>, call: &str) -> PyResult<()> {
        check_process(py, self.process, call, "communicator")
    }

    fn connected(&self, py: Python<'_>, call: &str) -> PyResult<Arc<pccl::Communicator>> {
        self.check(py, call)?;
        let connected = lock(&self.comm).clone();
        connected.ok_or_else(|| usage(py, call, "the communicator is not connected: call connect() first"))
    }

    /// Takes part in a vote.
    fn vote<T: Send + 'static>(
        &self,
        py: Python<'_>,
        name: &str,
        vote: fn(&pccl::Communicator) -> Result<T, VoteError>,
    ) -> PyResult<T> {
        let comm = self.connected(py, name)?;
        let (voter, stopper) = (Arc::clone(&comm), comm);
        interruptible(py, move || vote(&voter), || stopper.abort())?.map_err(|e| vote_error(py, name, &e))
    }
}

#[pymethods]
impl Communicator {
    /// `master`: `host:port`, or nothing for those of the configuration. `options`: as `pcclSetOption` takes them.
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes the map for the call")]
    #[new]
    fn new(
        py: Python<'_>,
        master: Option<String>,
        group: u32,
        options: BTreeMap<String, String>,
    ) -> PyResult<Self> {
        let invalid = |text: String| argument(py, "Communicator", &text);
        let mut settings = Settings::default();
        for (key, value) in &options {
            settings.set(key, value).map_err(|e| invalid(e.to_string()))?;
        }
        let options = settings.options(master, Some(group)).map_err(|e| invalid(e.to_string()))?;
        let call = Call::new(0).algorithm(settings.algorithm());
        let process = std::process::id();
        let (comm, orphans, connecting) = (Mutex::default(), Orphans::default(), AtomicBool::new(false));
        Ok(Self { options, call, comm, orphans, connecting, process })
    }

    /// Connects, and waits until the members let this peer in.
    fn connect(&self, py: Python<'_>) -> PyResult<()> {
        self.check(py, "connect")?;
        let old = lock(&self.comm).clone();
        if old.as_ref().is_some_and(|old| old.ended().is_none()) {
            return Err(usage(py, "connect", "the communicator is connected already"));
        }
        if self.connecting.swap(true, Ordering::AcqRel) {
            return Err(usage(py, "connect", "another thread is connecting the communicator"));
        }
        let _done = Connected(&self.connecting);
        let cancelled = Arc::new(AtomicBool::new(false));
        let options = self.options.clone().cancelled_by(Arc::clone(&cancelled));
        let again = old.clone();
        let connecting = move || match old.filter(|old| !old.has_left()) {
            Some(old) => old.reconnect().map(|()| old),
            None => pccl::Communicator::connect(&options).map(Arc::new),
        };
        let stop = || {
            cancelled.store(true, Ordering::Relaxed);
            if let Some(old) = again {
                old.abort();
            }
        };
        let connected = interruptible(py, connecting, stop)?
            .map_err(|e| raise(py, "connect", e.code(), e.class(), &format!("{e}; {}", e.hint())))?;
        *lock(&self.comm) = Some(connected);
        Ok(())
    }

    /// Leaves, after the ops in flight or at once; also at once after a signal.
    fn leave(&self, py: Python<'_>, at_once: bool) -> PyResult<()> {
        if self.process != std::process::id() {
            return Ok(()); // a child's copy was never a member
        }
        let Some(comm) = lock(&self.comm).take() else { return Ok(()) };
        let (leaver, stopper) = (Arc::clone(&comm), comm);
        let leave = move || if at_once { leaver.abort() } else { leaver.leave() };
        let left = interruptible(py, leave, || stopper.abort());
        reap(&self.orphans);
        left
    }

    fn is_connected(&self) -> bool {
        self.process == std::process::id() && lock(&self.comm).as_ref().is_some_and(|c| c.ended().is_none())
    }

    /// Session, rank, world size, epoch, world size of all groups, groups, world size of the largest group, and session,
    /// address and site of each member.
    fn membership(&self, py: Python<'_>) -> PyResult<MembershipArgs> {
        let m = self.connected(py, "membership")?.membership();
        let members = m.members.into_iter().map(|o| (o.session, o.addr.to_string(), o.site)).collect();
        Ok((
            m.session,
            m.rank,
            m.world_size,
            m.epoch,
            m.global_world_size,
            m.groups,
            m.largest_group,
            members,
        ))
    }

    fn world_size(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.connected(py, "world_size")?.world_size())
    }

    fn are_peers_pending(&self, py: Python<'_>) -> PyResult<bool> {
        self.vote(py, "are_peers_pending", pccl::Communicator::peers_pending)
    }

    fn update_topology(&self, py: Python<'_>) -> PyResult<()> {
        self.vote(py, "update_topology", |c| c.update_topology().map(drop))
    }

    fn optimize_topology(&self, py: Python<'_>) -> PyResult<()> {
        if self.connected(py, "optimize_topology")?.membership().global_world_size < 2 {
            return Err(usage(py, "optimize_topology", "there are no links to other peers yet"));
        }
        self.vote(py, "optimize_topology", pccl::Communicator::optimize_topology)
    }

    /// Starts an op.
    fn start(&self, py: Python<'_>, what: Request) -> PyResult<Pending> {
        let comm = self.connected(py, name_of(what.collective))?;
        let started = self.begin(py, &comm, what)?;
        started.op.hand_over();
        Ok(Pending::new(started, comm, Arc::clone(&self.orphans)))
    }

    /// Runs an op.
    fn run(&self, py: Python<'_>, what: Request) -> PyResult<Info> {
        let comm = self.connected(py, name_of(what.collective))?;
        let started = self.begin(py, &comm, what)?;
        wait(py, started, &comm, &self.orphans)
    }

    /// Makes tensors equal that `keep` owns: revision, bytes sent, bytes received, names of what was changed.
    fn synchronize(
        &self,
        py: Python<'_>,
        revision: u64,
        tensors: Vec<TensorArgs>,
        strategy: u8,
        keep: Py<PyAny>,
    ) -> PyResult<(u64, u64, u64, Vec<String>)> {
        const NAME: &str = "sync_shared_state";
        let comm = self.connected(py, NAME)?;
        let strategy = match strategy {
            0 => Strategy::EnforcePopular,
            1 => Strategy::ReceiveOnly,
            2 => Strategy::SendOnly,
            _ => return Err(argument(py, NAME, "unknown strategy")),
        };
        let mut raw = Vec::with_capacity(tensors.len());
        for (name, dtype, data, bytes, on_cuda, compared) in tensors {
            let dtype =
                DataType::from_code(dtype).ok_or_else(|| argument(py, NAME, "unknown element type"))?;
            let device = if on_cuda { Device::Cuda } else { Device::Cpu };
            raw.push(RawTensor { name, dtype, data: data as *mut u8, bytes, device, compared });
        }
        let (syncer, stopper) = (Arc::clone(&comm), comm);
        let call = move || {
            // SAFETY: the package gives addresses of objects that `keep` holds, and writable ones; the thread keeps it.
            let ended = unsafe { syncer.synchronize_raw(revision, &raw, strategy) };
            Python::attach(|_| drop(keep));
            ended
        };
        let info = interruptible(py, call, || stopper.abort())?.map_err(|e| sync_error(py, &e))?;
        Ok((info.revision, info.sent_bytes, info.received_bytes, info.changed))
    }
}

impl Communicator {
    fn begin(&self, py: Python<'_>, comm: &pccl::Communicator, what: Request) -> PyResult<InFlight> {
        let known = |name: &str| argument(py, name_of(what.collective), &format!("unknown {name}"));
        let raw = RawOp {
            collective: Collective::from_code(what.collective).ok_or_else(|| known("collective"))?,
            dtype: DataType::from_code(what.dtype).ok_or_else(|| known("element type"))?,
            count: what.count,
            root: what.root,
            input: what.input.0 as *const u8,
            input_bytes: what.input.1,
            output: what.output.0 as *mut u8,
            output_bytes: what.output.1,
        };
        reap(&self.orphans);
        if raw.collective == Collective::AllReduce && comm.ended().is_none() && comm.world_size() < 2 {
            let text = "the peer group has fewer than 2 members: wait for others, and let them in by update_topology()";
            return Err(raise(py, "all_reduce", ResultCode::TooFewPeers, Class::Retry, text));
        }
        let reduce = ReduceOp::from_code(what.op).ok_or_else(|| known("operator"))?;
        let call = quantized(py, Call { tag: what.tag, op: reduce, ..self.call }, what.quantization)?;
        // SAFETY: the package gives addresses of objects that `keep` holds, writable ones for the output, checked not to
        // overlap; `InFlight` keeps them until the op has ended.
        let started = unsafe { comm.start_raw(&raw, &call) };
        Ok(InFlight { op: started.map_err(|e| op_error(py, &e))?, keep: what.keep })
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        let comm = self.comm.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if self.process != std::process::id() {
            // A child after `fork` has none of the threads that it would wait for, and closed the sockets long ago.
            std::mem::forget((comm, std::mem::take(&mut self.orphans)));
            return;
        }
        if let Some(comm) = comm {
            Python::attach(|py| py.detach(|| comm.abort()));
        }
    }
}
