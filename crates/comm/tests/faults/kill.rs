//! Processes that end without a word.

use std::time::Duration;

use pccl_proto::ids::Seeded;

use crate::fleet::{Fleet, Setup, agree, churn};

/// The survivors took part, and nobody else but perhaps the lost one.
fn took_part(mask: u64, survivors: &[u32], lost: u32) {
    let all: u64 = survivors.iter().map(|id| 1u64 << id).sum();
    assert!(mask == all || mask == all | 1 << lost, "{mask:b}, survivors {all:b}, lost {lost}");
}

/// Kills one of four at a random moment of an op, again and again, until it was in the middle often enough.
fn kill_in_the_middle(place: &str, bytes: usize) {
    let mut random = Seeded::new(bytes as u64);
    let mut fleet = Fleet::of(4, Setup::default());
    let mut ids: Vec<u32> = vec![0, 1, 2, 3];
    fleet.tell(&format!("reduce tag=1 bytes={bytes} place={place}"));
    let undisturbed = fleet.agree().number("us");
    let mut hits = 0;
    for (round, next) in (4..16).enumerate() {
        let victim = random.below(4) as usize;
        fleet.tell(&format!("reduce tag=1 bytes={bytes} place={place} round={round}"));
        fleet.peers[victim].event("begin");
        // Not to wait for anything: a moment of the op by chance.
        std::thread::sleep(Duration::from_micros(random.below(undisturbed)));
        fleet.peers[victim].strike();
        let lost = ids.remove(victim);
        drop(fleet.take(victim));
        let reply = fleet.agree();
        took_part(reply.number("mask"), &ids, lost);
        if reply.number("recoveries") > 0 {
            assert_eq!(reply.number("world"), 3, "{reply:?}");
            hits += 1;
        }
        if hits == 3 {
            return;
        }
        fleet.settle();
        fleet.spawn("");
        ids.push(next);
        fleet.meet();
    }
    assert!(hits > 0, "never in the middle");
}

#[test]
fn one_of_four_is_killed_in_the_middle_of_an_op_out_of_place() {
    kill_in_the_middle("out", 2 << 20);
}

#[test]
fn one_of_four_is_killed_in_the_middle_of_an_op_in_place() {
    kill_in_the_middle("in", (1 << 20) + 4);
}

#[test]
fn two_of_four_are_killed_at_once_and_one_after_the_other() {
    let mut fleet = Fleet::of(4, Setup::default());
    for peer in &mut fleet.peers[2..] {
        peer.ask("arm fault=mid_transfer:1:kill").ok();
    }
    fleet.tell("reduce tag=1 bytes=2097152 place=in");
    for peer in &mut fleet.peers[2..] {
        peer.gone();
    }
    fleet.peers.truncate(2);
    let reply = fleet.agree();
    assert_eq!((reply.number("mask"), reply.number("world")), (0b11, 2), "{reply:?}");
    fleet.tell("reduce tag=1 bytes=2097152 place=in");
    assert_eq!(fleet.agree().number("recoveries"), 0);
}

#[test]
fn a_lone_survivor_goes_on_and_new_peers_join_it() {
    let mut fleet = Fleet::of(3, Setup::default());
    fleet.tell("reduce tag=1 bytes=1048576 place=in");
    fleet.agree();
    let mut lost = fleet.peers.split_off(1);
    fleet.tell("reduce tag=1 bytes=1048576 place=in");
    fleet.peers[0].event("begin");
    fleet.peers[0].event("begin");
    for peer in &mut lost {
        peer.kill();
    }
    let reply = fleet.agree();
    assert_eq!((reply.number("mask"), reply.number("world")), (1, 1), "{reply:?}");
    fleet.settle();
    fleet.spawn("");
    fleet.spawn("");
    fleet.meet();
    fleet.tell("reduce tag=1 bytes=1048576 place=out");
    assert_eq!(fleet.agree().number("mask"), 0b11001);
}

#[test]
fn a_master_that_is_killed_and_restarted_is_a_pause() {
    let mut fleet = Fleet::of(3, Setup { store: true, ..Setup::default() });
    for round in 0..3 {
        fleet.tell("reduce tag=1 bytes=262144 place=in times=12");
        for _ in 0..=round * 3 {
            fleet.peers[0].event("begin");
        }
        fleet.restart_master();
        let reply = fleet.agree();
        assert_eq!((reply.number("mask"), reply.number("all_recoveries")), (0b111, 0), "{reply:?}");
    }
    // The new master knows the members: it can end an epoch and begin one.
    fleet.take(0).kill();
    fleet.tell("reduce tag=1 bytes=1048576 place=in");
    assert_eq!(fleet.agree().number("mask"), 0b110);
}

#[test]
fn too_many_recoveries_are_an_error_with_the_input_restored() {
    let mut fleet = Fleet::of(3, Setup { max_recovery_attempts: 0, ..Setup::default() });
    fleet.peers[2].ask("arm fault=mid_transfer:1:kill").ok();
    fleet.tell("reduce tag=1 bytes=2097152 place=in");
    fleet.peers[2].gone();
    fleet.peers.truncate(2);
    for reply in fleet.replies() {
        let reply = reply.error();
        assert_eq!((reply.get("class"), reply.get("restored")), ("Retry", "true"), "{reply:?}");
    }
    fleet.tell("reduce tag=1 bytes=2097152 place=in");
    assert_eq!(agree(fleet.replies()).number("mask"), 0b11);
}

#[test]
fn many_reductions_are_all_done_although_one_of_four_is_killed() {
    let mut fleet = Fleet::of(4, Setup::default());
    fleet.peers[3].ask("arm fault=complete:5:kill").ok();
    fleet.tell("many n=24 bytes=100000 at_once=6");
    fleet.peers[3].gone();
    fleet.take(3);
    let reply = agree(fleet.replies());
    let masks: Vec<u64> = reply.get("mask").split(',').map(|m| m.parse().unwrap()).collect();
    assert_eq!(masks.len(), 24);
    assert!(masks.iter().all(|m| *m == 0b1111 || *m == 0b111), "{masks:?}");
    // All that it owed may have left it before it died: then what was in flight commits, and nothing is tried again.
    assert_eq!(masks.last(), Some(&0b111));
}

#[test]
fn peers_come_and_go_and_the_others_go_on() {
    let churn = churn::run(Setup::default(), Duration::from_secs(5), 100..300, 10);
    eprintln!("{churn}");
    assert!(churn.kills > 0 && churn.starts > 0 && churn.results > 0, "{churn}");
    let (_, peer) = churn.held[churn.held.len() - 1];
    assert!(peer.threads <= 4 && peer.files < 200, "{churn}");
}
