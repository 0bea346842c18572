//! Every element type, operator, algorithm and collective, against plain integers.

use std::fmt::Debug;

use half::{bf16, f16};
use pccl::{Algorithm, Call, Communicator, Element, ReduceOp};

use crate::crew::each;

const OPS: [ReduceOp; 5] = [ReduceOp::Sum, ReduceOp::Avg, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min];
const ALGORITHMS: [Option<Algorithm>; 4] =
    [None, Some(Algorithm::Direct), Some(Algorithm::Doubling), Some(Algorithm::Ring)];
/// One element, few, and counts that nothing divides, small and over several pieces.
const COUNTS: [usize; 4] = [1, 2, 1009, 70_001];

/// Small enough for every type to be exact, also their product; their average has no remainder.
fn value(op: ReduceOp, rank: usize, j: usize) -> i32 {
    let small = 1 + ((j + 3 * rank + j / 7 * rank) % 3) as i32;
    if op == ReduceOp::Avg { 3 * small } else { small }
}

fn reference(op: ReduceOp, world: usize, j: usize) -> i32 {
    let all = (0..world).map(|rank| value(op, rank, j));
    match op {
        ReduceOp::Sum => all.sum(),
        ReduceOp::Avg => all.sum::<i32>() / world as i32,
        ReduceOp::Prod => all.product(),
        ReduceOp::Max => all.max().unwrap_or(0),
        ReduceOp::Min => all.min().unwrap_or(0),
    }
}

fn check<T: Element + PartialEq + Debug>(comm: &Communicator, rank: usize, from: impl Fn(i32) -> T) {
    let world = 3;
    for op in OPS {
        for (n, algorithm) in ALGORITHMS.into_iter().enumerate() {
            let count = COUNTS[n % COUNTS.len()];
            let call = Call::new(1).op(op).algorithm(algorithm);
            let input: Vec<T> = (0..count).map(|j| from(value(op, rank, j))).collect();
            let wanted: Vec<T> = (0..count).map(|j| from(reference(op, world, j))).collect();
            let mut output = vec![T::default(); count];
            comm.all_reduce(&input, &mut output, &call).unwrap();
            assert!(output == wanted, "{:?} {op:?} {algorithm:?} × {count}, out of place", T::DTYPE);
            output.copy_from_slice(&input);
            comm.all_reduce_in_place(&mut output, &call).unwrap();
            assert!(output == wanted, "{:?} {op:?} {algorithm:?} × {count}, in place", T::DTYPE);
        }
    }
}

#[test]
fn every_type_operator_and_algorithm() {
    each(3, |comm, rank| {
        check::<u8>(comm, rank, |v| v as u8);
        check::<i8>(comm, rank, |v| v as i8);
        check::<u16>(comm, rank, |v| v as u16);
        check::<i16>(comm, rank, |v| v as i16);
        check::<u32>(comm, rank, |v| v as u32);
        check::<i32>(comm, rank, |v| v);
        check::<u64>(comm, rank, |v| v as u64);
        check::<i64>(comm, rank, i64::from);
        check::<f16>(comm, rank, |v| f16::from_f32(v as f32));
        check::<bf16>(comm, rank, |v| bf16::from_f32(v as f32));
        check::<f32>(comm, rank, |v| v as f32);
        check::<f64>(comm, rank, f64::from);
    });
}

#[test]
fn sums_that_round_are_the_same_bits_everywhere() {
    for world in [2, 3, 4] {
        for algorithm in ALGORITHMS {
            let bits = each(world, move |comm, rank| {
                let value = |j: usize| ((j * 7919 + rank * 104_729) % 65_537) as f32 / 3.0e3 - 9.7;
                let mut buffer: Vec<f32> = (0..20_011).map(value).collect();
                comm.all_reduce_in_place(&mut buffer, &Call::new(4).algorithm(algorithm)).unwrap();
                buffer.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
            });
            assert!(bits.windows(2).all(|w| w[0] == w[1]), "{world} peers, {algorithm:?}");
        }
    }
}

#[test]
fn the_other_collectives() {
    for world in [1, 2, 3] {
        each(world, move |comm, rank| {
            let world = world as usize;
            for count in [1, 5, 30_001] {
                let mine: Vec<i64> = (0..count).map(|j| (j * 10 + rank) as i64).collect();
                let mut all = Vec::new();
                comm.all_gather(&mine, &mut all, &Call::new(1)).unwrap();
                let wanted = (0..world).flat_map(|r| (0..count).map(move |j| (j * 10 + r) as i64));
                assert!(all.iter().copied().eq(wanted), "all_gather of {count} among {world}");

                let mut block = Vec::new();
                let got = comm.reduce_scatter(&mine, &mut block, &Call::new(2)).unwrap();
                let ranks: i64 = (0..world as i64).sum();
                let sum = |j: usize| (j * 10 * world) as i64 + ranks;
                let wanted = (got.start..got.start + block.len()).map(sum);
                assert!(block.iter().copied().eq(wanted), "reduce_scatter of {count} among {world}");
                let sizes = [block.len() as u64];
                let mut total = sizes;
                comm.all_reduce(&sizes, &mut total, &Call::new(3)).unwrap();
                assert_eq!(total[0], count as u64, "the blocks are the whole");

                for root in 0..world {
                    let mut buffer = mine.clone();
                    comm.broadcast(&mut buffer, root as u32, &Call::new(4)).unwrap();
                    let wanted = (0..count).map(|j| (j * 10 + root) as i64);
                    assert!(buffer.iter().copied().eq(wanted), "broadcast of {count} from {root} of {world}");
                }
            }
            assert_eq!(comm.barrier(5).unwrap().world as usize, world);
        });
    }
}

#[test]
fn a_world_of_one() {
    each(1, |comm, _| {
        for op in OPS {
            let input = [3.5f32, -1.0, f32::MAX];
            let mut output = [0.0f32; 3];
            let info = comm.all_reduce(&input, &mut output, &Call::new(1).op(op)).unwrap();
            assert_eq!((info.world, output), (1, input), "{op:?}");
        }
        let mut nothing: [f32; 0] = [];
        comm.all_reduce_in_place(&mut nothing, &Call::new(1)).unwrap();
    });
}
