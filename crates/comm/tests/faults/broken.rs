//! Connections that break between peers that live: the op goes on where it was.

use crate::fleet::proxy::{Breaks, Proxy};
use crate::fleet::{Fleet, Setup};

fn behind_proxies(how: Breaks) -> (Fleet, Vec<Proxy>) {
    let mut fleet = Fleet::start(Setup::default());
    let proxies: Vec<Proxy> = (0..3).map(|_| fleet.spawn_behind(how)).collect();
    fleet.meet();
    (fleet, proxies)
}

/// Ops go on, with right results and no recovery, while connections break after at most `limit` bytes.
fn break_often(how: Breaks, limit: u64, times: u32, at_least: usize) {
    let (mut fleet, proxies) = behind_proxies(how);
    for proxy in &proxies {
        proxy.limit.store(limit, std::sync::atomic::Ordering::Relaxed);
    }
    for place in ["in", "out"] {
        fleet.tell(&format!("reduce tag=1 bytes=1048580 place={place} times={times}"));
        let reply = fleet.agree();
        assert_eq!((reply.number("mask"), reply.number("all_recoveries")), (0b111, 0), "{reply:?}");
    }
    let broken: usize = proxies.iter().map(Proxy::broken).sum();
    assert!(broken >= at_least, "only {broken} connections broke");
    eprintln!("{how:?}: {broken} connections broke");
    assert!(!fleet.master.log().contains("is out"), "{}", fleet.master.log());
}

#[test]
fn connections_that_are_cut_at_any_byte_are_made_again() {
    break_often(Breaks::Cut, 1_500_000, 8, 10);
}

#[test]
fn connections_that_are_closed_one_way_are_made_again() {
    break_often(Breaks::HalfClose, 1_500_000, 8, 10);
}

#[test]
fn connections_that_stall_are_made_again() {
    break_often(Breaks::Stall, 12_000_000, 2, 1);
}
