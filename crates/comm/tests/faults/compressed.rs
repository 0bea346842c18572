//! A run with compression that loses a peer: attempts that were cut leave no trace in what peers keep for the next op.

use crate::fleet::{Fleet, Setup};

/// What all say of an average by this tag: the hash of the one result, and how many took part.
fn average(fleet: &mut Fleet, tag: u64, round: u64, place: &str) -> (String, u64) {
    fleet.tell(&format!("average tag={tag} round={round} place={place} bytes={}", (1 << 20) + 4));
    results(fleet)
}

fn results(fleet: &mut Fleet) -> (String, u64) {
    let all: Vec<(String, u64)> = fleet
        .replies()
        .into_iter()
        .map(|reply| {
            let reply = reply.ok();
            (reply.get("hash").to_owned(), reply.number("world"))
        })
        .collect();
    assert!(all.windows(2).all(|w| w[0] == w[1]), "{all:?}");
    all[0].clone()
}

#[test]
fn a_peer_killed_at_every_point_of_a_compressed_op() {
    for (n, point) in ["first_frame", "mid_transfer", "complete", "verdict"].into_iter().enumerate() {
        let place = ["in", "out"][n % 2];
        eprintln!("{point}, {place}");
        let mut fleet = Fleet::of(3, Setup { compression: true, ..Setup::default() });
        // The same rounds by two tags: each has a residual of its own, and they are alike.
        assert_eq!(average(&mut fleet, 1, 0, place), average(&mut fleet, 2, 0, place));
        fleet.peers[2].ask(&format!("arm fault={point}:1:kill")).ok();
        fleet.tell(&format!("average tag=1 round=1 place={place} bytes={}", (1 << 20) + 4));
        fleet.peers[2].gone();
        fleet.take(2);
        let (cut, world) = results(&mut fleet);
        match point {
            "first_frame" | "mid_transfer" => assert_eq!(world, 2),
            "verdict" => assert_eq!(world, 3),
            _ => {}
        }
        fleet.settle();
        if world == 2 {
            // As if the attempt that was cut had never been.
            assert_eq!(average(&mut fleet, 2, 1, place), (cut, 2));
        }
        let (one, other) = (average(&mut fleet, 1, 2, place), average(&mut fleet, 2, 2, place));
        assert_eq!(one == other, world == 2, "{point}");
    }
}
