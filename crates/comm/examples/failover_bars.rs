//! The bars of failover, measured: `cargo run --release -p pccl --example failover_bars -- [file postgres etcd handover lone
//! together away] [--trials 20]`. Real processes on this machine, 64 MiB all-reduces of four peers; every result is checked
//! element by element. A pause is the longest op less the middle one.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a measurement, not a library")]

#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/faults/fleet/mod.rs"]
mod fleet;

use std::time::{Duration, Instant};

use fleet::daemon::{Etcd, Postgres};
use fleet::{Fleet, Setup, status, until};
use pccl_master::{EtcdStore, PostgresStore, StateStore, StoreUrl, send_command};
use pccl_proto::ids::Seeded;
use pccl_proto::message::{Command, Role};
use pccl_proto::record::{StoreReply, StoreRequest};
use rustix::process::Signal;

const STEPS: &str = "steps closed=1 tell=1 tag=1 bytes=67108864";
/// Ops before anything happens, and after it.
const QUIET: usize = 8;

fn main() {
    fleet::play_role();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let trials = args.iter().position(|a| a == "--trials").and_then(|i| args.get(i + 1)?.parse().ok());
    let trials: u32 = trials.unwrap_or(20);
    let all = !args.iter().any(|a| a.chars().all(char::is_alphabetic));
    let wanted = |name: &str| all || args.iter().any(|a| a == name);
    if wanted("file") {
        takeovers("a file", trials, None);
    }
    if wanted("postgres") {
        let server = postgres();
        takeovers("PostgreSQL", trials, Some(&server.url()));
    }
    if wanted("etcd") {
        let server = etcd();
        takeovers("etcd", trials, Some(&server.url()));
    }
    if wanted("handover") {
        let server = postgres();
        handovers(trials, &server.url());
    }
    if wanted("lone") {
        lone(trials);
    }
    if wanted("together") {
        together(trials);
    }
    if wanted("away") {
        away(Duration::from_secs(30));
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

/// What users have if they set nothing.
fn setup(database: Option<String>, lease_ms: u32, standbys: u32) -> Setup {
    Setup { heartbeat_timeout_ms: 500, store: true, database, lease_ms, standbys, ..Setup::default() }
}

/// Waits for so many ops of every peer.
fn ops(fleet: &mut Fleet, n: usize) {
    for peer in &mut fleet.peers {
        peer.news().unwrap();
    }
    for peer in &mut fleet.peers {
        for _ in 0..n {
            peer.event("step");
        }
    }
}

/// Has the peers reduce while `happens` happens; the pause and the usual time of an op, milliseconds.
fn pause(fleet: &mut Fleet, members: u64, happens: impl FnOnce(&mut Fleet)) -> (f64, f64) {
    fleet.tell(STEPS);
    ops(fleet, QUIET);
    happens(fleet);
    ops(fleet, QUIET);
    fleet.peers[0].send("stop");
    let replies: Vec<_> = fleet.peers.iter_mut().map(|peer| peer.reply().ok()).collect();
    // "stop" is not answered by itself.
    fleet.peers[0].forgive();
    for reply in &replies {
        assert_eq!(reply.number("common") & members, members, "{reply:?}");
    }
    let middle = replies.iter().map(|r| r.number("middle")).max().unwrap();
    let longest = replies.iter().map(|r| r.number("longest")).max().unwrap();
    ((longest - middle.min(longest)) as f64 / 1000.0, middle as f64 / 1000.0)
}

/// Some pauses against a bar.
fn say(what: &str, pauses: &[(f64, f64)], bar_ms: f64) {
    let mut sorted: Vec<f64> = pauses.iter().map(|(pause, _)| *pause).collect();
    let mut usual: Vec<f64> = pauses.iter().map(|(_, usual)| *usual).collect();
    sorted.sort_by(f64::total_cmp);
    usual.sort_by(f64::total_cmp);
    let (middle, worst) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    println!(
        "{what}: pause {middle:.0} ms (worst {worst:.0}, {} trials, usual op {:.0} ms) of {bar_ms:.0} allowed: {}",
        sorted.len(),
        usual[usual.len() / 2],
        if middle <= bar_ms { "ok" } else { "MISSED" }
    );
}

/// A moment of an op by chance.
fn some_time(random: &mut Seeded) {
    std::thread::sleep(Duration::from_micros(random.below(300_000)));
}

/// The active master is killed, and the other one takes over.
fn takeovers(name: &str, trials: u32, database: Option<&str>) {
    for (lease_ms, bar_ms) in [(1500, 2000.0), (600, 1000.0)] {
        let mut random = Seeded::new(7);
        let mut fleet = Fleet::of(4, setup(database.map(str::to_owned), lease_ms, 1));
        pause(&mut fleet, 0b1111, |_| {});
        let quiet = pause(&mut fleet, 0b1111, |_| {}).0;
        let pauses: Vec<_> = (0..trials)
            .map(|_| {
                let pause = pause(&mut fleet, 0b1111, |fleet| {
                    some_time(&mut random);
                    fleet.master.kill();
                    fleet.succession();
                });
                let (_, at) = fleet.others.remove(0);
                fleet.stand_by(at);
                pause
            })
            .collect();
        let what = format!("kill -9 of the active of two masters on {name}, lease {lease_ms} ms");
        say(&what, &pauses, bar_ms);
        println!("  without any strike: {quiet:.0} ms");
    }
}

/// By every way to give way.
fn handovers(trials: u32, url: &str) {
    for lease_ms in [1500, 600] {
        for how in ["step-down", "promote", "SIGTERM"] {
            let mut fleet = Fleet::of(4, setup(Some(url.to_owned()), lease_ms, 1));
            pause(&mut fleet, 0b1111, |_| {});
            let pauses: Vec<_> = (0..trials)
                .map(|_| {
                    let pause = pause(&mut fleet, 0b1111, |fleet| {
                        hand_over(fleet, how);
                        fleet.succession();
                    });
                    if how == "SIGTERM" {
                        let (mut old, at) = fleet.others.remove(0);
                        old.kill();
                        fleet.stand_by(at);
                    }
                    pause
                })
                .collect();
            say(&format!("planned handover by {how} on PostgreSQL, lease {lease_ms} ms"), &pauses, 100.0);
        }
    }
}

fn hand_over(fleet: &mut Fleet, how: &str) {
    let (addr, command) = match how {
        "step-down" => (fleet.addr, Command::StepDown),
        "promote" => (fleet.others[0].1, Command::Promote),
        _ => {
            fleet.master.ask("stop").ok();
            return;
        }
    };
    send_command(addr, command, Duration::from_secs(5), None).unwrap().unwrap();
}

/// A lone master that a supervisor starts again at once.
fn lone(trials: u32) {
    let mut random = Seeded::new(7);
    let mut fleet = Fleet::of(4, setup(None, 1500, 0));
    pause(&mut fleet, 0b1111, |_| {});
    let mut restarts = Vec::new();
    let pauses: Vec<_> = (0..trials)
        .map(|_| {
            pause(&mut fleet, 0b1111, |fleet| {
                some_time(&mut random);
                let begun = Instant::now();
                fleet.restart_master();
                restarts.push(begun.elapsed().as_secs_f64() * 1000.0);
            })
        })
        .collect();
    restarts.sort_by(f64::total_cmp);
    let restart = restarts[restarts.len() / 2];
    say(&format!("kill -9 and restart ({restart:.0} ms) of a lone master"), &pauses, restart + 500.0);
}

/// Master and peer, and for comparison the peer alone.
fn together(trials: u32) {
    for both in [false, true] {
        let mut random = Seeded::new(7);
        let pauses: Vec<_> = (0..trials)
            .map(|_| {
                let mut fleet = Fleet::of(4, setup(None, 1500, 1));
                pause(&mut fleet, 0b0111, |fleet| {
                    some_time(&mut random);
                    if both {
                        fleet.master.strike();
                    }
                    fleet.peers[3].strike();
                    drop(fleet.take(3));
                    if both {
                        fleet.succession();
                    }
                })
            })
            .collect();
        let what = if both { "master and one peer killed together" } else { "one peer killed alone" };
        // The takeover, and then a whole heartbeat timeout for everybody.
        say(what, &pauses, if both { 2000.0 + 500.0 } else { 500.0 });
    }
}

/// The store does not answer for a while.
fn away(time: Duration) {
    let server = postgres();
    let mut fleet = Fleet::of(4, setup(Some(server.url()), 1500, 1));
    fleet.tell(STEPS);
    ops(&mut fleet, QUIET);
    let begun = Instant::now();
    server.running.signal(Signal::STOP);
    until("the status to name the store", || {
        status(fleet.addr).is_some_and(|status| status.store_trouble.is_some())
    });
    let in_status = begun.elapsed();
    let named = "the store did not answer as it should";
    until("the log to name the store", || fleet.master.log().contains(named));
    let in_log = begun.elapsed();
    until("the lease to end", || status(fleet.addr).is_some_and(|status| status.role == Role::Unleased));
    let mut done = 0;
    while begun.elapsed() < time / 2 {
        ops(&mut fleet, 1);
        done += 1;
    }
    fleet.peers[3].strike();
    drop(fleet.take(3));
    std::thread::sleep(time.saturating_sub(begun.elapsed()));
    let epoch = status(fleet.addr).unwrap().groups[0].epoch;
    let back = Instant::now();
    server.running.signal(Signal::CONT);
    ops(&mut fleet, 1);
    let again = back.elapsed();
    assert!(status(fleet.addr).is_some_and(|status| status.groups[0].epoch > epoch));
    println!(
        "the store away for {} s: in the status after {} ms, in the log after {} ms; {done} ops without it; the loss of \
         a peer waited, and ops went on {} ms after the store was back",
        time.as_secs(),
        in_status.as_millis(),
        in_log.as_millis(),
        again.as_millis()
    );
}
