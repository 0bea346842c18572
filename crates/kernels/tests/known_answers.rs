//! Results worked out by hand, for the scalar twin and every instruction set alike.

use half::{bf16, f16};
use pccl_kernels::{DataType, Isa, ReduceOp, scalar};

/// Asserts that `a op b` is `expected`, in every form and on every instruction set, in both orders.
fn assert_reduces(dtype: DataType, op: ReduceOp, [a, b, expected]: [&[u8]; 3]) {
    // Long enough for whole vectors and a rest.
    let [a, b, expected] = [a, b, expected].map(|element| element.repeat(133));
    for (a, b) in [(&a, &b), (&b, &a)] {
        let mut results = vec![("scalar", vec![0; a.len()])];
        scalar::reduce(dtype, op, &mut results[0].1, a, b);
        for isa in [Isa::BASELINE, Isa::active()] {
            let (mut into, mut assign, mut left) = (vec![0; a.len()], a.clone(), b.clone());
            isa.reduce(dtype, op, &mut into, a, b);
            isa.reduce_assign(dtype, op, &mut assign, b);
            isa.reduce_assign_left(dtype, op, a, &mut left);
            results.extend([into, assign, left].map(|result| (isa.name(), result)));
        }
        for (by, result) in results {
            assert!(
                result == expected,
                "{dtype} {op} by {by}: {:x?} and {:x?} give {:x?}, not {:x?}",
                &a[..dtype.size()],
                &b[..dtype.size()],
                &result[..dtype.size()],
                &expected[..dtype.size()]
            );
        }
    }
}

/// Asserts that the average of `sum` over `world` is `expected` on every instruction set.
fn assert_divides(dtype: DataType, sum: &[u8], world: u32, expected: &[u8]) {
    let expected = expected.repeat(133);
    let mut by_scalar = sum.repeat(133);
    scalar::finalize(dtype, ReduceOp::Avg, &mut by_scalar, world);
    assert_eq!(by_scalar, expected, "{dtype} {sum:x?} / {world} by scalar");
    for isa in [Isa::BASELINE, Isa::active()] {
        let mut acc = sum.repeat(133);
        isa.finalize(dtype, ReduceOp::Avg, &mut acc, world);
        assert_eq!(acc, expected, "{dtype} {sum:x?} / {world} by {}", isa.name());
    }
}

macro_rules! reduces {
    ($dtype:ident, $T:ident: $($op:ident($a:expr, $b:expr) = $expected:expr;)*) => {$(
        let elements: [$T; 3] = [$a, $b, $expected];
        let [a, b, expected] = elements.map($T::to_ne_bytes);
        assert_reduces(DataType::$dtype, ReduceOp::$op, [&a, &b, &expected]);
    )*};
}

macro_rules! divides {
    ($dtype:ident, $T:ident: $($sum:expr, $world:expr => $expected:expr;)*) => {$(
        let (sum, expected): ($T, $T) = ($sum, $expected);
        assert_divides(DataType::$dtype, &sum.to_ne_bytes(), $world, &expected.to_ne_bytes());
    )*};
}

#[test]
fn integers_wrap() {
    reduces! { Uint8, u8: Sum(200, 100) = 44; Prod(16, 17) = 16; Max(127, 128) = 128; Min(127, 128) = 127; }
    reduces! { Int8, i8: Sum(100, 100) = -56; Prod(-128, -1) = -128; Max(-128, 127) = 127; Min(-1, 1) = -1; }
    reduces! { Int16, i16:
        Sum(i16::MAX, 1) = i16::MIN; Prod(256, 255) = -256; Max(-1, 0) = 0; Min(-1, 0) = -1;
    }
    reduces! { Uint16, u16:
        Sum(65535, 2) = 1; Prod(256, 257) = 256; Max(1, 65535) = 65535; Min(1, 65535) = 1;
    }
    reduces! { Uint32, u32: Avg(u32::MAX, 3) = 2; Prod(65536, 65537) = 65536; Max(1, 1 << 31) = 1 << 31; }
    reduces! { Int32, i32:
        Avg(i32::MIN, -1) = i32::MAX; Prod(i32::MIN, -1) = i32::MIN; Min(1, i32::MIN) = i32::MIN;
    }
    reduces! { Uint64, u64:
        Sum(u64::MAX, 3) = 2; Prod(1 << 32, (1 << 32) + 1) = 1 << 32; Max(1, 1 << 63) = 1 << 63;
    }
    reduces! { Int64, i64:
        Sum(i64::MIN, -1) = i64::MAX; Prod(i64::MIN, -1) = i64::MIN; Min(1, i64::MIN) = i64::MIN;
    }
}

#[test]
fn integer_averages_truncate_toward_zero() {
    divides! { Uint8, u8: 255, 2 => 127; 255, 256 => 0; 254, 85 => 2; 255, u32::MAX => 0; }
    divides! { Int8, i8:
        -7, 2 => -3; 7, 2 => 3; -128, 1 => -128; -128, 128 => -1; -128, 129 => 0;
        -128, u32::MAX => 0;
    }
    divides! { Int16, i16: -32768, 32768 => -1; -32767, 32768 => 0; -5, 3 => -1; }
    divides! { Uint16, u16: 65535, 65535 => 1; 65534, 65535 => 0; 65535, 65536 => 0; }
    divides! { Uint32, u32: u32::MAX, u32::MAX => 1; u32::MAX - 1, u32::MAX => 0; u32::MAX, 1 => u32::MAX; }
    divides! { Int32, i32:
        i32::MIN, 1 => i32::MIN; i32::MIN, 1 << 31 => -1; -8, 3 => -2; i32::MAX, u32::MAX => 0;
    }
    divides! { Uint64, u64: u64::MAX, 1 => u64::MAX; u64::MAX, u32::MAX => (1 << 32) + 1; }
    divides! { Int64, i64: i64::MIN, 1 => i64::MIN; i64::MIN, 3 => i64::MIN / 3; -8, 3 => -2; }
}

#[test]
fn single_floats() {
    let nan = f32::from_bits(0x7FC0_0000);
    let bits = f32::from_bits;
    reduces! { Float32, f32:
        Sum(0.1, 0.2) = bits(0x3E99_999A); Sum(16_777_216.0, 1.0) = 16_777_216.0;
        Sum(f32::MAX, f32::MAX) = f32::INFINITY;
        Sum(-0.0, -0.0) = -0.0; Sum(-0.0, 0.0) = 0.0; Sum(bits(1), bits(1)) = bits(2);
        Sum(f32::INFINITY, f32::NEG_INFINITY) = nan; Sum(bits(0xFFC1_2345), 1.0) = nan;
        Avg(bits(0x7F80_0001), 1.0) = nan;
        Prod(0.0, f32::INFINITY) = nan; Prod(-0.0, 2.0) = -0.0; Prod(bits(3), 0.5) = bits(2);
        Prod(bits(1), 0.5) = 0.0;
        Max(-0.0, 0.0) = 0.0; Max(-0.0, -0.0) = -0.0; Max(1.0, bits(0xFFFF_FFFF)) = nan;
        Max(f32::INFINITY, nan) = nan;
        Max(-1.0, f32::NEG_INFINITY) = -1.0; Max(bits(0x8000_0001), -0.0) = -0.0; Max(1.0, 2.0) = 2.0;
        Min(-0.0, 0.0) = -0.0; Min(0.0, 0.0) = 0.0; Min(1.0, bits(0x7F80_0001)) = nan;
        Min(f32::NEG_INFINITY, nan) = nan;
        Min(1.0, bits(1)) = bits(1); Min(-3.0, -2.0) = -3.0;
    }
    divides! { Float32, f32:
        1.0, 3 => bits(0x3EAA_AAAB); -0.0, 3 => -0.0; bits(3), 2 => bits(2);
        bits(0xFF80_0001), 1 => nan; 3.0, 1 => 3.0;
        1.0, 16_777_217 => bits(0x3380_0000); f32::INFINITY, 9 => f32::INFINITY;
    }
}

#[test]
fn double_floats() {
    let nan = f64::from_bits(0x7FF8_0000_0000_0000);
    let bits = f64::from_bits;
    reduces! { Float64, f64:
        Sum(0.1, 0.2) = bits(0x3FD3_3333_3333_3334); Sum(bits(1), bits(2)) = bits(3);
        Sum(f64::INFINITY, -f64::INFINITY) = nan;
        Prod(bits(0xFFF0_0000_0000_0001), 1.0) = nan; Prod(1e300, -1e300) = -f64::INFINITY;
        Max(-0.0, 0.0) = 0.0; Max(-nan, 1.0) = nan; Min(-0.0, 0.0) = -0.0; Min(-nan, 1.0) = nan;
        Min(-2.0, -3.0) = -3.0;
    }
    divides! { Float64, f64:
        1.0, 3 => bits(0x3FD5_5555_5555_5555); 8_589_934_590.0, u32::MAX => 2.0; -nan, 2 => nan;
    }
}

#[test]
fn half_floats_round_each_step_to_nearest_even() {
    let nan = f16::from_bits(0x7E00);
    let bits = f16::from_bits;
    let h = f16::from_f32;
    reduces! { Float16, f16:
        Sum(h(2048.0), h(1.0)) = h(2048.0); Sum(h(2048.0), h(3.0)) = h(2052.0);
        Sum(h(2050.0), h(1.0)) = h(2052.0);
        Sum(h(65504.0), h(15.0)) = h(65504.0); Sum(h(65504.0), h(16.0)) = f16::INFINITY;
        Sum(bits(1), bits(0x03FF)) = bits(0x0400);
        Sum(bits(0xFC01), h(1.0)) = nan; Sum(f16::INFINITY, f16::NEG_INFINITY) = nan;
        Sum(bits(0x8000), bits(0x8000)) = bits(0x8000);
        Prod(bits(1), h(0.5)) = bits(0); Prod(bits(3), h(0.5)) = bits(2);
        Prod(bits(0x8001), h(0.75)) = bits(0x8001);
        Prod(h(256.0), h(-256.0)) = f16::NEG_INFINITY; Prod(bits(0x0400), h(0.5)) = bits(0x0200);
        Prod(h(3.0), h(5.0)) = h(15.0);
        Max(bits(0x8000), bits(0)) = bits(0); Max(bits(0x7C01), h(1.0)) = nan;
        Max(h(-1.0), bits(0x8001)) = bits(0x8001);
        Min(bits(0x8000), bits(0)) = bits(0x8000); Min(bits(0xFFFF), h(1.0)) = nan;
        Min(bits(0x03FF), bits(0x0400)) = bits(0x03FF);
    }
    divides! { Float16, f16:
        h(1.0), 3 => bits(0x3555); bits(3), 2 => bits(2); bits(1), 2 => bits(0);
        bits(0xFC01), 1 => nan; h(6.0), 100_000 => bits(0x03EF);
    }
}

#[test]
fn brain_floats_round_each_step_to_nearest_even() {
    let nan = bf16::from_bits(0x7FC0);
    let bits = bf16::from_bits;
    let b = bf16::from_f32;
    reduces! { BFloat16, bf16:
        Sum(b(256.0), b(1.0)) = b(256.0); Sum(b(258.0), b(1.0)) = b(260.0); Sum(b(256.0), b(1.5)) = b(258.0);
        Sum(bf16::MAX, bf16::MAX) = bf16::INFINITY; Sum(bits(1), bits(0x7F)) = bits(0x80);
        Sum(bits(0xFF81), b(1.0)) = nan;
        Sum(bits(0x8000), bits(0)) = bits(0); Prod(bits(1), b(0.5)) = bits(0);
        Prod(bits(3), b(0.5)) = bits(2);
        Prod(bits(0), bf16::INFINITY) = nan; Prod(bf16::MAX, b(-2.0)) = bf16::NEG_INFINITY;
        Prod(b(3.0), b(5.0)) = b(15.0);
        Max(bits(0x8000), bits(0)) = bits(0); Max(bits(0x7F81), b(1.0)) = nan;
        Max(b(-1.0), bits(0x8001)) = bits(0x8001);
        Min(bits(0x8000), bits(0)) = bits(0x8000); Min(bits(0xFFFF), b(1.0)) = nan;
        Min(bits(0x7F), bits(0x80)) = bits(0x7F);
    }
    divides! { BFloat16, bf16:
        b(1.0), 3 => bits(0x3EAB); bits(3), 2 => bits(2); bits(0xFF81), 1 => nan;
        b(-7.0), 2 => b(-3.5);
    }
}

#[test]
fn only_an_average_is_divided_at_the_end() {
    let signalling = f32::from_bits(0x7F80_0001).to_ne_bytes();
    for op in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min] {
        let mut acc = signalling;
        pccl_kernels::finalize(DataType::Float32, op, &mut acc, 4);
        assert_eq!(acc, signalling);
        scalar::finalize(DataType::Float32, op, &mut acc, 4);
        assert_eq!(acc, signalling);
    }
}

#[test]
#[should_panic(expected = "an operand of 8 bytes is combined into 4 bytes")]
fn operands_of_another_length_are_a_bug() {
    pccl_kernels::reduce_assign(DataType::Float32, ReduceOp::Sum, &mut [0; 4], &[0; 8]);
}

#[test]
#[should_panic(expected = "an operand of 0 bytes is combined into 4 bytes")]
fn a_second_operand_of_another_length_is_a_bug() {
    pccl_kernels::reduce(DataType::Float32, ReduceOp::Sum, &mut [0; 4], &[0; 4], &[]);
}

#[test]
#[should_panic(expected = "6 bytes are no whole number of f32 elements")]
fn part_of_an_element_is_a_bug() {
    pccl_kernels::reduce_assign_left(DataType::Float32, ReduceOp::Sum, &[0; 6], &mut [0; 6]);
}

#[test]
#[should_panic(expected = "world of no peers")]
fn an_average_over_nobody_is_a_bug() {
    pccl_kernels::finalize(DataType::Float32, ReduceOp::Avg, &mut [0; 4], 0);
}
