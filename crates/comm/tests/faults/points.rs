//! Peer and master killed at every point of an op's life and of an epoch change.

use crate::fleet::{Fleet, Reply, Setup};

const BYTES: usize = 1 << 20;

fn reduce(place: &str) -> String {
    format!("reduce tag=1 bytes={BYTES} place={place}")
}

/// The fleet works, and its results are right.
fn still_works(fleet: &mut Fleet, mask: u64) {
    // An op that committed with the lost peer's promise leaves its loss to be noticed by the next one.
    for (place, most) in [("in", 1), ("out", 0)] {
        fleet.tell(&reduce(place));
        let reply = fleet.agree();
        assert_eq!(reply.number("mask"), mask, "{reply:?}");
        assert!(reply.number("recoveries") <= most, "{reply:?}");
    }
}

/// Those who are left have one result, with the lost peer or without it.
fn fair(reply: &Reply, survivors: u64, lost: u64) {
    let (mask, recoveries) = (reply.number("mask"), reply.number("recoveries"));
    let with = mask == survivors | lost && recoveries == 0;
    // A slow survivor may have called only when the others were alone already.
    assert!(with || mask == survivors, "{reply:?}");
}

#[test]
fn a_peer_killed_at_every_point_of_an_op() {
    for (n, point) in
        ["started", "first_frame", "mid_transfer", "complete", "promised", "verdict"].into_iter().enumerate()
    {
        let place = ["in", "out"][n % 2];
        eprintln!("{point}, {place}");
        let mut fleet = Fleet::of(3, Setup::default());
        fleet.peers[2].ask(&format!("arm fault={point}:1:kill")).ok();
        fleet.tell(&reduce(place));
        fleet.peers[2].gone();
        fleet.take(2);
        let reply = fleet.agree();
        fair(&reply, 0b11, 0b100);
        // What it has not sent is in nobody's result, and what it has heard committed is.
        match point {
            "started" | "first_frame" | "mid_transfer" => assert_eq!(reply.get("world"), "2"),
            "verdict" => assert_eq!(reply.get("world"), "3"),
            _ => {}
        }
        still_works(&mut fleet, 0b11);
    }
}

#[test]
fn a_peer_killed_at_every_point_of_an_epoch_change() {
    for (n, point) in ["prepared", "reported", "entered"].into_iter().enumerate() {
        let place = ["out", "in"][n % 2];
        eprintln!("{point}, {place}");
        let mut fleet = Fleet::of(4, Setup::default());
        fleet.peers[2].ask(&format!("arm fault={point}:1:kill")).ok();
        fleet.peers[3].ask("arm fault=mid_transfer:1:kill").ok();
        fleet.tell(&reduce(place));
        for peer in &mut fleet.peers[2..] {
            peer.gone();
        }
        fleet.peers.truncate(2);
        fair(&fleet.agree(), 0b11, 0);
        still_works(&mut fleet, 0b11);
    }
}

#[test]
fn a_master_killed_at_every_point_of_an_op() {
    for (n, point) in
        ["done_received:1", "done_received:2", "all_promised:1", "committed_some:1"].into_iter().enumerate()
    {
        let place = ["in", "out"][n % 2];
        eprintln!("{point}, {place}");
        let mut fleet = Fleet::of(3, Setup { store: true, ..Setup::default() });
        fleet.master.ask(&format!("arm {point}:kill")).ok();
        fleet.tell(&reduce(place));
        fleet.master.gone();
        fleet.restart_master();
        let reply = fleet.agree();
        assert_eq!((reply.number("mask"), reply.number("recoveries")), (0b111, 0), "{reply:?}");
        still_works(&mut fleet, 0b111);
    }
}

#[test]
fn a_master_killed_at_every_point_of_an_epoch_change() {
    for (n, point) in ["collecting", "decided", "written", "told_some"].into_iter().enumerate() {
        let place = ["in", "out"][n % 2];
        eprintln!("{point}, {place}");
        let mut fleet = Fleet::of(4, Setup { store: true, ..Setup::default() });
        fleet.master.ask(&format!("arm {point}:1:kill")).ok();
        fleet.peers[3].ask("arm fault=mid_transfer:1:kill").ok();
        fleet.tell(&reduce(place));
        fleet.peers[3].gone();
        fleet.master.gone();
        fleet.take(3);
        fleet.restart_master();
        fair(&fleet.agree(), 0b111, 0);
        still_works(&mut fleet, 0b111);
    }
}

#[test]
fn peer_and_master_killed_together() {
    for (point, master) in
        [("promised", "done_received:1"), ("reported", "written:1"), ("entered", "told_some:1")]
    {
        eprintln!("{point}, {master}");
        let mut fleet = Fleet::of(4, Setup { store: true, ..Setup::default() });
        fleet.master.ask(&format!("arm {master}:kill")).ok();
        fleet.peers[2].ask(&format!("arm fault={point}:1:kill")).ok();
        let both = point == "promised";
        if !both {
            fleet.peers[3].ask("arm fault=mid_transfer:1:kill").ok();
        }
        fleet.tell(&reduce("in"));
        fleet.master.gone();
        fleet.restart_master();
        fleet.peers[2].gone();
        let mut lost = 0;
        if !both {
            fleet.peers[3].gone();
            lost = 0b1000;
            fleet.take(3);
        }
        fleet.take(2);
        let survivors = 0b1111 & !lost & !0b100;
        fair(&fleet.agree(), survivors, 0b100);
        still_works(&mut fleet, survivors);
    }
}

#[test]
fn connections_dropped_at_every_point_of_an_op_cost_no_recovery() {
    for point in ["started", "first_frame", "mid_transfer", "complete", "promised"] {
        eprintln!("{point}");
        let mut fleet = Fleet::of(3, Setup::default());
        fleet.peers[1].ask(&format!("arm fault={point}:1:cut")).ok();
        fleet.tell(&reduce("in"));
        let reply = fleet.agree();
        assert_eq!((reply.number("mask"), reply.number("recoveries")), (0b111, 0), "{reply:?}");
        still_works(&mut fleet, 0b111);
    }
}
