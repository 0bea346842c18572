//! A master in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pccl::{Class, ResultCode, Settings};
use pccl_master::{Server, ServerOptions, StoreChoice};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors::{argument, check_process, raise, usage};

/// A master, running or not.
#[pyclass(frozen)]
pub(crate) struct Master {
    listen: SocketAddr,
    settings: Settings,
    server: Mutex<Option<Arc<Server>>>,
    /// Somebody has begun to start it.
    started: AtomicBool,
    /// Somebody has waited for its end.
    ended: AtomicBool,
    /// The process that made it.
    process: u32,
}

impl Master {
    fn running(&self, py: Python<'_>, call: &str) -> PyResult<Arc<Server>> {
        check_process(py, self.process, call, "master")?;
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        server.ok_or_else(|| usage(py, call, "the master is not running: call run() first"))
    }
}

#[pymethods]
impl Master {
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 makes the map for the call")]
    #[new]
    fn new(py: Python<'_>, listen: &str, options: BTreeMap<String, String>) -> PyResult<Self> {
        let invalid = |text: &str| argument(py, "MasterNode", text);
        let listen = listen
            .parse()
            .map_err(|_| invalid(&format!("the listen address is {listen:?}, not ip:port or [ip]:port")))?;
        let mut settings = Settings::default();
        for (key, value) in &options {
            settings.set(key, value).map_err(|e| invalid(&e.to_string()))?;
        }
        let process = std::process::id();
        let (started, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { listen, settings, server: Mutex::default(), started, ended, process })
    }

    /// Starts the master and returns.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        check_process(py, self.process, "run", "master")?;
        let (run, path) = self.settings.run_by_callers().map_err(|e| argument(py, "run", &e.to_string()))?;
        let mut options = ServerOptions::new(self.listen);
        options.settings = run;
        options.security = self.settings.security().map_err(|e| argument(py, "run", &e.to_string()))?;
        options.store = path.map_or(StoreChoice::Memory, StoreChoice::Embedded);
        if self.started.swap(true, Ordering::AcqRel) {
            return Err(argument(py, "run", "the master is running already, or has ended"));
        }
        // No lock is held meanwhile: who waits for one keeps the interpreter's.
        let started = py.detach(|| Server::start(options));
        let started = started.map_err(|e| {
            self.started.store(false, Ordering::Release);
            raise(py, "run", ResultCode::InvalidUsage, Class::Fatal, &e.to_string())
        })?;
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(started));
        Ok(())
    }

    /// Whether it has been started by this process, and nobody has waited for its end.
    fn is_running(&self) -> bool {
        let started = || self.server.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        self.process == std::process::id() && !self.ended.load(Ordering::Acquire) && started()
    }

    /// The port on which it listens.
    fn port(&self, py: Python<'_>) -> PyResult<u16> {
        Ok(self.running(py, "port")?.addr().port())
    }

    /// Asks it to end.
    fn interrupt(&self, py: Python<'_>) -> PyResult<()> {
        self.running(py, "interrupt")?.interrupt();
        Ok(())
    }

    /// Waits until it has ended.
    fn await_termination(&self, py: Python<'_>) -> PyResult<()> {
        let server = self.running(py, "await_termination")?;
        let (ended, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Nobody listens any more if a signal came first.
            let _ = ended.send(server.wait());
        });
        let wait = Mutex::new(wait);
        loop {
            let got = py.detach(|| {
                wait.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(crate::op::SLICE)
            });
            match got {
                Ok(how) => {
                    self.ended.store(true, Ordering::Release);
                    return how.map_err(|e| PyRuntimeError::new_err(e.to_string()));
                }
                Err(_) => py.check_signals()?,
            }
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A child after `fork` has none of the threads that it would wait for.
            std::mem::forget(self.server.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}
