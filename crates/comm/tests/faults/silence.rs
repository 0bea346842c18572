//! Processes that are stopped, and networks that lose packets without a word.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::fleet::{Fleet, Reply, Setup, namespace};

const REDUCE: &str = "reduce tag=1 bytes=1048576 place=in";
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether this machine has no namespaces for us; says why.
fn skip() -> bool {
    let why = namespace::unavailable();
    if let Some(why) = &why {
        eprintln!("skipped: {why}");
    }
    why.is_some()
}

/// A fleet of four in a network of its own, numbered from 1; the master is 0.
fn four() -> Fleet {
    Fleet::of(4, Setup { namespace: true, ..Setup::default() })
}

/// What a peer says that was out of the fleet without knowing it.
fn was_expelled(reply: Reply) -> Reply {
    let reply = reply.error();
    assert_eq!((reply.get("class"), reply.get("restored")), ("Reconfigure", "true"), "{reply:?}");
    assert!(reply.text.contains("expelled"), "{reply:?}");
    reply
}

/// Brings the last peer into the middle of an op and holds it there.
fn hold_the_last_in_the_middle(fleet: &mut Fleet) {
    let last = fleet.peers.len() - 1;
    fleet.peers[last].ask("arm fault=mid_transfer:1:stop").ok();
    fleet.tell(REDUCE);
    fleet.peers[last].stands_still();
}

/// The peer that was out comes in again.
fn comes_back(fleet: &mut Fleet, mut lost: crate::fleet::Process) {
    fleet.tell("world n=4");
    lost.ask("reconnect").ok();
    for reply in fleet.replies() {
        reply.ok();
    }
    fleet.peers.push(lost);
    fleet.tell(REDUCE);
    let reply = fleet.agree();
    assert_eq!((reply.number("mask"), reply.number("recoveries")), (0b1111, 0), "{reply:?}");
}

#[test]
fn a_frozen_peer_is_left_behind_and_learns_it_when_it_thaws() {
    let mut fleet = Fleet::of(4, Setup::default());
    hold_the_last_in_the_middle(&mut fleet);
    let mut frozen = fleet.take(3);
    let reply = fleet.agree();
    assert_eq!((reply.number("mask"), reply.number("recoveries")), (0b111, 1), "{reply:?}");
    assert!(Duration::from_micros(reply.number("us")) > Duration::from_secs(4), "too early: {reply:?}");
    frozen.thaw();
    was_expelled(frozen.reply());
    comes_back(&mut fleet, frozen);
}

#[test]
fn a_peer_behind_a_silent_partition_is_left_behind_and_learns_it_when_it_heals() {
    if skip() {
        return;
    }
    let mut fleet = four();
    hold_the_last_in_the_middle(&mut fleet);
    let net = fleet.namespace.as_mut().unwrap();
    for other in 0..4 {
        net.cut(4, other);
    }
    let mut lost = fleet.take(3);
    lost.thaw();
    let reply = fleet.agree();
    assert_eq!((reply.number("mask"), reply.number("recoveries")), (0b111, 1), "{reply:?}");
    fleet.namespace.as_mut().unwrap().heal();
    was_expelled(lost.reply());
    comes_back(&mut fleet, lost);
}

#[test]
fn a_process_that_ends_behind_a_partition_leaves_half_open_connections() {
    if skip() {
        return;
    }
    let mut fleet = four();
    hold_the_last_in_the_middle(&mut fleet);
    let net = fleet.namespace.as_mut().unwrap();
    for other in 0..4 {
        net.cut(4, other);
    }
    // Nobody hears of it: what would tell is lost.
    fleet.take(3).kill();
    let reply = fleet.agree();
    assert_eq!((reply.number("mask"), reply.number("recoveries")), (0b111, 1), "{reply:?}");
}

#[test]
fn two_members_that_cannot_reach_each_other_cost_the_younger_one() {
    if skip() {
        return;
    }
    let mut fleet = four();
    hold_the_last_in_the_middle(&mut fleet);
    fleet.namespace.as_mut().unwrap().cut(4, 3);
    fleet.peers[3].thaw();
    let replies = fleet.replies();
    let expelled: Vec<&Reply> = replies.iter().filter(|r| !r.ok).collect();
    assert_eq!(expelled.len(), 1, "{replies:?}");
    let reply = was_expelled(expelled[0].clone());
    assert!(reply.text.contains("cannot reach each other"), "the reason names the link: {reply:?}");
    // What the expelled one contributed may have reached all who stay: then the op commits with it, for all of them.
    let survivors = replies.iter().filter(|r| r.ok);
    let outcomes: BTreeSet<_> = survivors.map(|r| (r.number("world"), r.number("recoveries"))).collect();
    assert!(outcomes == [(3, 1)].into() || outcomes == [(4, 0)].into(), "{replies:?}");
}

#[test]
fn without_datagrams_nobody_is_lost() {
    if skip() {
        return;
    }
    let mut fleet = four();
    fleet.namespace.as_mut().unwrap().lose("ipproto udp");
    let begun = Instant::now();
    let mut round = 0;
    // Under load, and idle for as long as silence would take to be noticed.
    while begun.elapsed() < Duration::from_secs(1) {
        fleet.tell(&format!("{REDUCE} round={round}"));
        fleet.agree();
        round += 1;
    }
    std::thread::sleep(TIMEOUT + Duration::from_millis(500));
    fleet.tell(REDUCE);
    let reply = fleet.agree();
    assert_eq!((reply.number("mask"), reply.number("recoveries")), (0b1111, 0), "{reply:?}");
    assert!(!fleet.master.log().contains("is out"), "{}", fleet.master.log());
}

#[test]
fn a_master_that_stands_still_expels_nobody() {
    let mut fleet = Fleet::of(3, Setup::default());
    fleet.tell("reduce tag=1 bytes=262144 place=in times=4");
    fleet.peers[0].event("begin");
    fleet.peers[0].event("begin");
    fleet.master.freeze();
    std::thread::sleep(3 * TIMEOUT);
    fleet.master.thaw();
    let reply = fleet.agree();
    assert_eq!((reply.number("mask"), reply.number("all_recoveries")), (0b111, 0), "{reply:?}");
    fleet.tell(REDUCE);
    assert_eq!(fleet.agree().number("recoveries"), 0);
    assert!(!fleet.master.log().contains("is out"), "{}", fleet.master.log());
}
