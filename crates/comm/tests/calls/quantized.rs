//! Quantized all-reduce: near the exact result, the same bits on all peers, by every way of calling.

use half::{bf16, f16};
use pccl::{Algorithm, Call, Class, Communicator, ManyCall, Quantization, ReduceOp};

use crate::crew::each;

const WORLD: usize = 3;
/// Not a whole number of blocks, several pieces.
const COUNT: usize = 300_007;

fn value(rank: usize, i: usize) -> f32 {
    ((i * 31 + rank * 17) % 1009) as f32 / 1009.0 - 0.5
}

fn input(rank: usize) -> Vec<f32> {
    (0..COUNT).map(|i| value(rank, i)).collect()
}

fn exact(i: usize) -> f32 {
    (0..WORLD).map(|rank| value(rank, i)).sum()
}

/// A step of each contribution, whose range is below 1, and one of the sum; half of it if nothing but rounding is lost.
fn bound(how: Quantization) -> f32 {
    let levels =
        if matches!(how, Quantization::MinMaxU8 | Quantization::ZeroPointU8) { 255.0 } else { 65_535.0 };
    2.0 * WORLD as f32 / levels
}

fn near(sum: &[f32], how: Quantization) {
    let worst = sum.iter().enumerate().map(|(i, x)| (x - exact(i)).abs()).fold(0.0, f32::max);
    assert!(worst <= bound(how), "off by {worst}, {how}");
    assert!(worst > 0.0, "it is lossy");
}

fn all_ways(comm: &Communicator, rank: usize, how: Quantization) -> Vec<u32> {
    let call = Call::new(1).quantized(how);
    let mut sum = vec![0.0; COUNT];
    comm.all_reduce(&input(rank), &mut sum, &call).unwrap();
    near(&sum, how);
    let same = |other: &[f32]| assert!(other.iter().zip(&sum).all(|(a, b)| a.to_bits() == b.to_bits()));

    let mut buffer = input(rank);
    comm.all_reduce_in_place(&mut buffer, &call.algorithm(Algorithm::Direct)).unwrap();
    same(&buffer);
    let (buffer, result) = comm.all_reduce_async(input(rank), &call).map_err(|(e, _)| e).unwrap().wait();
    result.unwrap();
    same(&buffer);
    let mut many = [input(rank), input(rank)];
    let ops = many.iter_mut().zip(1..).map(|(buffer, tag)| ManyCall { buffer, call: Call { tag, ..call } });
    comm.all_reduce_many(&mut ops.collect::<Vec<_>>(), 2).unwrap();
    for reduced in &many {
        same(reduced);
    }
    sum.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn every_way_gives_the_same_bits_near_the_exact_sum() {
    for how in Quantization::ALL.iter().copied() {
        let bits = each(WORLD as u32, move |comm, rank| all_ways(comm, rank, how));
        assert!(bits.windows(2).all(|w| w[0] == w[1]), "{how}");
    }
}

#[test]
fn a_quarter_of_the_bytes_travel() {
    let sent = each(2, |comm, rank| {
        let mut buffer = input(rank);
        let call = Call::new(1).op(ReduceOp::Avg);
        let plain = comm.all_reduce_in_place(&mut buffer, &call).unwrap().sent_bytes;
        let quantized = comm.all_reduce_in_place(&mut buffer, &call.quantized(Quantization::MinMaxU8));
        (plain, quantized.unwrap().sent_bytes)
    });
    for (plain, quantized) in sent {
        // 256 values are 1024 bytes, or 264.
        assert!(quantized * 1000 < plain * 261 && quantized * 1000 > plain * 255, "{quantized} of {plain}");
    }
}

#[test]
fn short_and_other_types_too() {
    each(2, |comm, rank| {
        for count in [1, 255, 256, 257] {
            let how = Quantization::ZeroPointU16;
            let call = Call::new(1).op(ReduceOp::Max).quantized(how);
            let mut doubles: Vec<f64> = (0..count).map(|i| f64::from(value(rank, i))).collect();
            comm.all_reduce_in_place(&mut doubles, &call).unwrap();
            let mut halves: Vec<f16> = (0..count).map(|i| f16::from_f32(value(rank, i))).collect();
            comm.all_reduce_in_place(&mut halves, &call).unwrap();
            let mut upper: Vec<bf16> = (0..count).map(|i| bf16::from_f32(value(rank, i))).collect();
            comm.all_reduce_in_place(&mut upper, &call).unwrap();
            for i in 0..count {
                let wanted = value(0, i).max(value(1, i));
                for (got, bound) in
                    [(doubles[i] as f32, 1e-4), (halves[i].to_f32(), 1e-3), (upper[i].to_f32(), 8e-3)]
                {
                    assert!((got - wanted).abs() < bound, "{got} {wanted} of {count}");
                }
            }
        }
        comm.all_reduce_in_place(&mut [0.0_f32; 0], &Call::new(1).quantized(Quantization::MinMaxU8)).unwrap();
    });
}

#[test]
fn what_cannot_be_quantized_is_refused_and_says_why() {
    each(2, |comm, rank| {
        let call = Call::new(3).quantized(Quantization::MinMaxU8);
        let refused = [
            (comm.all_reduce_in_place(&mut [1_u32; 9], &call).unwrap_err(), "elements of u32"),
            (comm.broadcast(&mut [1.0_f32; 9], 0, &call).unwrap_err(), "broadcast cannot"),
            (
                comm.all_reduce_in_place(&mut [1.0_f32; 9], &call.algorithm(Algorithm::Ring)).unwrap_err(),
                "ring",
            ),
            (
                comm.all_reduce_async(vec![1_i8; 9], &call).map_err(|(e, _)| e).err().unwrap(),
                "elements of i8",
            ),
        ];
        for (error, part) in refused {
            assert!(error.class() == Class::Fatal && error.to_string().contains(part), "{error}");
        }
        // One peer quantizes, the other does not: both hear of it, and keep their inputs.
        let mut buffer = vec![rank as f32; 999];
        let how = (rank == 1).then_some(Quantization::MinMaxU8);
        let error = comm.all_reduce_in_place(&mut buffer, &Call::new(3).quantized(how)).unwrap_err();
        assert!(error.to_string().contains("u8-min-max"), "{error}");
        assert_eq!(buffer, vec![rank as f32; 999]);
    });
}
