//! Communicators: create, connect, ask, leave, destroy.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pccl::{Call, Communicator, ConnectError, Options, RawPending, Settings};

use crate::abi::{pcclAttribute_t, pcclComm_t, pcclCommCreateParams_t, pcclResult_t};
use crate::address::socket_addr;
use crate::boundary::{self, Failure, Outcome};
use crate::convert;
use crate::handles::Registry;

static ALL: Registry<Comm> = Registry::new("communicator", 1);

/// What a handle stands for.
pub(crate) struct Comm {
    master: SocketAddr,
    group: u32,
    settings: Mutex<Settings>,
    state: Mutex<State>,
    /// Started by `pcclAllReduceAsync`, by tag.
    pub(crate) started: Mutex<BTreeMap<u64, RawPending>>,
}

enum State {
    Idle,
    Connecting,
    Connected(Arc<Communicator>),
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic leaves behind here are whole values.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn comm(handle: *const pcclComm_t) -> Outcome<Arc<Comm>> {
    ALL.get(handle)
}

/// The communicator of a handle that is connected.
pub(crate) fn connected(handle: *const pcclComm_t) -> Outcome<(Arc<Comm>, Arc<Communicator>)> {
    let comm = comm(handle)?;
    let connected = comm.connected()?;
    Ok((comm, connected))
}

impl Comm {
    fn connected(&self) -> Outcome<Arc<Communicator>> {
        match &*lock(&self.state) {
            State::Connected(connected) => Ok(Arc::clone(connected)),
            State::Idle => Err(Failure::usage("the communicator is not connected: call pcclConnect first")),
            State::Connecting => Err(Failure::usage("another thread is connecting the communicator")),
        }
    }

    /// How to call an op of this tag.
    pub(crate) fn call(&self, tag: u64) -> Call {
        Call::new(tag).algorithm(lock(&self.settings).algorithm())
    }

    fn options(&self) -> Outcome<Options> {
        let master = (self.master.port() != 0).then(|| self.master.to_string());
        lock(&self.settings).options(master, Some(self.group)).map_err(Failure::argument)
    }

    fn connect(&self) -> Outcome {
        let options = self.options()?;
        let old = {
            let mut state = lock(&self.state);
            match &*state {
                State::Connecting => {
                    return Err(Failure::usage("another thread is connecting the communicator"));
                }
                State::Connected(old) if old.ended().is_none() => {
                    return Err(Failure::usage("the communicator is connected already"));
                }
                State::Connected(_) | State::Idle => std::mem::replace(&mut *state, State::Connecting),
            }
        };
        let back = Back(self);
        let connected = match old {
            // Its membership has ended: it joins again as a new peer.
            State::Connected(old) => old.reconnect().map(|()| old),
            _ => Communicator::connect(&options).map(Arc::new),
        };
        let connected = connected.map_err(|e| connect_failure(&e))?;
        *lock(&self.state) = State::Connected(connected);
        std::mem::forget(back);
        Ok(())
    }
}

/// A communicator that could not connect is as it was before, so that it can try again.
struct Back<'a>(&'a Comm);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        *lock(&self.0.state) = State::Idle;
    }
}

fn connect_failure(error: &ConnectError) -> Failure {
    Failure::coded(error.code(), error.class(), error).hint(error.hint())
}

/// Creates a communicator; nothing is connected yet.
///
/// # Safety
/// `params` must be null or valid for reading, `comm_out` null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclCreateCommunicator(
    params: *const pcclCommCreateParams_t,
    comm_out: *mut *mut pcclComm_t,
) -> pcclResult_t {
    boundary::call("pcclCreateCommunicator", || {
        // SAFETY: as the caller promises.
        let params = unsafe { convert::read(params, "params") }?;
        if comm_out.is_null() {
            return Err(Failure::argument("comm_out is null"));
        }
        let handle = ALL.add(Comm {
            master: socket_addr(&params.master_address)?,
            group: params.peer_group,
            settings: Mutex::default(),
            state: Mutex::new(State::Idle),
            started: Mutex::default(),
        });
        // SAFETY: not null, and valid as the caller promises.
        unsafe { comm_out.write(handle) };
        Ok(())
    })
}

/// Sets an option, before `pcclConnect`: `algorithm` (`auto`, `direct`, `ring`, `doubling`, `star`; also later),
/// `connect_timeout_ms`, `config_file` (path of a YAML file), or any key of the configuration
/// (`network.heartbeat_timeout_ms`, `network.site`, …). Both are texts that end in a zero byte.
///
/// # Safety
/// `key` and `value` must be null, or end in a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclSetOption(
    communicator: *mut pcclComm_t,
    key: *const c_char,
    value: *const c_char,
) -> pcclResult_t {
    boundary::call("pcclSetOption", || {
        let comm = comm(communicator)?;
        // SAFETY: as the caller promises.
        let (key, value) = unsafe { (convert::text(key, "key")?, convert::text(value, "value")?) };
        if key != "algorithm" && !matches!(*lock(&comm.state), State::Idle) {
            return Err(Failure::usage(format!("set {key} before pcclConnect")));
        }
        lock(&comm.settings).set(key, value).map_err(Failure::argument)
    })
}

/// Connects to the master and waits until the members let this peer in by `pcclUpdateTopology`; the first peers are let
/// in at once. After a failure it may be called again; also when this peer's membership has ended, to join again.
#[unsafe(no_mangle)]
pub extern "C" fn pcclConnect(communicator: *mut pcclComm_t) -> pcclResult_t {
    boundary::call("pcclConnect", || comm(communicator)?.connect())
}

/// Leaves the run after the ops of this peer that are in flight; the others go on at once. `pcclConnect` joins again.
#[unsafe(no_mangle)]
pub extern "C" fn pcclLeave(communicator: *mut pcclComm_t) -> pcclResult_t {
    boundary::call("pcclLeave", || {
        let (comm, connected) = connected(communicator)?;
        connected.leave();
        lock(&comm.started).clear();
        *lock(&comm.state) = State::Idle;
        Ok(())
    })
}

/// Leaves the run at once and forgets the communicator. Ops in flight end with their inputs as they were: when it
/// returns, the library touches none of the caller's memory.
#[unsafe(no_mangle)]
pub extern "C" fn pcclDestroyCommunicator(communicator: *mut pcclComm_t) -> pcclResult_t {
    boundary::call("pcclDestroyCommunicator", || {
        let comm = ALL.remove(communicator, |comm| match &*lock(&comm.state) {
            State::Connecting => Err(Failure::usage("another thread is connecting the communicator")),
            _ => Ok(()),
        })?;
        if let State::Connected(connected) = std::mem::replace(&mut *lock(&comm.state), State::Idle) {
            connected.abort();
        }
        lock(&comm.started).clear();
        Ok(())
    })
}

/// Reads an attribute of the newest epoch.
///
/// # Safety
/// `p_attribute_out` must be null, or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclGetAttribute(
    communicator: *const pcclComm_t,
    attribute: std::mem::MaybeUninit<pcclAttribute_t>,
    p_attribute_out: *mut c_int,
) -> pcclResult_t {
    boundary::call("pcclGetAttribute", || {
        let (_, connected) = connected(communicator)?;
        if p_attribute_out.is_null() {
            return Err(Failure::argument("p_attribute_out is null"));
        }
        let members = || connected.membership();
        let value = match convert::number(attribute) {
            1 => members().global_world_size,
            2 => connected.world_size(),
            3 => members().groups,
            4 => members().largest_group,
            other => return Err(Failure::argument(format!("{other} is no pcclAttribute_t (1 to 4)"))),
        };
        // SAFETY: not null, and valid as the caller promises.
        unsafe { p_attribute_out.write(c_int::try_from(value).unwrap_or(c_int::MAX)) };
        Ok(())
    })
}
