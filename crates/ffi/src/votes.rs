//! What all members decide together.

use pccl::{Class, VoteError};

use crate::abi::{pcclComm_t, pcclResult_t};
use crate::boundary::{self, Failure};
use crate::communicator::connected;

fn failure(error: &VoteError) -> Failure {
    let hint = match error.class() {
        Class::Retry => "call it again when the other call has returned",
        Class::Reconfigure => "call pcclConnect again and synchronize",
        Class::Fatal | Class::InputLost => "all members must make the same calls",
    };
    Failure::coded(error.code(), error.class(), error).hint(hint)
}

/// Lets the newcomers in that wait in `pcclConnect`. All members of the group must call it, with no op in flight.
#[unsafe(no_mangle)]
pub extern "C" fn pcclUpdateTopology(communicator: *mut pcclComm_t) -> pcclResult_t {
    boundary::call("pcclUpdateTopology", || {
        let (_, connected) = connected(communicator)?;
        let voted = connected.update_topology();
        voted.map(drop).map_err(|e| failure(&e))
    })
}

/// Whether newcomers wait to be let in. All members of the group must ask, and all get the same answer. Ops of other
/// threads go on meanwhile.
///
/// # Safety
/// `pending_out` must be null, or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclArePeersPending(
    communicator: *const pcclComm_t,
    pending_out: *mut bool,
) -> pcclResult_t {
    boundary::call("pcclArePeersPending", || {
        let (_, connected) = connected(communicator)?;
        if pending_out.is_null() {
            return Err(Failure::argument("pending_out is null"));
        }
        let pending = connected.peers_pending().map_err(|e| failure(&e))?;
        // SAFETY: not null, and valid as the caller promises.
        unsafe { pending_out.write(pending) };
        Ok(())
    })
}

/// Lets the choice of algorithms use what the members have measured of their links. All members of the group must call
/// it, with no op in flight.
#[unsafe(no_mangle)]
pub extern "C" fn pcclOptimizeTopology(communicator: *const pcclComm_t) -> pcclResult_t {
    boundary::call("pcclOptimizeTopology", || {
        let (_, connected) = connected(communicator)?;
        if connected.membership().global_world_size < 2 {
            return Err(Failure::usage("there are no links to other peers yet"));
        }
        connected.optimize_topology().map_err(|e| failure(&e))
    })
}
