//! Several masters on one store: whatever happens to them, the peers see a pause at most.

use std::time::Duration;

use pccl_master::{EtcdStore, PostgresStore, StateStore, StoreUrl, send_command};
use pccl_proto::message::{Command, Role};
use pccl_proto::record::{StoreReply, StoreRequest};
use rustix::process::Signal;

use crate::fleet::daemon::{Etcd, Postgres};
use crate::fleet::{Fleet, Setup, status, until};

/// Small enough for a test, large enough to be in the middle of it.
const STEPS: &str = "steps closed=1 tell=1 tag=1 bytes=1048576";

fn setup(database: Option<String>) -> Setup {
    Setup { store: true, standbys: 1, lease_ms: 1500, database, ..Setup::default() }
}

fn begin(setup: Setup) -> Fleet {
    let mut fleet = Fleet::of(4, setup);
    fleet.tell(STEPS);
    go_on(&mut fleet);
    fleet
}

/// All do some more steps; they do them together.
fn go_on(fleet: &mut Fleet) {
    // What has been said until now is old.
    for peer in &mut fleet.peers {
        peer.news().unwrap();
    }
    for peer in &mut fleet.peers {
        for _ in 0..3 {
            peer.event("step");
        }
    }
}

/// All have done all steps, with the same results; `members` took part in each.
fn end(mut fleet: Fleet, members: u64) {
    fleet.peers[0].send("stop");
    let replies: Vec<_> = fleet.peers.iter_mut().map(|peer| peer.reply().ok()).collect();
    fleet.peers[0].forgive();
    for reply in &replies {
        assert_eq!(reply.number("steps"), replies[0].number("steps"), "{replies:?}");
        assert_eq!(reply.number("common") & members, members, "{replies:?}");
        assert_eq!(reply.number("world"), u64::from(members.count_ones()), "{replies:?}");
    }
}

fn postgres() -> Postgres {
    let server = Postgres::begin(&[]);
    let mut store = PostgresStore::new(&StoreUrl::new(server.url())).unwrap();
    until("PostgreSQL", || answers(&mut store));
    server
}

fn etcd() -> Etcd {
    let server = Etcd::begin();
    let mut store = EtcdStore::new(&StoreUrl::new(server.url())).unwrap();
    until("etcd", || answers(&mut store));
    server
}

fn answers(store: &mut dyn StateStore) -> bool {
    matches!(store.execute(&StoreRequest::Read { id: 1 }), StoreReply::Record { .. })
}

/// The active master dies, and the one after it.
fn killed(setup: Setup) {
    let mut fleet = begin(setup);
    for _ in 0..2 {
        fleet.master.kill();
        fleet.succession();
        go_on(&mut fleet);
        let (_, at) = fleet.others.remove(0);
        fleet.stand_by(at);
    }
    end(fleet, 0b1111);
}

/// The active master is frozen for longer than its lease, and wakes up.
fn frozen(setup: Setup) {
    let mut fleet = begin(setup);
    fleet.master.freeze();
    fleet.succession();
    go_on(&mut fleet);
    let (old, at) = &fleet.others[0];
    old.thaw();
    until("a standby", || status(*at).is_some_and(|status| status.role == Role::Standby));
    assert_eq!(status(fleet.addr).unwrap().role, Role::Active);
    go_on(&mut fleet);
    end(fleet, 0b1111);
}

/// One is told to give way, the other to lead, and the first one to end.
fn handed_over(setup: Setup) {
    let mut fleet = begin(setup);
    let term = status(fleet.addr).unwrap().term;
    send_command(fleet.addr, Command::StepDown, Duration::from_secs(5), None).unwrap().unwrap();
    fleet.succession();
    go_on(&mut fleet);
    send_command(fleet.others[0].1, Command::Promote, Duration::from_secs(5), None).unwrap().unwrap();
    fleet.succession();
    go_on(&mut fleet);
    fleet.master.ask("stop").ok();
    fleet.succession();
    go_on(&mut fleet);
    assert_eq!(status(fleet.addr).unwrap().term, term + 3, "nobody else has led");
    end(fleet, 0b1111);
}

#[test]
fn masters_on_one_file() {
    killed(setup(None));
    frozen(setup(None));
    handed_over(setup(None));
}

#[test]
fn masters_on_postgres() {
    let server = postgres();
    killed(setup(Some(server.url())));
    store_away(&server);
}

#[test]
fn masters_on_etcd() {
    let server = etcd();
    killed(setup(Some(server.url())));
    frozen(setup(Some(server.url())));
    handed_over(setup(Some(server.url())));
}

#[test]
fn a_lone_master_that_is_started_again() {
    let mut fleet = begin(Setup { standbys: 0, ..setup(None) });
    for _ in 0..2 {
        fleet.restart_master();
        go_on(&mut fleet);
    }
    end(fleet, 0b1111);
}

#[test]
fn master_and_peer_die_together() {
    let mut fleet = begin(setup(None));
    fleet.master.strike();
    fleet.peers[3].strike();
    drop(fleet.take(3));
    fleet.succession();
    go_on(&mut fleet);
    end(fleet, 0b0111);
}

/// Without the store ops go on, and the loss of a peer waits until it is back.
fn store_away(server: &Postgres) {
    let mut fleet = begin(setup(Some(server.url())));
    server.running.signal(Signal::STOP);
    until("the lease to end", || status(fleet.addr).is_some_and(|status| status.role == Role::Unleased));
    let trouble = status(fleet.addr).unwrap().store_trouble;
    assert!(trouble.is_some(), "the status names the store");
    assert!(fleet.master.log().contains("the store did not answer as it should"), "the log names the store");
    go_on(&mut fleet);
    let epoch = status(fleet.addr).unwrap().groups[0].epoch;
    fleet.peers[3].kill();
    drop(fleet.take(3));
    // The loss is known, and nothing is decided.
    until("a silent member", || {
        let status = status(fleet.addr).unwrap();
        status.groups[0].peers.iter().any(|peer| peer.state == "member, not attached")
    });
    assert_eq!(status(fleet.addr).unwrap().groups[0].epoch, epoch);
    server.running.signal(Signal::CONT);
    go_on(&mut fleet);
    // Whoever was the first to reach the store.
    let decided = |addr| status(addr).is_some_and(|s| s.groups.first().is_some_and(|g| g.epoch > epoch));
    until("the loss to be decided", || decided(fleet.addr) || decided(fleet.others[0].1));
    end(fleet, 0b0111);
}
