//! Ops on memory that Python owns.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pccl::{CollectiveError, OpInfo, RawPending};
use pyo3::prelude::*;

use crate::errors::{check_process, raise};

/// How long a wait goes on before signals are looked for.
pub(crate) const SLICE: Duration = Duration::from_millis(50);
/// How long an op may take to end after the peer has left.
const END: Duration = Duration::from_secs(3);

/// World size, rank, bytes sent, bytes received, recoveries.
pub(crate) type Info = (u32, u32, u64, u64, u32);

fn info(of: &OpInfo) -> Info {
    (of.world, of.rank, of.sent_bytes, of.received_bytes, of.recoveries)
}

/// An op in flight, and the objects whose memory it uses.
pub(crate) struct InFlight {
    pub(crate) op: RawPending,
    pub(crate) keep: Py<PyAny>,
}

/// Ops whose handles were thrown away: their objects are kept until they have ended.
pub(crate) type Orphans = Arc<Mutex<Vec<InFlight>>>;

/// Lets go of what has ended.
pub(crate) fn reap(orphans: &Orphans) {
    let mut all = orphans.lock().unwrap_or_else(PoisonError::into_inner);
    let (ended, left) = all.drain(..).partition(|one| one.op.is_done());
    *all = left;
    drop(all);
    // Not under the lock: the last look at an object may run code of Python, and other threads meanwhile.
    drop::<Vec<InFlight>>(ended);
}

/// Waits for an op, looking for signals on the way.
pub(crate) fn wait(
    py: Python<'_>,
    one: InFlight,
    comm: &Arc<pccl::Communicator>,
    orphans: &Orphans,
) -> PyResult<Info> {
    let InFlight { mut op, keep } = one;
    loop {
        op = match py.detach(|| op.wait_for(SLICE)) {
            Ok(ended) => return result(py, ended),
            Err(op) => op,
        };
        if let Err(signal) = py.check_signals() {
            let ended = py.detach(|| {
                comm.abort();
                op.wait_for(END)
            });
            if let Err(op) = ended {
                // Nobody drives it any more; its memory is kept all the same.
                orphans.lock().unwrap_or_else(PoisonError::into_inner).push(InFlight { op, keep });
            }
            return Err(signal);
        }
    }
}

fn result(py: Python<'_>, ended: Result<OpInfo, CollectiveError>) -> PyResult<Info> {
    ended.map(|i| info(&i)).map_err(|e| op_error(py, &e))
}

pub(crate) fn op_error(py: Python<'_>, error: &CollectiveError) -> PyErr {
    raise(py, error.op(), error.code(), error.class(), &format!("{error}; {}", error.hint()))
}

/// The handle of an asynchronous op.
#[pyclass(frozen)]
pub(crate) struct Pending {
    op: Mutex<Option<InFlight>>,
    comm: Arc<pccl::Communicator>,
    orphans: Orphans,
    /// The process that started it.
    process: u32,
}

impl Pending {
    pub(crate) fn new(op: InFlight, comm: Arc<pccl::Communicator>, orphans: Orphans) -> Self {
        let process = std::process::id();
        Self { op: Mutex::new(Some(op)), comm, orphans, process }
    }

    fn take(&self) -> Option<InFlight> {
        self.op.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl Pending {
    /// Waits for the op, once: (world size, rank, bytes sent, bytes received, recoveries).
    fn wait(&self, py: Python<'_>) -> PyResult<Option<Info>> {
        check_process(py, self.process, "wait", "op")?;
        self.take().map(|op| wait(py, op, &self.comm, &self.orphans)).transpose()
    }

    /// Whether the op has ended.
    fn done(&self, py: Python<'_>) -> PyResult<bool> {
        check_process(py, self.process, "done", "op")?;
        let ended =
            self.op.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(|o| o.op.is_done());
        Ok(ended)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(op) = self.op.get_mut().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if self.process == std::process::id() {
            self.orphans.lock().unwrap_or_else(PoisonError::into_inner).push(op);
        } else {
            // Of a child after `fork` the buffers are copies.
            std::mem::forget(op);
        }
    }
}
