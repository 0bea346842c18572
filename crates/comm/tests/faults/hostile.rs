//! Strangers who mean no good, at the ports of peers and of the master, while ops run.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use pccl_proto::ids::Seeded;
use pccl_proto::wire::{Kind, Prefix};

use crate::fleet::{Fleet, Setup, until};

/// By hand: `PCCL_TEST_HOSTILE=10000`.
fn connections() -> usize {
    std::env::var("PCCL_TEST_HOSTILE").ok().and_then(|n| n.parse().ok()).unwrap_or(1500)
}

/// One connection's worth of malice; the connection itself, if its owner means to stay.
fn attack(addr: SocketAddr, kind: u64, random: &mut Seeded) -> Option<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(10)).ok()?;
    let noise =
        |random: &mut Seeded, n: u64| -> Vec<u8> { (0..n).map(|_| random.next_u64() as u8).collect() };
    let prefix = |kind, len| Prefix { kind, len }.encode().to_vec();
    let bytes = match kind {
        0 => {
            let n = 1 + random.below(5000);
            noise(random, n)
        }
        1 => prefix(Kind::Control, u32::MAX as usize),
        2 => prefix(Kind::Data, random.next_u64() as u32 as usize),
        // A frame that is as long as it may be, and is never finished.
        3 => [prefix(Kind::Control, 4000), noise(random, 1000)].concat(),
        // A whole frame of nonsense.
        4 => [prefix(Kind::Control, 200), noise(random, 200)].concat(),
        // Half a prefix.
        5 => prefix(Kind::Control, 100)[..3].to_vec(),
        // Not a word.
        _ => Vec::new(),
    };
    // It may be closed before everything is said.
    let _ = stream.write_all(&bytes);
    (kind >= 3).then_some(stream)
}

/// Keeps some connections open, and drips into them.
fn besiege(addr: SocketAddr, count: usize, seed: u64) {
    let mut random = Seeded::new(seed);
    let mut open: Vec<TcpStream> = Vec::new();
    for _ in 0..count {
        let kind = random.below(7);
        open.extend(attack(addr, kind, &mut random));
        if open.len() > 400 {
            open.remove(0);
        }
        let drips = open.len().min(3);
        for stream in &mut open[..drips] {
            let _ = stream.write_all(&[0]);
        }
    }
}

#[test]
fn hostile_connections_change_nothing() {
    let mut fleet = Fleet::of(3, Setup::default());
    fleet.tell("reduce tag=1 bytes=262144 place=in");
    fleet.agree();
    let targets = [fleet.peers[0].addr.unwrap(), fleet.peers[2].addr.unwrap(), fleet.addr];
    let before: Vec<(u64, u64)> = fleet.peers.iter().map(|p| (p.rss_kib(), p.fds())).collect();
    let master_before = (fleet.master.rss_kib(), fleet.master.fds());
    let siege: Vec<_> = (1..)
        .zip(targets)
        .map(|(seed, addr)| std::thread::spawn(move || besiege(addr, connections(), seed)))
        .collect();
    let mut ops = 0;
    while ops < 10 || siege.iter().any(|s| !s.is_finished()) {
        fleet.tell(&format!("reduce tag=1 bytes=262144 place=in round={ops}"));
        let reply = fleet.agree();
        assert_eq!((reply.number("mask"), reply.number("recoveries")), (0b111, 0), "{reply:?}");
        ops += 1;
        for (peer, (rss, fds)) in fleet.peers.iter().zip(&before) {
            bounded(&peer.name, (peer.rss_kib(), peer.fds()), (*rss, *fds));
        }
        bounded("master", (fleet.master.rss_kib(), fleet.master.fds()), master_before);
    }
    eprintln!("{ops} ops during the siege");
    for thread in siege {
        thread.join().unwrap();
    }
    assert!(fleet.peers.iter().all(|p| p.threads() <= 4), "strangers are no reason for threads");
    for (peer, (_, fds)) in fleet.peers.iter().zip(&before) {
        until("strangers to be shown the door", || peer.fds() <= fds + 8);
    }
}

/// Strangers cost at most some hundred descriptors (256 that are heard, those that the besiegers hold, and on a busy machine
/// those whose end nobody has had time to look at), and a few KiB each.
fn bounded(who: &str, (rss, fds): (u64, u64), (rss_before, fds_before): (u64, u64)) {
    assert!(fds <= fds_before + 800, "{who}: {fds} open files, {fds_before} before");
    assert!(rss <= rss_before + (32 << 10), "{who}: {rss} KiB, {rss_before} before");
}
