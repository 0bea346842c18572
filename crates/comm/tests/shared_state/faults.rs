//! Shared state while processes are frozen and killed.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{TestMaster, connect, is_moving, members, registered, together, voters};
use pccl::{Class, Communicator, NoCandidate, SharedState, Strategy, SyncError, SyncInfo, Tensor};
use pccl_proto::message::Status;

const BLOCK: usize = 1 << 20;
const BYTES: usize = 48 * BLOCK + 5;

fn content(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    for (i, part) in bytes.chunks_mut(4099).enumerate() {
        part.fill(i as u8 ^ seed);
    }
    bytes
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

/// Not a test by itself: a child process that knows nothing, comes in by a synchronization and follows.
#[test]
fn follower() {
    let Ok(master) = std::env::var("PCCL_TEST_FOLLOWER_OF") else { return };
    let comm = connect(master.parse().unwrap());
    let (mut w, mut revision) = (vec![0; BYTES], 0);
    loop {
        let info = sync(&comm, &mut w, revision).unwrap();
        assert!(w == content(info.revision as u8), "revision {}", info.revision);
        revision = info.revision + 1;
        w = content(revision as u8);
    }
}

/// Not a test by itself: a child process with other content, that is cut off while it receives.
#[test]
fn cut_off() {
    let Ok(master) = std::env::var("PCCL_TEST_CUT_OFF_FROM") else { return };
    let comm = connect(master.parse().unwrap());
    grow(&comm, std::env::var("PCCL_TEST_WORLD").unwrap().parse().unwrap());
    let mut w = content(2);
    let e = sync(&comm, &mut w, 1).unwrap_err();
    assert!(w == content(2), "the tensor is as it was");
    assert_eq!(e.class(), Class::Reconfigure);
    assert!(e.to_string().contains("expelled"), "{e}");
    // As a new peer it gets what the others have by now.
    comm.reconnect().unwrap();
    assert_eq!(sync(&comm, &mut w, 1).unwrap().revision, 2);
    assert!(w == content(1));
}

struct Process(Child);

impl Process {
    /// A holder.
    fn start(master: &TestMaster, world: u32) -> Self {
        Self::run("faults::child", "PCCL_TEST_CHILD_OF", master, world)
    }

    fn follow(master: &TestMaster) -> Self {
        Self::run("faults::follower", "PCCL_TEST_FOLLOWER_OF", master, 0)
    }

    fn run(body: &str, variable: &str, master: &TestMaster, world: u32) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", body, "--nocapture"])
            .env(variable, master.addr.to_string())
            .env("PCCL_TEST_WORLD", world.to_string())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn thaw(&self) {
        let status = Command::new("kill").args(["-CONT", &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
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
    master.wait_until("the child", |s| registered(s) == 2);
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
        master.wait_until("the transfer", is_moving);
        std::thread::sleep(Duration::from_millis(100));
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
    master.wait_until("the child", |s| registered(s) == 1);
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
        master.wait_until("the transfer", is_moving);
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

#[test]
fn a_master_restarted_at_any_moment_changes_nothing() {
    const ROUNDS: u64 = 12;
    let mut master = TestMaster::start();
    let peers = members(&master, 3);
    let stop = AtomicBool::new(false);
    let recoveries = std::thread::scope(|scope| {
        let syncing = scope.spawn(|| {
            let mut recoveries = 0;
            for revision in 1..=ROUNDS {
                let results = together(&peers, |i, comm| {
                    let mut w = content(revision as u8);
                    if i as u64 == revision % 4 {
                        // Everything, or one block.
                        let wrong = if revision % 8 < 4 { BYTES } else { 9 };
                        w[..wrong].fill(0xee);
                    }
                    let info = sync(comm, &mut w, revision).unwrap();
                    assert!(w == content(revision as u8), "round {revision}, peer {i}");
                    info
                });
                assert!(results.iter().all(|i| i.revision == revision));
                recoveries += results.iter().map(|i| i.recoveries).sum::<u32>();
            }
            stop.store(true, Ordering::Relaxed);
            recoveries
        });
        let mut pause = 0;
        while !stop.load(Ordering::Relaxed) && !syncing.is_finished() {
            pause = (pause + 37) % 160;
            std::thread::sleep(Duration::from_millis(100 + pause));
            master = master.restart();
        }
        syncing.join().unwrap()
    });
    // How many it struck is a matter of luck; that it strikes at all is not.
    eprintln!("{recoveries} elections were repeated");
}

#[test]
fn newcomers_come_and_are_killed_at_any_moment() {
    let master = TestMaster::start();
    let peers = members(&master, 2);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| {
            let (mut revision, mut recoveries, mut joins) = (0, 0, 0);
            while !stop.load(Ordering::Relaxed) {
                revision += 1;
                let infos = together(&peers, |_, comm| {
                    let mut w = content(revision as u8);
                    let info = sync(comm, &mut w, revision).unwrap();
                    assert!(w == content(revision as u8) && info.changed.is_empty());
                    info
                });
                assert!(infos.iter().all(|i| i.revision == revision));
                recoveries += infos[0].recoveries;
                joins += u32::from(infos[0].joined);
            }
            (revision, recoveries, joins)
        });
        for strike in 0..8_u64 {
            let mut follower = Process::follow(&master);
            let is_in =
                |s: &Status| s.groups.iter().flat_map(|g| &g.peers).filter(|p| p.rank.is_some()).count() == 3;
            master.wait_until("a follower", is_in);
            if strike % 2 == 0 {
                // While it receives, if it is not too late for that.
                let revision = |s: &Status| s.groups.iter().map(|g| g.revision).max();
                let mut before = None;
                master.wait_until("a transfer", |s| {
                    is_moving(s) || revision(s) > *before.get_or_insert(revision(s))
                });
                std::thread::sleep(Duration::from_millis(strike * 7));
            } else {
                std::thread::sleep(Duration::from_millis(strike * 173 % 1201));
            }
            assert!(follower.0.try_wait().unwrap().is_none(), "a follower found something wrong");
            drop(follower);
            master.wait_until("the end of the follower", |s| registered(s) == 2);
        }
        stop.store(true, Ordering::Relaxed);
        let (revisions, recoveries, joins) = syncing.join().unwrap();
        eprintln!("{revisions} revisions, {joins} joins, {recoveries} recoveries");
        assert!(joins >= 8);
    });
}

#[test]
fn a_receiver_that_is_frozen_is_left_behind_with_its_tensors_as_they_were() {
    let master = TestMaster::start();
    let mut peers = members(&master, 2);
    let mut frozen = Process::run("faults::cut_off", "PCCL_TEST_CUT_OFF_FROM", &master, 3);
    master.wait_until("the child", |s| registered(s) == 3);
    together(&peers, |_, comm| grow(comm, 3));
    let last = peers.pop().unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| sync(&peers[0], &mut content(1), 1).unwrap());
        master.wait_until("two votes", |s| voters(s) == 2);
        frozen.freeze();
        // It receives at most what fits into the sockets.
        let second = sync(&last, &mut content(1), 1).unwrap();
        assert_eq!((second.revision, first.join().unwrap().revision), (1, 1));
    });
    peers.push(last);
    assert_eq!(peers[0].membership().world_size, 2);
    frozen.thaw();
    master.wait_until("the child again", |s| registered(s) == 3);
    let infos = together(&peers, |_, comm| sync(comm, &mut content(1), 2).unwrap());
    assert!(infos.iter().all(|i| i.joined));
    assert!(frozen.0.wait().unwrap().success());
}
