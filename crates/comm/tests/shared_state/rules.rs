//! Shared state over real sockets.

use crate::harness::{TestMaster, connect, members, registered, together, voters};
use pccl::{Class, Fault, KeyDifference, NoCandidate, SharedState, Strategy, SyncError, SyncInfo, Tensor};
use pccl_proto::shared_state::BLOCK_BYTES;

const MIB: usize = 1 << 20;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

/// One tensor `w`.
fn sync(
    comm: &pccl::Communicator,
    w: &mut [u8],
    revision: u64,
    strategy: Strategy,
) -> Result<SyncInfo, SyncError> {
    let mut state = SharedState::new(revision).with(Tensor::new("w", w)).block_bytes(MIB as u32);
    comm.synchronize(&mut state, strategy)
}

#[test]
fn equal_states_move_no_bytes_and_the_order_of_tensors_does_not_matter() {
    let master = TestMaster::start();
    let peers = members(&master, 3);
    for revision in 0..4 {
        let infos = together(&peers, |i, comm| {
            let (mut a, mut b, mut own) = (vec![1.5_f32; 100_003], noise(7, 5 * MIB + 1), vec![i as u64; 9]);
            let mut tensors = vec![
                Tensor::new("a", &mut a),
                Tensor::new("b", &mut b),
                Tensor::new("own", &mut own).allow_content_inequality(),
            ];
            tensors.rotate_left(i);
            let mut state = SharedState::new(revision);
            for tensor in tensors {
                state.push(tensor);
            }
            let info = comm.synchronize(&mut state, Strategy::EnforcePopular).unwrap();
            assert_eq!(state.revision, revision);
            assert_eq!(own, vec![i as u64; 9]);
            info
        });
        for info in infos {
            assert_eq!((info.revision, info.sent_bytes, info.received_bytes), (revision, 0, 0));
            assert!(info.changed.is_empty() && !info.joined);
        }
    }
}

#[test]
fn one_differing_block_is_all_that_moves() {
    let master = TestMaster::start();
    let peers = members(&master, 3);
    let right = noise(3, 10 * BLOCK_BYTES as usize + 77);
    let results = together(&peers, |i, comm| {
        let (mut w, mut v) = (right.clone(), vec![2_i32; 1000]);
        if i == 0 {
            // Also the longest-standing member follows the majority.
            w[4 * BLOCK_BYTES as usize + 5] ^= 1;
        }
        let mut state = SharedState::new(8).with(Tensor::new("w", &mut w)).with(Tensor::new("v", &mut v));
        let info = comm.synchronize(&mut state, Strategy::EnforcePopular).unwrap();
        (info, w)
    });
    assert!(results.iter().all(|(_, w)| *w == right));
    assert_eq!(results[0].0.received_bytes, u64::from(BLOCK_BYTES));
    assert_eq!(results[0].0.changed, ["w"]);
    assert_eq!(results[1].0.sent_bytes + results[2].0.sent_bytes, u64::from(BLOCK_BYTES));
    assert_eq!((results[1].0.received_bytes, results[2].0.received_bytes), (0, 0));
}

#[test]
fn a_newcomer_comes_in_and_gets_everything_from_all() {
    let master = TestMaster::start();
    let mut peers = members(&master, 2);
    let content = noise(11, 64 * MIB + 3);
    together(&peers, |_, comm| sync(comm, &mut content.clone(), 5, Strategy::EnforcePopular).unwrap());
    let addr = master.addr;
    let newcomer = std::thread::spawn(move || {
        let comm = connect(addr);
        let mut w = vec![0; 64 * MIB + 3];
        let info = sync(&comm, &mut w, 0, Strategy::EnforcePopular).unwrap();
        (comm, w, info)
    });
    master.wait_until("a newcomer", |s| registered(s) == 3);
    let infos =
        together(&peers, |_, comm| sync(comm, &mut content.clone(), 6, Strategy::EnforcePopular).unwrap());
    let (comm, w, info) = newcomer.join().unwrap();
    assert!(w == content);
    assert_eq!((info.revision, info.received_bytes, info.joined), (6, content.len() as u64, false));
    assert!(infos.iter().all(|i| i.joined && i.revision == 6 && i.received_bytes == 0), "{infos:?}");
    assert!(infos.iter().all(|i| i.sent_bytes > 8 * MIB as u64), "both send: {infos:?}");
    assert_eq!(infos.iter().map(|i| i.sent_bytes).sum::<u64>(), content.len() as u64);
    // Two against one would be more common, but the newcomer has synchronized now: it counts.
    peers.push(comm);
    let infos = together(&peers, |i, comm| {
        let mut w = content.clone();
        w[0] ^= u8::from(i == 0);
        sync(comm, &mut w, 7, Strategy::EnforcePopular).unwrap()
    });
    assert_eq!(infos[0].received_bytes, MIB as u64);
}

#[test]
fn equal_popularity_is_decided_by_age() {
    let master = TestMaster::start();
    let peers = members(&master, 4);
    let results = together(&peers, |i, comm| {
        let mut w = vec![i as u8 % 2; 3 * MIB];
        sync(comm, &mut w, 1, Strategy::EnforcePopular).unwrap();
        w
    });
    assert!(results.iter().all(|w| w.iter().all(|b| *b == 0)));
}

#[test]
fn a_sender_wins_over_receivers() {
    use Strategy::{ReceiveOnly, SendOnly};
    let master = TestMaster::start();
    let peers = members(&master, 3);
    let strategies = [ReceiveOnly, ReceiveOnly, SendOnly];
    let results = together(&peers, |i, comm| {
        let mut w = vec![i as u8 / 2; 3 * MIB];
        let info = sync(comm, &mut w, 1, strategies[i]).unwrap();
        (info, w)
    });
    assert!(results.iter().all(|(_, w)| w.iter().all(|b| *b == 1)));
    assert_eq!(results[2].0.sent_bytes, 6 * MIB as u64);
    let errors = together(&peers, |_, comm| sync(comm, &mut [1; 9], 2, ReceiveOnly).unwrap_err());
    for e in errors {
        assert!(matches!(e, SyncError::NoCandidate { why: NoCandidate::AllReceive }), "{e}");
    }
}

/// All synchronize; those with an error have their tensor as it was.
fn one_is_expelled(
    strategies: [Strategy; 3],
    change: impl Fn(usize, &mut Vec<u8>, &mut u64) + Sync,
) -> Vec<Result<SyncInfo, SyncError>> {
    let master = TestMaster::start();
    let peers = members(&master, 3);
    together(&peers, |_, comm| sync(comm, &mut vec![9; 3 * MIB], 3, Strategy::EnforcePopular).unwrap());
    together(&peers, |i, comm| {
        let (mut w, mut revision) = (vec![9; 3 * MIB], 4);
        change(i, &mut w, &mut revision);
        let before = w.clone();
        let result = sync(comm, &mut w, revision, strategies[i]);
        if result.is_err() {
            assert_eq!(w, before);
        }
        result
    })
}

#[test]
fn a_revision_too_high_expels() {
    use Strategy::EnforcePopular as P;
    let results = one_is_expelled([P; 3], |i, _, revision| *revision += u64::from(i == 1));
    let e = results[1].as_ref().unwrap_err();
    assert_eq!(e.fault(), Some(&Fault::Revision { offered: 5, expected: 4 }));
    assert_eq!(e.class(), Class::Reconfigure);
    assert!(e.to_string().contains("revision 5, but 4 was expected"), "{e}");
    assert_eq!(results[0].as_ref().unwrap().revision, 4);
    assert_eq!(results[2].as_ref().unwrap().revision, 4);
}

#[test]
fn other_tensors_expel() {
    use Strategy::EnforcePopular as P;
    let results = one_is_expelled([P; 3], |i, w, _| w.truncate(w.len() - usize::from(i == 0)));
    let e = results[0].as_ref().unwrap_err();
    let Some(Fault::KeySet { difference: KeyDifference::Kind { name, .. }, .. }) = e.fault() else {
        panic!("{e}")
    };
    assert_eq!(name, "w");
    assert!(e.to_string().contains("tensor \"w\" is 3145727 bytes of u8 and should be 3145728"), "{e}");
    assert_eq!(e.peers().len(), 1);
    assert!(results[1].is_ok() && results[2].is_ok());
}

#[test]
fn strategies_that_do_not_fit_expel() {
    use Strategy::{EnforcePopular, ReceiveOnly, SendOnly};
    let results = one_is_expelled([EnforcePopular, ReceiveOnly, EnforcePopular], |_, _, _| ());
    assert!(matches!(results[1].as_ref().unwrap_err().fault(), Some(Fault::Strategy { .. })));
    assert!(results[0].is_ok() && results[2].is_ok());

    let results = one_is_expelled([SendOnly; 3], |i, w, _| w[7] ^= u8::from(i == 0));
    assert!(matches!(results[0].as_ref().unwrap_err().fault(), Some(Fault::ConflictingSender { .. })));
    assert!(results[1].is_ok() && results[2].is_ok());
}

#[test]
fn a_lower_revision_receives_and_the_same_one_twice_is_an_error() {
    use Strategy::EnforcePopular as P;
    let master = TestMaster::start();
    let peers = members(&master, 3);
    let results = together(&peers, |i, comm| {
        // The most common content, but of lower revisions.
        let (mut w, revision) = if i == 2 { (vec![1; MIB], 100) } else { (vec![0; MIB], 99) };
        let info = sync(comm, &mut w, revision, P).unwrap();
        (info.revision, w[0])
    });
    assert_eq!(results, [(100, 1); 3]);
    let errors = together(&peers, |_, comm| sync(comm, &mut vec![1; MIB], 100, P).unwrap_err());
    let expected = NoCandidate::Behind { highest: 100, expected: 101 };
    assert!(
        errors.iter().all(|e| matches!(e, SyncError::NoCandidate { why } if *why == expected)),
        "{errors:?}"
    );
}

#[test]
fn many_tensors_of_odd_sizes_and_none() {
    let master = TestMaster::start();
    let peers = members(&master, 3);
    let sizes: Vec<usize> = (0..1000).map(|i| if i % 10 == 0 { 0 } else { i * 37 % 5000 }).collect();
    let results = together(&peers, |rank, comm| {
        let mut tensors: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, n)| noise(i as u64, *n)).collect();
        if rank == 1 {
            tensors.iter_mut().filter(|t| t.len() % 3 == 1).for_each(|t| t[0] ^= 1);
        }
        let mut state = SharedState::new(1).block_bytes(1000);
        for (i, t) in tensors.iter_mut().enumerate() {
            state.push(Tensor::new(format!("layer.{i}"), t));
        }
        let info = comm.synchronize(&mut state, Strategy::EnforcePopular).unwrap();
        (info, tensors)
    });
    assert!(results.iter().all(|(_, t)| *t == results[0].1));
    let touched = sizes.iter().filter(|n| **n % 3 == 1).count();
    assert_eq!(results[1].0.changed.len(), touched);
    assert_eq!(
        results[1].0.received_bytes,
        sizes.iter().filter(|n| **n % 3 == 1).map(|n| (*n).min(1000) as u64).sum::<u64>()
    );
    // Nothing at all can be synchronized too.
    let infos = together(&peers, |_, comm| {
        comm.synchronize(&mut SharedState::new(2), Strategy::EnforcePopular).unwrap()
    });
    assert!(infos.iter().all(|i| i.revision == 2));
}

#[test]
fn a_restarted_master_knows_the_revision() {
    use Strategy::EnforcePopular as P;
    let master = TestMaster::start();
    let peers = members(&master, 2);
    together(&peers, |_, comm| sync(comm, &mut vec![4; MIB], 41, P).unwrap());
    let master = master.restart();
    let infos = together(&peers, |i, comm| {
        let mut w = vec![5; MIB];
        w[0] += i as u8;
        sync(comm, &mut w, 42, P).unwrap()
    });
    assert_eq!((infos[0].revision, infos[1].received_bytes), (42, MIB as u64));
    let master = master.restart();
    let results = together(&peers, |i, comm| sync(comm, &mut vec![5; MIB], 43 + i as u64, P));
    assert!(results[0].is_ok());
    let fault = Fault::Revision { offered: 44, expected: 43 };
    assert_eq!(results[1].as_ref().unwrap_err().fault(), Some(&fault));
    drop(master);
}

#[test]
fn a_master_restarted_in_a_vote_hears_it_again() {
    use Strategy::EnforcePopular as P;
    let master = TestMaster::start();
    let peers = members(&master, 2);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| sync(&peers[0], &mut vec![1; MIB], 1, P).unwrap());
        master.wait_until("the first vote", |s| voters(s) == 1);
        let master = master.restart();
        let mut w = vec![2; MIB];
        assert_eq!(sync(&peers[1], &mut w, 1, P).unwrap().received_bytes, MIB as u64);
        assert_eq!(w, vec![1; MIB]);
        assert_eq!(first.join().unwrap().sent_bytes, MIB as u64);
        drop(master);
    });
}

#[test]
fn invalid_calls_name_the_tensor() {
    let master = TestMaster::start();
    let comm = connect(master.addr);
    let (mut a, mut b) = (vec![0_u8; 3], vec![0_u8; 3]);
    let mut twice = SharedState::new(1).with(Tensor::new("x", &mut a)).with(Tensor::new("x", &mut b));
    let e = comm.synchronize(&mut twice, Strategy::EnforcePopular).unwrap_err();
    assert!(e.to_string().contains("tensor \"x\": another tensor has this name"), "{e}");
    let mut odd = SharedState::new(1).with(Tensor::from_bytes("y", pccl::DataType::F32, &mut a));
    let e = comm.synchronize(&mut odd, Strategy::EnforcePopular).unwrap_err();
    assert!(e.to_string().contains("tensor \"y\": 3 bytes are no whole number of f32"), "{e}");
    assert_eq!(e.class(), Class::Fatal);
    // Alone, whatever it offers wins.
    assert_eq!(sync(&comm, &mut [1, 2, 3], 17, Strategy::EnforcePopular).unwrap().revision, 17);
}
