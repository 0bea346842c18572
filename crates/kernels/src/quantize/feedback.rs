//! Error feedback: what quantization has taken away is kept, and given back with the next contribution.
//!
//! A [`Residual`] has a number for each element of a tensor, `f32`, for tensors of `f64` `f64`. With `Q` and `D` for
//! quantization and what its blocks say, a peer contributes `Q(x + r)`, and `x + r − D(Q(x + r))` is left of it. Whoever
//! quantizes the sum adds what that has taken away to what is left of its own contribution. So over many rounds the sums
//! are off by what is left in the end, not by an error for each of them. (Seide et al., *1-Bit Stochastic Gradient Descent
//! and its Application to Data-Parallel Distributed Training of Speech DNNs*, 2014.)

use super::{BLOCK, Format, Real, combine_block, decode_block, encode_values};
use crate::{DataType, ReduceOp};

/// What has been taken away from the elements of a tensor so far.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Residual(pub(crate) Vec<u8>);

impl Residual {
    /// For a tensor of `count` elements in this format, in the memory of another one if that is neither too small nor much
    /// too large. What is in it is arbitrary.
    pub(crate) fn for_count(format: Format, count: usize, reuse: Option<Self>) -> Self {
        let bytes = count * format.number_bytes();
        match reuse {
            Some(Self(mut memory)) if (bytes..=2 * bytes.max(1 << 20)).contains(&memory.capacity()) => {
                memory.resize(bytes, 0);
                Self(memory)
            }
            _ => Self(vec![0; bytes]),
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.0.capacity()
    }

    /// The numbers, of a tensor of elements of at most 32 bits.
    pub fn to_f32(&self) -> Vec<f32> {
        self.0.chunks_exact(4).map(f32::load).collect()
    }

    /// The numbers, of a tensor of `f64`.
    pub fn to_f64(&self) -> Vec<f64> {
        self.0.chunks_exact(8).map(f64::load).collect()
    }
}

impl Format {
    /// The type of what the elements are calculated in.
    fn number(self) -> DataType {
        if self.dtype == DataType::Float64 { DataType::Float64 } else { DataType::Float32 }
    }

    /// Bytes of the residual of a block.
    pub(crate) fn residual_bytes(self) -> usize {
        BLOCK * self.number_bytes()
    }

    /// [`Format::encode`] of the elements and what was taken away from them `before`; what is left goes to `after`. Where a
    /// block has a value that is not finite, what was taken away before still is.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn encode_with_residual(
        &self,
        input: &[u8],
        before: Option<&[u8]>,
        output: &mut [u8],
        after: &mut [u8],
    ) {
        let size = self.dtype.size();
        let count = input.len() / size;
        let fits = |residual: &[u8]| residual.len() == count * self.number_bytes();
        assert_eq!(output.len(), self.bytes(count), "the output fits the input");
        assert!(fits(after) && before.is_none_or(fits), "the residuals fit the input");
        let blocks = input.chunks(BLOCK * size).zip(output.chunks_exact_mut(self.block_bytes()));
        let blocks = blocks.zip(after.chunks_mut(self.residual_bytes()));
        vectorized!(encode_blocks_with_residual(*self, blocks, before));
    }

    /// [`Format::reduce`] of a sum or an average; what its quantization takes away from it is added to `residual`, in the
    /// size that it has in a contribution. Where the sum is not finite, nothing is. Of the last block the residual may have
    /// fewer values.
    ///
    /// # Panics
    /// When the lengths do not fit, or there are no parts.
    pub fn reduce_with_residual(
        &self,
        op: ReduceOp,
        parts: &[&[u8]],
        output: &mut [u8],
        residual: &mut [u8],
    ) {
        let fit = |p: &&[u8]| p.len() == output.len();
        assert!(!parts.is_empty() && parts.iter().all(fit), "parts fit the output");
        assert!(output.len().is_multiple_of(self.block_bytes()), "whole blocks");
        assert_eq!(residual.len().div_ceil(self.residual_bytes()), output.len() / self.block_bytes());
        vectorized!(reduce_blocks_with_residual(*self, op, parts, output, residual));
    }
}

/// Elements, their blocks, and what is left.
type Piece<'a> = ((&'a [u8], &'a mut [u8]), &'a mut [u8]);

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Format, Piece, ReduceOp};

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn encode_blocks_with_residual<'a>(
        format: Format,
        blocks: impl Iterator<Item = Piece<'a>>,
        before: Option<&[u8]>,
    ) {
        super::encode_blocks_with_residual(format, blocks, before);
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn reduce_blocks_with_residual(
        format: Format,
        op: ReduceOp,
        parts: &[&[u8]],
        output: &mut [u8],
        residual: &mut [u8],
    ) {
        super::reduce_blocks_with_residual(format, op, parts, output, residual);
    }
}

#[inline(always)]
fn encode_blocks_with_residual<'a>(
    format: Format,
    blocks: impl Iterator<Item = Piece<'a>>,
    before: Option<&[u8]>,
) {
    for (i, ((input, output), after)) in blocks.enumerate() {
        let start = i * format.residual_bytes();
        let before = before.map(|before| &before[start..start + after.len()]);
        match format.dtype {
            DataType::Float64 => encode_block::<f64>(format, input, before, output, after),
            _ => encode_block::<f32>(format, input, before, output, after),
        }
    }
}

#[inline(always)]
fn encode_block<R: Real>(
    format: Format,
    input: &[u8],
    before: Option<&[u8]>,
    output: &mut [u8],
    after: &mut [u8],
) {
    let (mut values, mut left) = ([R::default(); BLOCK], [R::default(); BLOCK]);
    let count = input.len() / format.dtype.size();
    R::read(format.dtype, input, &mut values[..count]);
    if let Some(before) = before {
        R::read(format.number(), before, &mut left[..count]);
        for (value, r) in values.iter_mut().zip(&left) {
            *value = value.add(*r);
        }
    }
    let last = values[count - 1];
    values[count..].fill(last);
    encode_values(format, &values, output);
    let mut said = [R::default(); BLOCK];
    decode_block(format, output, &mut said);
    for ((r, value), said) in left.iter_mut().zip(&values).zip(&said) {
        let rest = value.sub(*said);
        *r = if rest.is_finite() { rest } else { *r };
    }
    R::write(format.number(), &left[..count], after);
}

#[inline(always)]
fn reduce_blocks_with_residual(
    format: Format,
    op: ReduceOp,
    parts: &[&[u8]],
    output: &mut [u8],
    residual: &mut [u8],
) {
    let bytes = format.block_bytes();
    let blocks = output.chunks_exact_mut(bytes).zip(residual.chunks_mut(format.residual_bytes()));
    for (i, (output, residual)) in blocks.enumerate() {
        match format.dtype {
            DataType::Float64 => reduce_block::<f64>(format, op, parts, i * bytes, output, residual),
            _ => reduce_block::<f32>(format, op, parts, i * bytes, output, residual),
        }
    }
}

#[inline(always)]
fn reduce_block<R: Real>(
    format: Format,
    op: ReduceOp,
    parts: &[&[u8]],
    at: usize,
    output: &mut [u8],
    residual: &mut [u8],
) {
    let sum = combine_block::<R>(format, op, parts, at);
    encode_values(format, &sum, output);
    let (mut said, mut left) = ([R::default(); BLOCK], [R::default(); BLOCK]);
    decode_block(format, output, &mut said);
    if format.dtype.size() == 2 {
        // What everybody gets has been rounded to the type of the elements.
        let mut rounded = [0; 2 * BLOCK];
        R::write(format.dtype, &said, &mut rounded);
        R::read(format.dtype, &rounded, &mut said);
    }
    let count = residual.len() / format.number_bytes();
    R::read(format.number(), residual, &mut left[..count]);
    // An average has been divided by the number of parts; what is missing from it is that much more of one part.
    let weight = R::of(if op == ReduceOp::Avg { parts.len() as f64 } else { 1.0 });
    for ((r, sum), said) in left.iter_mut().zip(&sum).zip(&said) {
        let more = r.add(sum.sub(*said).mul(weight));
        *r = if more.is_finite() { more } else { *r };
    }
    R::write(format.number(), &left[..count], residual);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{Scheme, Width};

    /// What this processor runs against what every processor does.
    #[test]
    fn both_twins_do_the_same() {
        for dtype in [DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64] {
            for (width, scheme) in [(Width::Eight, Scheme::ZeroPoint), (Width::Sixteen, Scheme::MinMax)] {
                let format = Format { dtype, width, scheme };
                let count = 3 * BLOCK + 17;
                let input: Vec<u8> = (0..count * dtype.size())
                    .map(|i| (i * i % 251) as u8 & if i % 2 == 1 { 0xbf } else { 255 })
                    .collect();
                let before = vec![0; count * format.number_bytes()];
                let run = |fast: bool, before: &[u8]| {
                    let (mut output, mut after) = (vec![0; format.bytes(count)], vec![0; before.len()]);
                    if fast {
                        format.encode_with_residual(&input, Some(before), &mut output, &mut after);
                    } else {
                        let blocks = input.chunks(BLOCK * dtype.size());
                        let blocks = blocks.zip(output.chunks_exact_mut(format.block_bytes()));
                        let blocks = blocks.zip(after.chunks_mut(format.residual_bytes()));
                        encode_blocks_with_residual(format, blocks, Some(before));
                    }
                    (output, after)
                };
                let (output, after) = run(true, &before);
                assert_eq!((&output, &after), (&run(false, &before).0, &run(false, &before).1), "{format:?}");
                assert_eq!(run(true, &after), run(false, &after), "{format:?}");
                let (mut fast, mut slow) =
                    ((vec![0; output.len()], after.clone()), (vec![0; output.len()], after));
                format.reduce_with_residual(
                    ReduceOp::Avg,
                    &[&output, &output, &output],
                    &mut fast.0,
                    &mut fast.1,
                );
                let parts: [&[u8]; 3] = [&output, &output, &output];
                reduce_blocks_with_residual(format, ReduceOp::Avg, &parts, &mut slow.0, &mut slow.1);
                assert_eq!(fast, slow, "{format:?}");
            }
        }
    }
}
