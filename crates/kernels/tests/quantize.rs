//! Quantized values are off by half a scale at most, sums are the same in every order of asking, and 0 can be exact.

use half::{bf16, f16};
use pccl_kernels::quantize::{BLOCK, Format, Scheme, Width};
use pccl_kernels::{DataType, ReduceOp};
use proptest::prelude::*;

const WIDTHS: [(Width, f64); 2] = [(Width::Eight, 255.0), (Width::Sixteen, 65_535.0)];
const SCHEMES: [Scheme; 2] = [Scheme::MinMax, Scheme::ZeroPoint];

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn encoded(format: Format, input: &[u8]) -> Vec<u8> {
    let mut output = vec![0; format.bytes(input.len() / format.dtype.size())];
    format.encode(input, &mut output);
    output
}

fn decoded(format: Format, blocks: &[u8], bytes: usize) -> Vec<u8> {
    let mut output = vec![0; bytes];
    format.decode(blocks, &mut output);
    output
}

fn there_and_back(format: Format, input: &[u8]) -> Vec<u8> {
    decoded(format, &encoded(format, input), input.len())
}

/// Half a scale of the block, and what `f32` rounds.
fn bound(block: &[f32], scheme: Scheme, levels: f64) -> f64 {
    let lo = block.iter().copied().fold(f32::INFINITY, f32::min);
    let hi = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (lo, hi) = if scheme == Scheme::ZeroPoint { (lo.min(0.0), hi.max(0.0)) } else { (lo, hi) };
    let largest = f64::from(lo.abs().max(hi.abs()));
    // The zero point is rounded to an integer too: by half a scale more at the ends.
    let halves = if scheme == Scheme::ZeroPoint { 1.0 } else { 0.5 };
    (f64::from(hi) - f64::from(lo)) / levels * halves * 1.0001 + largest * 4e-7 + 1e-35
}

fn tensor() -> impl Strategy<Value = Vec<f32>> {
    let scale = prop_oneof![Just(1.0_f32), Just(1e-30), Just(1e30), Just(3e38), Just(1e-44)];
    (scale, -1.0_f32..1.0, prop::collection::vec(-1.0_f32..1.0, 1..3 * BLOCK + 7))
        .prop_map(|(scale, shift, values)| values.iter().map(|v| (v * 0.5 + shift * 0.5) * scale).collect())
}

proptest! {
    #[test]
    fn a_value_is_off_by_half_a_scale_at_most(values in tensor()) {
        for (width, levels) in WIDTHS {
            for scheme in SCHEMES {
                let format = Format { dtype: DataType::Float32, width, scheme };
                let back = floats(&there_and_back(format, &bytes_of(&values)));
                for (block, back) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                    let bound = bound(block, scheme, levels);
                    for (x, y) in block.iter().zip(back) {
                        let off = (f64::from(*x) - f64::from(*y)).abs();
                        prop_assert!(off <= bound, "{x} became {y}, off by {off}, bound {bound}, {format:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn integers_are_the_nearest_ones_within_their_range(values in tensor()) {
        for (width, levels) in WIDTHS {
            let format = Format { dtype: DataType::Float32, width, scheme: Scheme::MinMax };
            let blocks = encoded(format, &bytes_of(&values));
            for (block, made) in values.chunks(BLOCK).zip(blocks.chunks(format.block_bytes())) {
                let word = |at: usize| f32::from_ne_bytes([made[at], made[at + 1], made[at + 2], made[at + 3]]);
                let (base, scale, levels) = (word(0), word(4), levels as f32);
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                for (i, x) in block.iter().enumerate() {
                    let nearest = ((x - base) * inverse + levels * 0.5).round_ties_even().clamp(0.0, levels);
                    let q = match width {
                        Width::Eight => u16::from(made[8 + i]),
                        Width::Sixteen => u16::from_le_bytes([made[8 + 2 * i], made[9 + 2 * i]]),
                    };
                    prop_assert_eq!(u32::from(q), nearest as u32, "{} in {:?}", x, format);
                }
            }
        }
    }

    #[test]
    fn a_sum_is_that_of_the_parts_in_their_order(a in tensor(), seed in 1_u32..1000) {
        let b: Vec<f32> = a.iter().enumerate().map(|(i, v)| v * (((i as u32 * seed % 13) as f32 - 6.0) / 7.0)).collect();
        let format = Format { dtype: DataType::Float32, width: Width::Eight, scheme: Scheme::MinMax };
        let (qa, qb) = (encoded(format, &bytes_of(&a)), encoded(format, &bytes_of(&b)));
        let (da, db) = (floats(&there_and_back(format, &bytes_of(&a))), floats(&there_and_back(format, &bytes_of(&b))));
        for (op, f) in [
            (ReduceOp::Sum, (|x, y| x + y) as fn(f32, f32) -> f32),
            (ReduceOp::Avg, |x, y| (x + y) * 0.5),
            (ReduceOp::Prod, |x, y| x * y),
            (ReduceOp::Max, f32::max),
            (ReduceOp::Min, f32::min),
        ] {
            let mut result = vec![0; qa.len()];
            format.reduce(op, &[&qa, &qb], &mut result);
            let exact: Vec<f32> = da.iter().zip(&db).map(|(x, y)| f(*x, *y)).collect();
            // What everybody decodes is what the quantized exact result says, to the last bit.
            let expected = floats(&there_and_back(format, &bytes_of(&exact)));
            for (x, y) in floats(&decoded(format, &result, a.len() * 4)).iter().zip(&expected) {
                prop_assert!(x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()), "{x} {y} {op:?}");
            }
        }
    }
}

#[test]
fn an_average_of_the_same_tensor_is_that_tensor_quantized() {
    let values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
    for (width, levels) in WIDTHS {
        let format = Format { dtype: DataType::Float32, width, scheme: Scheme::MinMax };
        let one = encoded(format, &bytes_of(&values));
        let mut result = vec![0; one.len()];
        format.reduce(ReduceOp::Avg, &[&one, &one, &one, &one], &mut result);
        let back = floats(&decoded(format, &result, values.len() * 4));
        for (block, back) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
            // Quantized twice.
            let bound = 2.0 * bound(block, Scheme::MinMax, levels);
            assert!(block.iter().zip(back).all(|(x, y)| f64::from((x - y).abs()) <= bound));
        }
    }
}

#[test]
fn all_negative_values_and_constant_blocks_are_kept() {
    for (width, _) in WIDTHS {
        let format = Format { dtype: DataType::Float32, width, scheme: Scheme::MinMax };
        let constant = vec![-3.7_f32; BLOCK + 3];
        assert_eq!(floats(&there_and_back(format, &bytes_of(&constant))), constant);
        let ends: Vec<f32> = (0..BLOCK).map(|i| -1000.0 - i as f32).collect();
        let back = floats(&there_and_back(format, &bytes_of(&ends)));
        assert!((back[0] + 1000.0).abs() < 1e-3 && (back[255] + 1255.0).abs() < 1e-3, "{back:?}");
    }
}

#[test]
fn zero_stays_zero_with_a_zero_point() {
    let mut values: Vec<f32> = (0..BLOCK).map(|i| i as f32 * 0.37 - 20.0).collect();
    values[17] = 0.0;
    for (width, _) in WIDTHS {
        let format = Format { dtype: DataType::Float32, width, scheme: Scheme::ZeroPoint };
        assert_eq!(floats(&there_and_back(format, &bytes_of(&values)))[17].to_bits(), 0);
    }
}

#[test]
fn what_is_not_finite_makes_its_block_nan_and_no_other() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 5, 255] {
            let mut values = vec![1.0; 2 * BLOCK];
            values[at] = bad;
            for scheme in SCHEMES {
                let format = Format { dtype: DataType::Float32, width: Width::Eight, scheme };
                let back = floats(&there_and_back(format, &bytes_of(&values)));
                assert!(back[..BLOCK].iter().all(|v| v.is_nan()), "{bad} at {at}, {scheme:?}");
                assert!(back[BLOCK..].iter().all(|v| (v - 1.0).abs() < 1e-6));
            }
        }
    }
}

#[test]
fn every_type_goes_there_and_back() {
    let values: Vec<f64> = (0..700).map(|i| f64::from(i % 90) / 8.0 - 5.0).collect();
    let close = |back: f64, i: usize| assert!((back - values[i]).abs() < 0.06, "{back} {}", values[i]);
    let format = |dtype| Format { dtype, width: Width::Eight, scheme: Scheme::MinMax };
    let doubles: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
    for (i, b) in there_and_back(format(DataType::Float64), &doubles).chunks_exact(8).enumerate() {
        close(f64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]), i);
    }
    let halves: Vec<u8> = values.iter().flat_map(|v| f16::from_f64(*v).to_ne_bytes()).collect();
    for (i, b) in there_and_back(format(DataType::Float16), &halves).chunks_exact(2).enumerate() {
        close(f16::from_ne_bytes([b[0], b[1]]).to_f64(), i);
    }
    let upper_halves: Vec<u8> = values.iter().flat_map(|v| bf16::from_f64(*v).to_ne_bytes()).collect();
    for (i, b) in there_and_back(format(DataType::BFloat16), &upper_halves).chunks_exact(2).enumerate() {
        close(bf16::from_ne_bytes([b[0], b[1]]).to_f64(), i);
    }
}
