//! Groups that reduce for themselves, and know of each other.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use pccl::{Call, Communicator, Options, Ports};

use super::crew::master;

/// As programs for PCCL do: vote until all peers of all groups are there. All members of a group see it after the same vote.
#[test]
fn members_of_a_group_learn_together_how_large_the_others_are() {
    let server = master();
    let everybody = Arc::new(Barrier::new(5));
    let member = |group: u32| {
        let options = Options::new(server.addr().to_string()).ports(Ports::Any).group(group);
        let everybody = Arc::clone(&everybody);
        std::thread::spawn(move || {
            let comm = Communicator::connect(&options).unwrap();
            while comm.membership().global_world_size < 5 {
                comm.update_topology().unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            let there = comm.membership();
            let mut one = [1.0f32];
            comm.all_reduce_in_place(&mut one, &Call::new(1)).unwrap();
            everybody.wait();
            (there.groups, there.largest_group, one[0] as u32)
        })
    };
    let small = [member(0), member(0)];
    // The small group is complete, and has no reason for another epoch, when the others come.
    while server.status().groups.iter().all(|g| g.peers.iter().filter(|p| p.rank.is_some()).count() < 2) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let large = [member(1), member(1), member(1)];
    assert_eq!(small.map(|t| t.join().unwrap()), [(2, 3, 2); 2]);
    assert_eq!(large.map(|t| t.join().unwrap()), [(2, 3, 3); 3]);
}
