//! Quantization of floating-point tensors to integers of 8 or 16 bits, in blocks with a scale of their own.
//!
//! A block of [`BLOCK`] values becomes two numbers and an integer for each value. With `L` the largest integer (255 or
//! 65,535), and the smallest and largest value of the block `lo` and `hi`:
//!
//! | [`Scheme`] | first number | scale | value of the integer `q` |
//! | --- | --- | --- | --- |
//! | `MinMax` | the middle `m` of `lo` and `hi` | `(hi − lo) / L` | `m + (q − L/2) · scale` |
//! | `ZeroPoint`, with `lo ≤ 0 ≤ hi` | the integer `z` of 0 | `(hi − lo) / L` | `(q − z) · scale`: 0 stays exactly 0 |
//!
//! Rounding is to nearest, ties to even, so a value is off by half a scale at most (and the rounding of `f32`). The
//! numbers are `f32`, for tensors of `f64` they are `f64`. A block with a value that is not finite becomes NaN as a whole,
//! so that it is not mistaken for a sum. Nothing depends on the instruction set: every step rounds, and none is fused.
//!
//! [`Format::encode_with_residual`] and [`Format::reduce_with_residual`] keep what is taken away ([`Residual`]).

#![expect(
    clippy::inline_always,
    reason = "so that the loops are compiled for AVX2 where they are called from"
)]

use half::{bf16, f16};

use crate::{DataType, ReduceOp};

/// Runs a function that is compiled twice: for every processor, and for those with AVX2. The results are the same.
macro_rules! vectorized {
    ($name:ident($($argument:expr),*)) => {{
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has it.
            return unsafe { avx2::$name($($argument),*) };
        }
        $name($($argument),*)
    }};
}

mod feedback;
pub use feedback::Residual;

/// Values of a block.
pub const BLOCK: usize = 256;

/// How the range of the integers is laid over that of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// From the smallest to the largest value.
    MinMax,
    /// The same, widened to hold 0, which stays exactly 0.
    ZeroPoint,
}

/// The size of the integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Eight,
    /// 16 bits.
    Sixteen,
}

/// What a tensor becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Element type of the tensor: [`DataType::Float16`], [`DataType::BFloat16`], [`DataType::Float32`] or
    /// [`DataType::Float64`].
    pub dtype: DataType,
    /// The size of the integers.
    pub width: Width,
    /// How they are laid over the values.
    pub scheme: Scheme,
}

impl Format {
    /// The format of tensors of the type with this code: 1 and 2 are min-max and zero point with 8 bits, 3 and 4 with 16.
    /// There are formats for floating-point types only.
    pub fn from_codes(dtype: u8, quantization: u8) -> Option<Self> {
        use DataType::{BFloat16, Float16, Float32, Float64};
        let dtype = DataType::from_code(dtype)?;
        let (width, scheme) = match quantization {
            1 => (Width::Eight, Scheme::MinMax),
            2 => (Width::Eight, Scheme::ZeroPoint),
            3 => (Width::Sixteen, Scheme::MinMax),
            4 => (Width::Sixteen, Scheme::ZeroPoint),
            _ => return None,
        };
        let floats = matches!(dtype, Float16 | BFloat16 | Float32 | Float64);
        floats.then_some(Self { dtype, width, scheme })
    }

    fn number_bytes(self) -> usize {
        if self.dtype == DataType::Float64 { 8 } else { 4 }
    }

    fn width_bytes(self) -> usize {
        match self.width {
            Width::Eight => 1,
            Width::Sixteen => 2,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        2 * self.number_bytes() + BLOCK * self.width_bytes()
    }

    /// Bytes of the blocks of `count` values; the last block is a whole one too.
    pub fn bytes(&self, count: usize) -> usize {
        count.div_ceil(BLOCK) * self.block_bytes()
    }

    /// Quantizes the elements in `input` to `output`, which has [`Format::bytes`] of them. The last block is filled up
    /// with its last value, which leaves its range as it is.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn encode(&self, input: &[u8], output: &mut [u8]) {
        let size = self.dtype.size();
        assert_eq!(output.len(), self.bytes(input.len() / size), "the output fits the input");
        let blocks = input.chunks(BLOCK * size).zip(output.chunks_exact_mut(self.block_bytes()));
        vectorized!(encode_blocks(*self, blocks));
    }

    /// Reduces blocks that were quantized to `parts`, in their order, and quantizes the result to `output`.
    ///
    /// # Panics
    /// When the lengths do not fit, or there are no parts.
    pub fn reduce(&self, op: ReduceOp, parts: &[&[u8]], output: &mut [u8]) {
        let fit = |p: &&[u8]| p.len() == output.len();
        assert!(!parts.is_empty() && parts.iter().all(fit), "parts fit the output");
        assert!(output.len().is_multiple_of(self.block_bytes()), "whole blocks");
        vectorized!(reduce_blocks(*self, op, parts, output));
    }

    /// The elements that `input`, whole blocks, stands for; `output` says how many.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn decode(&self, input: &[u8], output: &mut [u8]) {
        let size = self.dtype.size();
        assert_eq!(input.len(), self.bytes(output.len() / size), "the output fits the input");
        let blocks = input.chunks_exact(self.block_bytes()).zip(output.chunks_mut(BLOCK * size));
        vectorized!(decode_blocks(*self, blocks));
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Format, ReduceOp};

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn encode_blocks<'a>(format: Format, blocks: impl Iterator<Item = (&'a [u8], &'a mut [u8])>) {
        super::encode_blocks(format, blocks);
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn decode_blocks<'a>(format: Format, blocks: impl Iterator<Item = (&'a [u8], &'a mut [u8])>) {
        super::decode_blocks(format, blocks);
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn reduce_blocks(format: Format, op: ReduceOp, parts: &[&[u8]], output: &mut [u8]) {
        super::reduce_blocks(format, op, parts, output);
    }
}

#[inline(always)]
fn encode_blocks<'a>(format: Format, blocks: impl Iterator<Item = (&'a [u8], &'a mut [u8])>) {
    for (input, output) in blocks {
        match format.dtype {
            DataType::Float64 => encode_block::<f64>(format, input, output),
            _ => encode_block::<f32>(format, input, output),
        }
    }
}

#[inline(always)]
fn decode_blocks<'a>(format: Format, blocks: impl Iterator<Item = (&'a [u8], &'a mut [u8])>) {
    for (input, output) in blocks {
        match format.dtype {
            DataType::Float64 => decode_to::<f64>(format, input, output),
            _ => decode_to::<f32>(format, input, output),
        }
    }
}

#[inline(always)]
fn reduce_blocks(format: Format, op: ReduceOp, parts: &[&[u8]], output: &mut [u8]) {
    let bytes = format.block_bytes();
    for (i, output) in output.chunks_exact_mut(bytes).enumerate() {
        match format.dtype {
            DataType::Float64 => reduce_block::<f64>(format, op, parts, i * bytes, output),
            _ => reduce_block::<f32>(format, op, parts, i * bytes, output),
        }
    }
}

/// The arithmetic of a block.
trait Real: Copy + PartialOrd + Default {
    fn of(value: f64) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// To the nearest integer, ties to even, below 2²².
    fn round(self) -> Self;
    /// The nearest integer, ties to even, of what lies between 0 and 2¹⁶.
    fn to_int(self) -> u32;
    fn from_int(q: u32) -> Self;
    fn is_finite(self) -> bool;
    fn load(bytes: &[u8]) -> Self;
    fn store(self, bytes: &mut [u8]);
    /// Smallest scale whose inverse is finite.
    fn least_scale() -> Self;
    fn read(dtype: DataType, input: &[u8], values: &mut [Self]);
    fn write(dtype: DataType, values: &[Self], output: &mut [u8]);
}

macro_rules! real {
    ($real:ident, $bytes:literal, $magic:literal, $integers:literal) => {
        fn of(value: f64) -> Self {
            value as $real
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            self + other
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            self - other
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            self * other
        }
        #[inline(always)]
        fn div(self, other: Self) -> Self {
            self / other
        }
        #[inline(always)]
        fn round(self) -> Self {
            // One and a half times 2 to the bits of the mantissa: what is added to it loses its fraction.
            (self + $magic) - $magic
        }
        #[inline(always)]
        fn to_int(self) -> u32 {
            // The lowest bits of a number of this size are an integer. A cast would look for what is out of range.
            (self + $integers).to_bits() as u32 & 0x1_ffff
        }
        #[inline(always)]
        fn from_int(q: u32) -> Self {
            q as $real
        }
        #[inline(always)]
        fn is_finite(self) -> bool {
            // An infinite or NaN value less itself is NaN.
            self - self == 0.0
        }
        #[inline(always)]
        fn load(bytes: &[u8]) -> Self {
            let mut word = [0; $bytes];
            word.copy_from_slice(&bytes[..$bytes]);
            $real::from_le_bytes(word)
        }
        #[inline(always)]
        fn store(self, bytes: &mut [u8]) {
            bytes[..$bytes].copy_from_slice(&self.to_le_bytes());
        }
        fn least_scale() -> Self {
            $real::MIN_POSITIVE * 4.0
        }
    };
}

impl Real for f32 {
    real!(f32, 4, 12_582_912.0, 8_388_608.0);

    #[inline(always)]
    fn read(dtype: DataType, input: &[u8], values: &mut [Self]) {
        match dtype {
            DataType::Float16 => {
                for (v, b) in values.iter_mut().zip(input.chunks_exact(2)) {
                    *v = f16::from_ne_bytes([b[0], b[1]]).to_f32();
                }
            }
            DataType::BFloat16 => {
                for (v, b) in values.iter_mut().zip(input.chunks_exact(2)) {
                    *v = bf16::from_ne_bytes([b[0], b[1]]).to_f32();
                }
            }
            _ => {
                for (v, b) in values.iter_mut().zip(input.chunks_exact(4)) {
                    *v = f32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
        }
    }

    #[inline(always)]
    fn write(dtype: DataType, values: &[Self], output: &mut [u8]) {
        match dtype {
            DataType::Float16 => {
                for (v, b) in values.iter().zip(output.chunks_exact_mut(2)) {
                    b.copy_from_slice(&f16::from_f32(*v).to_ne_bytes());
                }
            }
            DataType::BFloat16 => {
                for (v, b) in values.iter().zip(output.chunks_exact_mut(2)) {
                    b.copy_from_slice(&bf16::from_f32(*v).to_ne_bytes());
                }
            }
            _ => {
                for (v, b) in values.iter().zip(output.chunks_exact_mut(4)) {
                    b.copy_from_slice(&v.to_ne_bytes());
                }
            }
        }
    }
}

impl Real for f64 {
    real!(f64, 8, 6_755_399_441_055_744.0, 4_503_599_627_370_496.0);

    #[inline(always)]
    fn read(_: DataType, input: &[u8], values: &mut [Self]) {
        for (v, b) in values.iter_mut().zip(input.chunks_exact(8)) {
            *v = f64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        }
    }

    #[inline(always)]
    fn write(_: DataType, values: &[Self], output: &mut [u8]) {
        for (v, b) in values.iter().zip(output.chunks_exact_mut(8)) {
            b.copy_from_slice(&v.to_ne_bytes());
        }
    }
}

/// The value of integer `q` is `base + (q − center) · scale`.
struct Line<R> {
    base: R,
    center: R,
    scale: R,
}

/// Smallest and largest value; a NaN anywhere makes one of them NaN.
#[inline(always)]
fn extremes<R: Real>(values: &[R]) -> (R, R) {
    const LANES: usize = 16;
    let (mut lo, mut hi) = ([values[0]; LANES], [values[0]; LANES]);
    // `!(x >= lo)` is true for NaN, which then stays: nothing is at least NaN, so every later value would replace it; the
    // poison lane keeps it.
    let mut poison = [values[0].sub(values[0]); LANES];
    let whole = values.chunks_exact(LANES);
    let rest = whole.remainder();
    for chunk in whole {
        for i in 0..LANES {
            let x = chunk[i];
            lo[i] = if x < lo[i] { x } else { lo[i] };
            hi[i] = if x > hi[i] { x } else { hi[i] };
            poison[i] = poison[i].add(x.sub(x));
        }
    }
    for (i, x) in rest.iter().enumerate() {
        lo[i] = if *x < lo[i] { *x } else { lo[i] };
        hi[i] = if *x > hi[i] { *x } else { hi[i] };
        poison[i] = poison[i].add(x.sub(*x));
    }
    let (mut least, mut most, mut sick) = (lo[0], hi[0], poison[0]);
    for i in 1..LANES {
        least = if lo[i] < least { lo[i] } else { least };
        most = if hi[i] > most { hi[i] } else { most };
        sick = sick.add(poison[i]);
    }
    // An infinite or NaN value less itself is NaN, a finite one 0.
    (least.add(sick), most.add(sick))
}

#[inline(always)]
fn line<R: Real>(format: Format, values: &[R]) -> Line<R> {
    let largest: f64 = if format.width == Width::Eight { 255.0 } else { 65_535.0 };
    let (mut lo, mut hi) = extremes(values);
    let (zero, levels) = (R::default(), R::of(largest));
    if format.scheme == Scheme::ZeroPoint {
        lo = if lo > zero { zero } else { lo };
        hi = if hi < zero { zero } else { hi };
    }
    // Not the quotient of the difference, which may be too large for its type.
    let scale = hi.div(levels).sub(lo.div(levels));
    let scale = if scale < R::least_scale() { zero } else { scale };
    match format.scheme {
        Scheme::MinMax => {
            let half = R::of(0.5);
            let base = if lo == hi { lo } else { lo.mul(half).add(hi.mul(half)) };
            Line { base, center: levels.mul(half), scale }
        }
        Scheme::ZeroPoint => {
            let center = if scale > zero { zero.sub(lo).div(scale).round() } else { zero };
            Line { base: zero, center, scale }
        }
    }
}

#[inline(always)]
fn encode_block<R: Real>(format: Format, input: &[u8], output: &mut [u8]) {
    let mut values = [R::default(); BLOCK];
    let count = input.len() / format.dtype.size();
    R::read(format.dtype, input, &mut values[..count]);
    let last = values[count - 1];
    values[count..].fill(last);
    encode_values(format, &values, output);
}

#[inline(always)]
fn encode_values<R: Real>(format: Format, values: &[R; BLOCK], output: &mut [u8]) {
    let line = line(format, values);
    let n = format.number_bytes();
    let first = if format.scheme == Scheme::MinMax { line.base } else { line.center };
    first.store(output);
    line.scale.store(&mut output[n..]);
    let zero = R::default();
    let inverse = if line.scale > zero { R::of(1.0).div(line.scale) } else { zero };
    let most = R::of(if format.width == Width::Eight { 255.0 } else { 65_535.0 });
    let integer = |x: R| {
        let q = x.sub(line.base).mul(inverse).add(line.center);
        // NaN becomes the largest: its block has a scale of NaN. Between integers, clamping and rounding commute.
        let q = if q < most { q } else { most };
        (if q > zero { q } else { zero }).to_int()
    };
    match format.width {
        Width::Eight => {
            for (x, q) in values.iter().zip(&mut output[2 * n..]) {
                *q = integer(*x) as u8;
            }
        }
        Width::Sixteen => {
            for (x, q) in values.iter().zip(output[2 * n..].chunks_exact_mut(2)) {
                q.copy_from_slice(&(integer(*x) as u16).to_le_bytes());
            }
        }
    }
}

#[inline(always)]
fn decode_block<R: Real>(format: Format, encoded: &[u8], values: &mut [R]) {
    let n = format.number_bytes();
    let (first, scale) = (R::load(encoded), R::load(&encoded[n..]));
    let middle = R::of(if format.width == Width::Eight { 127.5 } else { 32_767.5 });
    let (base, center) = match format.scheme {
        Scheme::MinMax => (first, middle),
        Scheme::ZeroPoint => (R::default(), first),
    };
    let value = |q: u32| base.add(R::from_int(q).sub(center).mul(scale));
    match format.width {
        Width::Eight => {
            for (v, q) in values.iter_mut().zip(&encoded[2 * n..]) {
                *v = value(u32::from(*q));
            }
        }
        Width::Sixteen => {
            for (v, q) in values.iter_mut().zip(encoded[2 * n..].chunks_exact(2)) {
                *v = value(u32::from(u16::from_le_bytes([q[0], q[1]])));
            }
        }
    }
}

#[inline(always)]
fn decode_to<R: Real>(format: Format, input: &[u8], output: &mut [u8]) {
    let mut values = [R::default(); BLOCK];
    decode_block(format, input, &mut values);
    R::write(format.dtype, &values[..output.len() / format.dtype.size()], output);
}

#[inline(always)]
fn reduce_block<R: Real>(format: Format, op: ReduceOp, parts: &[&[u8]], at: usize, output: &mut [u8]) {
    encode_values(format, &combine_block::<R>(format, op, parts, at), output);
}

/// The reduction of the parts' blocks at this byte, before it is quantized.
#[inline(always)]
fn combine_block<R: Real>(format: Format, op: ReduceOp, parts: &[&[u8]], at: usize) -> [R; BLOCK] {
    let (mut sum, mut next) = ([R::default(); BLOCK], [R::default(); BLOCK]);
    decode_block(format, &parts[0][at..], &mut sum);
    for part in &parts[1..] {
        decode_block(format, &part[at..], &mut next);
        for (a, b) in sum.iter_mut().zip(next.iter()) {
            *a = match op {
                ReduceOp::Sum | ReduceOp::Avg => a.add(*b),
                ReduceOp::Prod => a.mul(*b),
                // NaN stays: a comparison with it is false.
                ReduceOp::Max => {
                    if *a >= *b || a.sub(*a) != R::default() {
                        *a
                    } else {
                        *b
                    }
                }
                ReduceOp::Min => {
                    if *a <= *b || a.sub(*a) != R::default() {
                        *a
                    } else {
                        *b
                    }
                }
            };
        }
    }
    if op == ReduceOp::Avg {
        let world = R::of(parts.len() as f64);
        for a in &mut sum {
            *a = a.div(world);
        }
    }
    sum
}
