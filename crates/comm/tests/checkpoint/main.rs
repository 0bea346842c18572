//! Checkpoints: written by real peers, killed in the middle, restored by new ones; on a disk and in an object store.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test ends where something that it needs is missing")]

mod crew;
mod disk;
mod killed;
mod s3;

/// Not a test by itself: the tests start this program again, as peers that are killed.
#[test]
fn this_process_may_be_killed() {
    killed::play_role();
}
