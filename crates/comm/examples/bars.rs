//! The bars of fault tolerance, measured: `cargo run --release -p pccl --example bars -- [kill freeze join crowd churn]
//! [--minutes 3]`. Real processes on this machine; every result is checked element by element.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a measurement, not a library")]

#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/faults/fleet/mod.rs"]
mod fleet;

use std::time::{Duration, Instant};

use fleet::peer::now_us;
use fleet::{Fleet, Setup};
use pccl_proto::ids::Seeded;

/// What users have if they set nothing.
const HEARTBEAT_TIMEOUT_MS: u32 = 500;

fn main() {
    fleet::play_role();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let minutes = args.iter().position(|a| a == "--minutes").and_then(|i| args.get(i + 1)?.parse().ok());
    let all = !args.iter().any(|a| a.chars().all(char::is_alphabetic));
    let wanted = |name: &str| all || args.iter().any(|a| a == name);
    if wanted("kill") {
        strike("kill -9", 100, fleet::Process::strike);
    }
    if wanted("freeze") {
        strike("SIGSTOP", u64::from(HEARTBEAT_TIMEOUT_MS) + 300, |peer| peer.freeze());
    }
    if wanted("join") {
        join();
    }
    if wanted("crowd") {
        crowd();
    }
    if wanted("churn") {
        churn(Duration::from_secs_f64(60.0 * minutes.unwrap_or(3.0)));
    }
}

fn setup() -> Setup {
    Setup { heartbeat_timeout_ms: HEARTBEAT_TIMEOUT_MS, ..Setup::default() }
}

fn median(values: &mut [u64]) -> f64 {
    values.sort_unstable();
    values[values.len() / 2] as f64 / 1000.0
}

fn verdict(ok: bool) -> &'static str {
    if ok { "ok" } else { "MISSED" }
}

/// One of four is struck in the middle of a 64 MiB op.
fn strike(name: &str, allowed_ms: u64, how: impl Fn(&mut fleet::Process)) {
    let command = format!("reduce tag=1 bytes={} place=out", 64 << 20);
    let mut random = Seeded::new(7);
    let mut fleet = Fleet::of(4, setup());
    let (mut undisturbed, mut took) = (Vec::new(), Vec::new());
    while took.len() < 20 {
        for _ in 0..2 {
            fleet.tell(&command);
            undisturbed.push(fleet.replies().into_iter().map(|r| r.ok().number("us")).max().unwrap());
        }
        let usual = (median(&mut undisturbed) * 1000.0) as u64;
        let victim = random.below(4) as usize;
        fleet.tell(&command);
        fleet.peers[victim].event("begin");
        std::thread::sleep(Duration::from_micros(usual / 10 + random.below(usual * 8 / 10)));
        let struck = now_us();
        how(&mut fleet.peers[victim]);
        let mut lost = fleet.take(victim);
        let replies = fleet.replies();
        lost.kill();
        let end = replies.iter().map(|r| r.clone().ok().number("at")).max().unwrap();
        if fleet::agree(replies).number("recoveries") > 0 {
            took.push(end - struck);
        }
        fleet.settle();
        fleet.spawn("");
        fleet.meet();
    }
    let (usual, took_ms, worst) = (median(&mut undisturbed), median(&mut took), *took.last().unwrap() / 1000);
    let extra = took_ms - usual;
    println!(
        "{name}: undisturbed {usual:.1} ms; from the strike to the last survivor's success {took_ms:.1} ms \
         (worst {worst} ms); {extra:+.1} ms of {allowed_ms} allowed: {}",
        verdict(extra <= allowed_ms as f64)
    );
}

/// A fifth peer comes in while four reduce 1 MiB.
fn join() {
    let mut took = Vec::new();
    for _ in 0..10 {
        let mut fleet = Fleet::of(4, setup());
        let steps = format!("steps tag=1 bytes={} pause_ms=1", 1 << 20);
        fleet.tell(&steps);
        for peer in &mut fleet.peers {
            peer.event("first");
        }
        let newcomer = fleet.spawn("");
        newcomer.send(&format!("{steps} newcomer=1"));
        let from: u64 = newcomer.event("connecting").parse().unwrap();
        let to: u64 = newcomer.event("first").parse().unwrap();
        took.push(to - from);
        fleet.peers[0].send("stop");
        for peer in &mut fleet.peers {
            while peer.owed() > usize::from(peer.id == 0) {
                peer.reply().ok();
            }
        }
    }
    let (middle, worst) = (median(&mut took), *took.last().unwrap() / 1000);
    println!(
        "join: from connect to the first right result {middle:.1} ms (worst {worst} ms) of 200 allowed: {}",
        verdict(middle <= 200.0)
    );
}

/// 64 peers on this machine.
fn crowd() {
    let world = 64;
    let begun = Instant::now();
    let mut fleet = Fleet::of(world, Setup { heartbeat_timeout_ms: 5000, ..Setup::default() });
    let took = begun.elapsed();
    let total: u32 = fleet.peers.iter().map(|p| 1 << p.id).sum();
    let mut times = Vec::new();
    for _ in 0..5 {
        fleet.tell(&format!("reduce tag=1 bytes={} place=out total={total}", 1 << 20));
        times.push(fleet.replies().into_iter().map(|r| r.ok().number("us")).max().unwrap());
    }
    let (rss, op) = (fleet.master.rss_kib() >> 10, median(&mut times));
    println!(
        "crowd: {world} processes started and connected in {:.2} s of 5 allowed: {}; 1 MiB in {op:.0} ms; \
         the master has {rss} MiB of 64 allowed: {}",
        took.as_secs_f64(),
        verdict(took <= Duration::from_secs(5)),
        verdict(rss <= 64)
    );
}

/// Peers are killed and started, and the others go on.
fn churn(time: Duration) {
    let setup = Setup { store: true, ..setup() };
    println!("churn: {}", fleet::churn::run(setup, time, 500..1000, 100));
}
