//! A master in this process.

use std::ffi::{c_char, c_int};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use pccl::{Class, Settings};
use pccl_master::{Server, ServerError, ServerOptions, StoreChoice};

use crate::abi::{ccoip_socket_address_t, pcclMasterInstance_t, pcclResult_t};
use crate::address::socket_addr;
use crate::boundary::{self, Failure, Outcome};
use crate::communicator::lock;
use crate::convert;
use crate::handles::Registry;

static ALL: Registry<Master> = Registry::new("master", 2);

struct Master {
    listen: SocketAddr,
    settings: Mutex<Settings>,
    life: Mutex<Life>,
}

enum Life {
    Created,
    Starting,
    Running(Arc<Server>),
    Ended,
}

impl Master {
    fn options(&self) -> Outcome<ServerOptions> {
        let (run, path) = lock(&self.settings).run_by_callers().map_err(Failure::argument)?;
        let mut options = ServerOptions::new(self.listen);
        options.settings = run;
        options.security = lock(&self.settings).security().map_err(Failure::argument)?;
        options.store = path.map_or(StoreChoice::Memory, StoreChoice::Embedded);
        Ok(options)
    }

    fn running(&self) -> Outcome<Arc<Server>> {
        match &*lock(&self.life) {
            Life::Running(server) => Ok(Arc::clone(server)),
            Life::Created | Life::Starting => {
                Err(Failure::usage("the master is not running: call pcclRunMaster first"))
            }
            Life::Ended => Err(Failure::usage("the master has ended")),
        }
    }

    fn run(&self) -> Outcome {
        let options = self.options()?;
        match &mut *lock(&self.life) {
            life @ Life::Created => *life = Life::Starting,
            Life::Starting | Life::Running(_) => {
                return Err(Failure::argument("the master is running already"));
            }
            Life::Ended => return Err(Failure::argument("the master has ended: create another one")),
        }
        // Not under the lock: it may take a moment.
        let started = Server::start(options);
        let mut life = lock(&self.life);
        match started {
            Ok(server) => *life = Life::Running(Arc::new(server)),
            Err(error) => {
                *life = Life::Created;
                return Err(start_failure(&error));
            }
        }
        Ok(())
    }
}

fn start_failure(error: &ServerError) -> Failure {
    let code = match error {
        ServerError::Listen(_) => pcclResult_t::pcclInvalidUsage,
        ServerError::Store(_) => pcclResult_t::pcclInvalidArgument,
        _ => pcclResult_t::pcclInternalError,
    };
    Failure::new(code, Class::Fatal, error)
}

/// Creates a master; it does not listen yet. Port 0 stands for any free one (`pcclGetMasterPort`).
///
/// # Safety
/// `p_master_handle_out` must be null, or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclCreateMaster(
    listen_address: ccoip_socket_address_t,
    p_master_handle_out: *mut *mut pcclMasterInstance_t,
) -> pcclResult_t {
    boundary::call_without_init("pcclCreateMaster", || {
        if p_master_handle_out.is_null() {
            return Err(Failure::argument("p_master_handle_out is null"));
        }
        let listen = socket_addr(&listen_address)?;
        let master = Master { listen, settings: Mutex::default(), life: Mutex::new(Life::Created) };
        // SAFETY: not null, and valid as the caller promises.
        unsafe { p_master_handle_out.write(ALL.add(master)) };
        Ok(())
    })
}

/// Sets an option before `pcclRunMaster`: `config_file` (path of a YAML file) or any key of the configuration
/// (`network.heartbeat_timeout_ms`, `fault_tolerance.recovery`, `store.path`, …).
///
/// # Safety
/// `key` and `value` must be null, or end in a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclSetMasterOption(
    master_instance: *mut pcclMasterInstance_t,
    key: *const c_char,
    value: *const c_char,
) -> pcclResult_t {
    boundary::call_without_init("pcclSetMasterOption", || {
        let master = ALL.get(master_instance)?;
        // SAFETY: as the caller promises.
        let (key, value) = unsafe { (convert::text(key, "key")?, convert::text(value, "value")?) };
        if !matches!(*lock(&master.life), Life::Created) {
            return Err(Failure::usage(format!("set {key} before pcclRunMaster")));
        }
        lock(&master.settings).set(key, value).map_err(Failure::argument)
    })
}

/// Starts the master and returns.
#[unsafe(no_mangle)]
pub extern "C" fn pcclRunMaster(master_instance: *mut pcclMasterInstance_t) -> pcclResult_t {
    boundary::call_without_init("pcclRunMaster", || ALL.get(master_instance)?.run())
}

/// The port on which a running master listens.
///
/// # Safety
/// `port_out` must be null, or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclGetMasterPort(
    master_instance: *const pcclMasterInstance_t,
    port_out: *mut c_int,
) -> pcclResult_t {
    boundary::call_without_init("pcclGetMasterPort", || {
        let server = ALL.get(master_instance)?.running()?;
        if port_out.is_null() {
            return Err(Failure::argument("port_out is null"));
        }
        // SAFETY: not null, and valid as the caller promises.
        unsafe { port_out.write(c_int::from(server.addr().port())) };
        Ok(())
    })
}

/// Asks the master to end, without waiting for it. May be called from a signal handler of a thread that waits in
/// `pcclMasterAwaitTermination`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclInterruptMaster(master_instance: *mut pcclMasterInstance_t) -> pcclResult_t {
    boundary::call_without_init("pcclInterruptMaster", || {
        ALL.get(master_instance)?.running()?.interrupt();
        Ok(())
    })
}

/// Waits until the master has ended, by `pcclInterruptMaster` or by itself.
#[unsafe(no_mangle)]
pub extern "C" fn pcclMasterAwaitTermination(master_instance: *mut pcclMasterInstance_t) -> pcclResult_t {
    boundary::call_without_init("pcclMasterAwaitTermination", || {
        let master = ALL.get(master_instance)?;
        let server = match &*lock(&master.life) {
            Life::Running(server) => Arc::clone(server),
            Life::Ended => return Ok(()),
            _ => return Err(Failure::argument("the master is not running: call pcclRunMaster first")),
        };
        let ended = server.wait();
        *lock(&master.life) = Life::Ended;
        ended.map_err(Failure::internal)
    })
}

/// Forgets a master that has ended (`pcclMasterAwaitTermination`) or was never run.
#[unsafe(no_mangle)]
pub extern "C" fn pcclDestroyMaster(master_instance: *mut pcclMasterInstance_t) -> pcclResult_t {
    boundary::call_without_init("pcclDestroyMaster", || {
        let removed = ALL.remove(master_instance, |master| match &mut *lock(&master.life) {
            Life::Starting | Life::Running(_) => Err(Failure::usage(
                "the master is running: call pcclInterruptMaster and pcclMasterAwaitTermination first",
            )),
            life => {
                *life = Life::Ended;
                Ok(())
            }
        });
        removed.map(drop)
    })
}
