//! Many ops at once, in any order, waited for or forgotten.

use pccl::{Call, ManyCall};

use crate::crew::each;

/// More than a link takes for an op that the other side has not started.
const LARGE: usize = 100_000;

#[test]
fn tags_in_another_order_on_every_peer() {
    each(3, |comm, rank| {
        let mut order: Vec<u64> = (0..6).collect();
        order.rotate_left(rank * 2);
        if rank == 1 {
            order.reverse();
        }
        let pending: Vec<_> = order
            .iter()
            .map(|tag| {
                let buffer = vec![(rank + 1) as f32 * (*tag + 1) as f32; LARGE];
                comm.all_reduce_async(buffer, &Call::new(*tag)).map_err(|(e, _)| e).unwrap()
            })
            .collect();
        for op in pending {
            let wanted = 6.0 * (op.tag() + 1) as f32;
            let (buffer, info) = op.wait();
            info.unwrap();
            assert!(buffer.iter().all(|x| x.to_bits() == wanted.to_bits()));
        }
    });
}

#[test]
fn blocking_calls_of_threads_in_another_order_on_every_peer() {
    each(3, |comm, rank| {
        std::thread::scope(|scope| {
            for n in 0..4u64 {
                let tag = (n + rank as u64) % 4;
                scope.spawn(move || {
                    let mut buffer = vec![tag + 1; LARGE];
                    comm.all_reduce_in_place(&mut buffer, &Call::new(tag)).unwrap();
                    assert!(buffer.iter().all(|x| *x == 3 * (tag + 1)));
                });
            }
        });
    });
}

#[test]
fn sixty_four_ops_at_once_again_and_again() {
    each(3, |comm, rank| {
        for round in 0..3 {
            let start = |tag: u64| {
                let buffer = vec![rank as i32 + tag as i32 + round; 500 * (1 + tag as usize % 9)];
                comm.all_reduce_async(buffer, &Call::new(tag)).map_err(|(e, _)| e).unwrap()
            };
            let pending: Vec<_> = (0..64).map(start).collect();
            for op in pending.into_iter().rev() {
                let wanted = 3 + 3 * (op.tag() as i32 + round);
                let (buffer, info) = op.wait();
                info.unwrap();
                assert!(buffer.iter().all(|x| *x == wanted));
            }
        }
    });
}

#[test]
fn a_forgotten_handle_takes_part_all_the_same() {
    let sums = each(3, |comm, rank| {
        let op = comm.all_reduce_async(vec![rank as u64 + 1; LARGE], &Call::new(1));
        let op = op.map_err(|(e, _)| e).unwrap();
        if rank == 1 {
            drop(op);
            return 6;
        }
        let (buffer, info) = op.wait();
        info.unwrap();
        buffer[LARGE - 1]
    });
    assert_eq!(sums, [6, 6, 6]);
}

#[test]
fn a_tag_in_use_is_refused_and_the_buffer_comes_back() {
    each(2, |comm, rank| {
        let start = || comm.all_reduce_async(vec![1u8; LARGE], &Call::new(1)).map_err(|(e, _)| e).unwrap();
        if rank == 1 {
            comm.barrier(2).unwrap();
            return start().wait().1.map(drop).unwrap();
        }
        // It cannot end before the other peer starts it.
        let first = start();
        let (error, buffer) = comm.all_reduce_async(vec![7u8; 10], &Call::new(1)).err().unwrap();
        assert_eq!(buffer, [7; 10]);
        assert!(error.to_string().contains("tag 1 is in use"), "{error}");
        comm.barrier(2).unwrap();
        first.wait().1.unwrap();
    });
}

#[test]
fn many_reductions_in_few_places() {
    each(3, |comm, rank| {
        let mut tensors: Vec<Vec<f64>> = (0..20).map(|n| vec![(rank + n) as f64; 100 + 997 * n]).collect();
        let calls = tensors.iter_mut().zip(10..);
        let mut calls: Vec<_> =
            calls.map(|(buffer, tag)| ManyCall { buffer, call: Call::new(tag) }).collect();
        assert_eq!(comm.all_reduce_many(&mut calls, 4).unwrap().len(), 20);
        for (n, tensor) in tensors.iter().enumerate() {
            assert!(tensor.iter().all(|x| x.to_bits() == ((3 + 3 * n) as f64).to_bits()));
        }
    });
}
