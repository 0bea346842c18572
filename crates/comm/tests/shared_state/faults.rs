//! Shared state while processes are frozen and killed.

use std::process::{Child, Command, Stdio};

use crate::harness::{TestMaster, connect, together, voters};
use pccl::{Class, Communicator, NoCandidate, SharedState, Strategy, SyncError, SyncInfo, Tensor};

const BLOCK: usize = 1 << 20;
const BYTES: usize = 48 * BLOCK + 5;

fn content(seed: u8) -> Vec<u8> {
    (0..BYTES).map(|i| (i / 4099) as u8 ^ seed).collect()
}

fn sync(comm: &Communicator, w: &mut [u8], revision: u64) -> Result<SyncInfo, SyncError> {
    let mut state = SharedState::new(revision).with(Tensor::new("w", w)).block_bytes(BLOCK as u32);
    comm.synchronize(&mut state, Strategy::EnforcePopular)
}

/// Not a test by itself: the body of the child process, which has the content of seed 1.
#[test]
fn child() {
    let Ok(master) = std::env::var("PCCL_TEST_CHILD_OF") else { return };
    let comm = connect(master.parse().unwrap());
    grow(&comm, std::env::var("PCCL_TEST_WORLD").unwrap().parse().unwrap());
    sync(&comm, &mut content(1), 1).unwrap();
}

/// Lets newcomers in until the world has this size.
fn grow(comm: &Communicator, world: u32) {
    while comm.membership().world_size < world {
        comm.update_topology().unwrap();
    }
}

struct Process(Child);

impl Process {
    fn start(master: &TestMaster, world: u32) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::child", "--nocapture"])
            .env("PCCL_TEST_CHILD_OF", master.addr.to_string())
            .env("PCCL_TEST_WORLD", world.to_string())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn freeze(&self) {
        let status = Command::new("kill").args(["-STOP", &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
        // The signal is on its way when `kill` returns; wait until it has arrived.
        let stat = format!("/proc/{}/stat", self.0.id());
        while std::fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") T ")) {
            std::thread::yield_now();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_holder_that_is_killed_while_it_sends_is_replaced_by_the_others() {
    let master = TestMaster::start();
    let holder = connect(master.addr);
    let killed = Process::start(&master, 3);
    master.wait_until("the child", |s| s.groups[0].peers.len() == 2);
    grow(&holder, 2);
    let addr = master.addr;
    let last = std::thread::spawn(move || connect(addr));
    grow(&holder, 3);
    let receiver = last.join().unwrap();
    let (holding, receiving) = std::thread::scope(|scope| {
        let first = scope.spawn(|| sync(&holder, &mut content(1), 1).unwrap());
        master.wait_until("two votes", |s| voters(s) == 2);
        killed.freeze();
        // Elected while it is frozen, it cannot send what it is asked for.
        let receiving = scope.spawn(|| {
            let mut w = content(2);
            let info = sync(&receiver, &mut w, 1).unwrap();
            assert!(w == content(1));
            info
        });
        master.wait_until("the transfer", |s| s.groups[0].activity.contains("waiting for peers"));
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(killed);
        (first.join().unwrap(), receiving.join().unwrap())
    });
    assert_eq!(receiving.recoveries, 1);
    assert!(receiving.received_bytes >= BYTES as u64, "{receiving:?}");
    assert!(holding.sent_bytes >= BYTES as u64 / 2 && holding.received_bytes == 0, "{holding:?}");
    let peers = [holder, receiver];
    assert_eq!(peers[0].membership().world_size, 2);
    let infos = together(&peers, |_, comm| sync(comm, &mut content(1), 2).unwrap());
    assert!(infos.iter().all(|i| i.sent_bytes == 0));
}

#[test]
fn without_a_holder_nothing_changes_and_the_content_does_not_count() {
    let master = TestMaster::start();
    let killed = Process::start(&master, 2);
    master.wait_until("the child", |s| s.groups.iter().any(|g| g.peers.len() == 1));
    // The child is older, so its content wins.
    let comm = connect(master.addr);
    master.wait_until("its vote", |s| voters(s) == 1);
    killed.freeze();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let mut w = content(2);
            let e = sync(&comm, &mut w, 1).unwrap_err();
            assert!(w == content(2));
            e
        });
        master.wait_until("the transfer", |s| s.groups[0].activity.contains("waiting for peers"));
        drop(killed);
        let e = receiving.join().unwrap();
        assert!(matches!(e, SyncError::NoCandidate { why: NoCandidate::HoldersLost }), "{e}");
        assert_eq!(e.class(), Class::Reconfigure);
    });
    let e = sync(&comm, &mut content(2), 1).unwrap_err();
    assert!(matches!(e, SyncError::NoCandidate { why: NoCandidate::HoldersLost }), "{e}");
    // Nobody is left who knows better: as a new peer it may begin anew.
    comm.reconnect().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(sync(&comm, &mut content(2), 9).unwrap().revision, 9);
}
