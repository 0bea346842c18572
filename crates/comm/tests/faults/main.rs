//! Real processes and real sockets, broken for real: killed, stopped, cut off, lied to. Afterwards the survivors have the
//! same bits, which are the reduction over the peers that took part, or their exact inputs.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

mod broken;
mod compressed;
mod fleet;
mod hostile;
mod kill;
mod masters;
mod points;
mod settle;
mod silence;

/// Not a test by itself: fleets start this program again, as their master and peers.
#[test]
fn this_process_may_be_a_peer() {
    fleet::play_role();
}
