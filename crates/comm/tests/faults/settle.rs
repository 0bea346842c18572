//! The master is lost for good: what is in flight is settled among the peers.

use crate::fleet::{Fleet, Setup};

fn patient(store: bool) -> Setup {
    Setup { store, master_timeout_ms: 1500, ..Setup::default() }
}

/// The master dies at `point` of the first op, and does not come back.
fn without_master(point: &str, place: &str) -> Fleet {
    eprintln!("{point}, {place}");
    let mut fleet = Fleet::of(3, patient(true));
    fleet.master.ask(&format!("arm {point}:kill")).ok();
    fleet.tell(&format!("reduce tag=1 bytes=1048576 place={place}"));
    fleet.master.gone();
    fleet
}

/// Nothing begins any more, and the error says what to do.
fn nothing_begins(fleet: &mut Fleet) {
    fleet.tell("reduce tag=2 bytes=4096 place=in");
    for reply in fleet.replies() {
        let reply = reply.error();
        assert_eq!((reply.get("class"), reply.get("restored")), ("Reconfigure", "true"), "{reply:?}");
        assert!(reply.text.contains("no master could be reached"), "{reply:?}");
    }
}

#[test]
fn what_is_complete_everywhere_succeeds_without_a_master() {
    for (point, place) in [("all_promised:1", "in"), ("committed_some:1", "out"), ("done_received:2", "in")] {
        let mut fleet = without_master(point, place);
        let reply = fleet.agree();
        assert_eq!((reply.number("mask"), reply.number("world")), (0b111, 3), "{reply:?}");
        nothing_begins(&mut fleet);
    }
}

#[test]
fn the_settled_connect_again_and_go_on() {
    let mut fleet = without_master("all_promised:1", "in");
    assert_eq!(fleet.agree().number("mask"), 0b111);
    nothing_begins(&mut fleet);
    fleet.restart_master();
    fleet.tell("reconnect");
    for reply in fleet.replies() {
        reply.ok();
    }
    fleet.meet();
    fleet.tell("reduce tag=1 bytes=1048576 place=out");
    assert_eq!(fleet.agree().number("mask"), 0b111);
}

#[test]
fn who_cannot_ask_a_dead_member_restores() {
    for (place, point) in [("in", "complete"), ("out", "complete"), ("in", "mid_transfer")] {
        eprintln!("{point}, {place}");
        let mut fleet = Fleet::of(3, patient(false));
        fleet.peers[2].ask(&format!("arm fault={point}:1:stop")).ok();
        fleet.tell(&format!("reduce tag=1 bytes=1048576 place={place}"));
        // It has not promised, so nobody has heard a verdict.
        fleet.peers[2].stands_still();
        fleet.master.kill();
        fleet.take(2).kill();
        for reply in fleet.replies() {
            let reply = reply.error();
            assert_eq!((reply.get("class"), reply.get("restored")), ("Reconfigure", "true"), "{reply:?}");
        }
    }
}

#[test]
fn an_op_that_was_not_called_everywhere_is_restored() {
    let mut fleet = Fleet::of(3, patient(false));
    let call = "reduce tag=1 bytes=65536 place=in";
    for peer in &mut fleet.peers[..2] {
        peer.send(call);
        peer.event("begin");
    }
    fleet.master.kill();
    for peer in &mut fleet.peers[..2] {
        let reply = peer.reply().error();
        assert_eq!((reply.get("class"), reply.get("restored")), ("Reconfigure", "true"), "{reply:?}");
    }
    fleet.peers[2].ask(call).error();
}
