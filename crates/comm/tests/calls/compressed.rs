//! A run with compression: large sums and averages of floats travel as integers, nothing else does, and what that takes
//! away comes with the next op.

use half::{bf16, f16};
use pccl::{
    Algorithm, Call, Class, Communicator, ConnectError, Element, Expectations, ManyCall, Options, Ports,
    Quantization, ReduceOp, RunSettings, SharedState, Strategy, Tensor,
};

use crate::crew::{each_of, master_of};

/// 1 MiB of `f32` and a little more, no whole number of blocks.
const COUNT: usize = (1 << 18) + 77;

fn compressed<R: Send + 'static>(
    world: u32,
    act: impl Fn(&Communicator, usize) -> R + Send + Sync + 'static,
) -> Vec<R> {
    let server = master_of(&RunSettings { enable_compression: true, ..RunSettings::default() });
    each_of(&server, world, act)
}

fn value(rank: usize, i: usize) -> f32 {
    ((i * 31 + rank * 17) % 1009) as f32 / 1009.0 - 0.5
}

fn input(rank: usize) -> Vec<f32> {
    (0..COUNT).map(|i| value(rank, i)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn worst(values: &[f32], world: usize) -> f32 {
    let exact = |i| (0..world).map(|rank| value(rank, i)).sum::<f32>();
    values.iter().enumerate().map(|(i, v)| (v - exact(i)).abs()).fold(0.0, f32::max)
}

#[test]
fn every_way_of_calling_gives_the_same_bits_and_keeps_what_is_left() {
    let ends = compressed(3, |comm, rank| {
        let mut all: Vec<Vec<f32>> = vec![Vec::new(); 4];
        // The same rounds by four ways of calling, each with a tag of its own: so each has its own residual.
        for _ in 0..3 {
            let mut sum = vec![f32::NAN; COUNT];
            comm.all_reduce(&input(rank), &mut sum, &Call::new(1)).unwrap();
            all[0] = sum;
            all[1] = input(rank);
            comm.all_reduce_in_place(&mut all[1], &Call::new(2).algorithm(Algorithm::Direct)).unwrap();
            let pending = comm.all_reduce_async(input(rank), &Call::new(3)).map_err(|(e, _)| e).unwrap();
            let (buffer, result) = pending.wait();
            result.unwrap();
            all[2] = buffer;
            all[3] = input(rank);
            let mut small = vec![1_u32; 9];
            comm.all_reduce_in_place(&mut small, &Call::new(5)).unwrap();
            let mut many = [ManyCall { buffer: &mut all[3], call: Call::new(4) }];
            comm.all_reduce_many(&mut many, 2).unwrap();
            assert!(all.windows(2).all(|w| bits(&w[0]) == bits(&w[1])));
            let off = worst(&all[0], 3);
            assert!(off > 0.0 && off < 0.03, "off by {off}");
        }
        assert_eq!(comm.stats().residual_bytes, 4 * 4 * COUNT as u64);
        bits(&all[0])
    });
    assert!(ends.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn the_mean_over_rounds_is_the_exact_one() {
    let errors = compressed(2, |comm, rank| {
        let rounds = 12;
        let mut off = Vec::new();
        for call in [Call::new(1), Call::new(2).quantized(Quantization::ZeroPointU8)] {
            let mut mean = vec![0.0; COUNT];
            for _ in 0..rounds {
                let mut buffer = input(rank);
                comm.all_reduce_in_place(&mut buffer, &call).unwrap();
                mean.iter_mut().zip(&buffer).for_each(|(m, v)| *m += v / rounds as f32);
            }
            off.push(worst(&mean, 2));
        }
        off
    });
    for off in errors {
        assert!(off[0] < off[1] / 4.0, "with what is left {}, without {}", off[0], off[1]);
    }
}

fn is_exact<T: Element + PartialEq + std::fmt::Debug>(
    comm: &Communicator,
    call: &Call,
    of: impl Fn(usize) -> T,
    expected: T,
    count: usize,
) {
    let rank = comm.membership().rank as usize;
    let mut buffer = vec![of(rank); count];
    let info = comm.all_reduce_in_place(&mut buffer, call).unwrap();
    assert!(buffer.iter().all(|v| *v == expected), "{call:?}");
    assert_eq!(info.sent_bytes, (count * size_of::<T>()) as u64, "{call:?}");
}

#[test]
fn nothing_else_is_compressed() {
    compressed(2, |comm, rank| {
        let call = Call::new(1);
        // 0.1 and 0.7 are no whole steps of the range of a block whose other value is 0.
        let float = |rank: usize| [0.1_f32, 0.7][rank];
        let long = 1 << 18;
        is_exact(comm, &call, float, 0.1 + 0.7, long - 1);
        is_exact(comm, &call.uncompressed(), float, 0.1 + 0.7, long);
        is_exact(comm, &call.algorithm(Algorithm::Ring), float, 0.1 + 0.7, long);
        is_exact(comm, &call.op(ReduceOp::Max), float, 0.7, long);
        is_exact(comm, &call.op(ReduceOp::Min), float, 0.1, long);
        is_exact(comm, &call.op(ReduceOp::Prod), float, 0.1 * 0.7, long);
        is_exact(comm, &call, |rank| [3_u32, 250][rank], 253, long);
        is_exact(comm, &call.op(ReduceOp::Avg), |rank| [3_i64, 250][rank], 126, long);

        let mut all = Vec::new();
        comm.all_gather(&input(rank), &mut all, &call).unwrap();
        assert!(bits(&all) == [bits(&input(0)), bits(&input(1))].concat());
        let mut one = input(rank);
        comm.broadcast(&mut one, 1, &call).unwrap();
        assert!(bits(&one) == bits(&input(1)));
        let mut block = Vec::new();
        let at = comm.reduce_scatter(&input(rank), &mut block, &call).unwrap().start;
        assert!(
            block
                .iter()
                .enumerate()
                .all(|(i, v)| v.to_bits() == (value(0, at + i) + value(1, at + i)).to_bits())
        );
        let mut tensor = input(rank);
        let mut state = SharedState::new(1);
        state.push(Tensor::new("w", &mut tensor));
        comm.synchronize(&mut state, Strategy::EnforcePopular).unwrap();
        drop(state);
        assert!(bits(&tensor) == bits(&input(0)));
        assert_eq!(comm.stats().residual_bytes, 0);
    });
}

#[test]
fn every_float_is_compressed_and_a_call_s_own_quantization_goes_before() {
    compressed(2, |comm, rank| {
        let call = Call::new(1).op(ReduceOp::Avg);
        let sent = |info: pccl::OpInfo| info.sent_bytes as f64;
        let count = 1 << 19;
        let mut doubles: Vec<f64> = (0..count).map(|i| value(rank, i).into()).collect();
        let fraction = sent(comm.all_reduce_in_place(&mut doubles, &call).unwrap()) / (8 * count) as f64;
        assert!(fraction < 0.14, "{fraction}");
        let mut halves: Vec<f16> = (0..count).map(|i| f16::from_f32(value(rank, i))).collect();
        let fraction = sent(comm.all_reduce_in_place(&mut halves, &call).unwrap()) / (2 * count) as f64;
        assert!(fraction < 0.53, "{fraction}");
        let mut upper: Vec<bf16> = (0..count).map(|i| bf16::from_f32(value(rank, i))).collect();
        comm.all_reduce_in_place(&mut upper, &call).unwrap();
        for i in 0..count {
            let exact = f32::midpoint(value(0, i), value(1, i));
            for got in [doubles[i] as f32, halves[i].to_f32(), upper[i].to_f32()] {
                assert!((got - exact).abs() < 0.01, "{got} {exact}");
            }
        }
        let fine = call.quantized(Quantization::MinMaxU16);
        let mut buffer = input(rank);
        let info = comm.all_reduce_in_place(&mut buffer, &fine).unwrap();
        assert!(sent(info) / (4 * COUNT) as f64 > 0.5);
        let exact = |i| f32::midpoint(value(0, i), value(1, i));
        assert!((0..COUNT).all(|i| (buffer[i] - exact(i)).abs() < 1e-4));
        // One tag for one tensor after the other: only the last one's is kept.
        assert_eq!(comm.stats().residual_bytes, 4 * count as u64);
    });
}

#[test]
fn a_peer_that_compresses_beside_one_that_does_not_is_an_error_and_nothing_is_lost_by_it() {
    let ends = compressed(2, |comm, rank| {
        let mut last = Vec::new();
        for round in 0..4 {
            if round == 2 {
                let mut buffer = input(rank);
                let call = if rank == 0 { Call::new(1) } else { Call::new(1).uncompressed() };
                let error = comm.all_reduce_in_place(&mut buffer, &call).unwrap_err();
                assert!(
                    error.class() == Class::Fatal && error.to_string().contains("u8-zero-point"),
                    "{error}"
                );
                assert!(bits(&buffer) == bits(&input(rank)), "the input is as it was");
            }
            // The same by a tag that saw no error: the same residual.
            let mut results = [input(rank), input(rank)];
            for (buffer, tag) in results.iter_mut().zip([1, 2]) {
                comm.all_reduce_in_place(buffer, &Call::new(tag)).unwrap();
            }
            assert!(bits(&results[0]) == bits(&results[1]), "round {round}");
            last = bits(&results[0]);
        }
        // Dropped handles leave what their ops have left, and the next op of the tag finds it however soon it comes.
        for round in 0..10 {
            let pending = comm.all_reduce_async(input(rank), &Call::new(3)).map_err(|(e, _)| e).unwrap();
            drop(pending);
            comm.barrier(9).unwrap();
            let mut results = [input(rank), input(rank)];
            let third = loop {
                // The op may be in flight for a moment yet.
                match comm.all_reduce_in_place(&mut results[0], &Call::new(3)) {
                    Err(pccl::CollectiveError::NotStarted { .. }) => std::thread::yield_now(),
                    other => break other,
                }
            };
            third.unwrap();
            for _ in 0..2 {
                results[1] = input(rank);
                comm.all_reduce_in_place(&mut results[1], &Call::new(4)).unwrap();
            }
            assert!(bits(&results[0]) == bits(&results[1]), "round {round}");
        }
        last
    });
    assert!(ends[0] == ends[1]);
}

#[test]
fn a_peer_that_is_alone_loses_nothing() {
    compressed(1, |comm, _| {
        let mut buffer = input(0);
        comm.all_reduce_in_place(&mut buffer, &Call::new(1)).unwrap();
        assert!(bits(&buffer) == bits(&input(0)));
        comm.all_reduce(&input(3), &mut buffer, &Call::new(1)).unwrap();
        assert!(bits(&buffer) == bits(&input(3)));
        assert_eq!(comm.stats().residual_bytes, 0);
    });
}

#[test]
fn a_peer_whose_own_configuration_says_otherwise_is_refused() {
    for run in [false, true] {
        let server = master_of(&RunSettings { enable_compression: run, ..RunSettings::default() });
        let expects = Expectations { enable_compression: Some(!run), ..Expectations::default() };
        let options = Options::new(server.addr().to_string()).ports(Ports::Any).expects(expects);
        let refused = Communicator::connect(&options).map(|_| ()).unwrap_err();
        assert!(matches!(refused, ConnectError::Refused(_)), "{refused}");
        let said = format!("enable_compression is {run} at the master and {} here", !run);
        assert!(refused.to_string().contains(&said), "{refused}");
    }
}
