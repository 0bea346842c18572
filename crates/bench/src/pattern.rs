//! Inputs whose reduction is known, for every element type and operator.
//!
//! A value depends on the peer's rank and on the element's place modulo [`PERIOD`]; values are so small that every partial
//! result is exact in every type, so the result does not depend on the order of the reduction.

use half::{bf16, f16};
use pccl::{DataType, Quantization, ReduceOp};

/// Places after which values repeat: a prime, so that no block boundary meets it.
const PERIOD: usize = 251;

/// The inputs of one rank and the result of all, one period of each.
#[derive(Debug)]
pub(crate) struct Pattern {
    input: Vec<u8>,
    /// Of an in-place op that runs again and again on its own result: its input, which the result does not outgrow.
    rest: Vec<u8>,
    expected: Vec<u8>,
    element_bytes: usize,
    /// How far off elements may be that travel as integers.
    lossy: Option<Lossy>,
}

#[derive(Clone, Copy, Debug)]
struct Lossy {
    dtype: DataType,
    off: f64,
}

impl Pattern {
    /// For the peer of `rank` in a world of `world`.
    pub(crate) fn new(dtype: DataType, op: ReduceOp, rank: u32, world: u32) -> Self {
        let all = |f: &dyn Fn(usize) -> f64| -> Vec<u8> {
            (0..PERIOD).flat_map(|place| encode(dtype, f(place))).collect()
        };
        Self {
            input: all(&|place| value(dtype, op, rank, place)),
            rest: all(&|_| f64::from(u8::from(op == ReduceOp::Prod))),
            expected: (0..PERIOD).flat_map(|place| result(dtype, op, world, place)).collect(),
            element_bytes: dtype.size_bytes(),
            lossy: None,
        }
    }

    /// Sums or averages whose values travel as integers: off by half a step of the range of each contribution, and of the
    /// sum.
    pub(crate) fn quantized(mut self, how: Quantization, dtype: DataType, op: ReduceOp, world: u32) -> Self {
        let steps = match how {
            Quantization::MinMaxU8 | Quantization::ZeroPointU8 => f64::from(u8::MAX),
            Quantization::MinMaxU16 | Quantization::ZeroPointU16 => f64::from(u16::MAX),
        };
        let largest = (0..PERIOD).map(|place| value(dtype, op, 0, place)).fold(0.0, f64::max);
        let peers = if op == ReduceOp::Avg { 1.0 } else { f64::from(world) };
        // The sum's range is that of contributions that are off.
        self.lossy = Some(Lossy { dtype, off: peers * largest / steps * 1.01 });
        self
    }

    /// Writes this peer's input.
    pub(crate) fn fill(&self, buffer: &mut [u8]) {
        repeat(&self.input, buffer);
    }

    /// Writes what an op in place can reduce any number of times.
    pub(crate) fn fill_rest(&self, buffer: &mut [u8]) {
        repeat(&self.rest, buffer);
    }

    /// Overwrites a result with what no result is.
    pub(crate) fn poison(&self, buffer: &mut [u8]) {
        let bad: Vec<u8> = self.expected.iter().map(|byte| !byte).collect();
        repeat(&bad, buffer);
    }

    /// Elements that are not as expected: bit for bit, or as near as they can be.
    pub(crate) fn wrong(&self, buffer: &[u8]) -> u64 {
        let wrong_in = |block: &[u8]| {
            if block == &self.expected[..block.len()] {
                return 0;
            }
            let pairs = block.chunks(self.element_bytes).zip(self.expected.chunks(self.element_bytes));
            pairs.filter(|(is, should)| is != should && !self.is_near(is, should)).count() as u64
        };
        buffer.chunks(self.expected.len()).map(wrong_in).sum()
    }
}

impl Pattern {
    fn is_near(&self, is: &[u8], should: &[u8]) -> bool {
        let Some(Lossy { dtype, off }) = self.lossy else { return false };
        let (is, should) = (number(dtype, is), number(dtype, should));
        // What is read is rounded to the element type.
        let rounding = if dtype.size_bytes() == 2 { 1.0 / 256.0 } else { 1e-6 };
        (is - should).abs() <= off + should.abs() * rounding
    }
}

/// An element of a floating-point type.
fn number(dtype: DataType, bytes: &[u8]) -> f64 {
    match (dtype, bytes) {
        (DataType::F16, &[a, b]) => f16::from_ne_bytes([a, b]).to_f64(),
        (DataType::BF16, &[a, b]) => bf16::from_ne_bytes([a, b]).to_f64(),
        (DataType::F32, &[a, b, c, d]) => f32::from_ne_bytes([a, b, c, d]).into(),
        (DataType::F64, bytes) => bytes.try_into().map_or(f64::NAN, f64::from_ne_bytes),
        _ => f64::NAN,
    }
}

fn repeat(period: &[u8], buffer: &mut [u8]) {
    for block in buffer.chunks_mut(period.len()) {
        block.copy_from_slice(&period[..block.len()]);
    }
}

/// The input of `rank` at `place`.
fn value(dtype: DataType, op: ReduceOp, rank: u32, place: usize) -> f64 {
    let mixed = place + 7 * rank as usize;
    let number = match op {
        // Few twos among ones: the product of a whole fleet still fits into a byte's modulus or a half's range.
        ReduceOp::Prod => 1 + usize::from(mixed.is_multiple_of(31)),
        ReduceOp::Sum | ReduceOp::Avg => {
            let top = match dtype {
                DataType::U8 | DataType::I8 | DataType::BF16 => 2,
                DataType::F16 => 8,
                _ => 251,
            };
            mixed % top
        }
        ReduceOp::Max | ReduceOp::Min => mixed % 101,
    };
    number as f64
}

/// The reduction over all ranks at `place`, as bytes.
fn result(dtype: DataType, op: ReduceOp, world: u32, place: usize) -> Vec<u8> {
    let values = (0..world).map(|rank| value(dtype, op, rank, place));
    let all = match op {
        ReduceOp::Sum => values.sum(),
        ReduceOp::Prod => values.product(),
        ReduceOp::Max => values.fold(f64::MIN, f64::max),
        ReduceOp::Min => values.fold(f64::MAX, f64::min),
        ReduceOp::Avg => return average(dtype, values.sum(), world),
    };
    encode(dtype, all)
}

/// A quotient is rounded once, in the type that the kernels divide in.
fn average(dtype: DataType, sum: f64, world: u32) -> Vec<u8> {
    match dtype {
        DataType::F64 => encode(dtype, sum / f64::from(world)),
        DataType::F32 | DataType::F16 | DataType::BF16 => encode(dtype, f64::from(sum as f32 / world as f32)),
        _ => encode(dtype, (sum / f64::from(world)).trunc()),
    }
}

/// `value` in native byte order; integers wrap.
fn encode(dtype: DataType, value: f64) -> Vec<u8> {
    let whole = value as i64;
    match dtype {
        DataType::U8 => (whole as u8).to_ne_bytes().to_vec(),
        DataType::I8 => (whole as i8).to_ne_bytes().to_vec(),
        DataType::U16 => (whole as u16).to_ne_bytes().to_vec(),
        DataType::I16 => (whole as i16).to_ne_bytes().to_vec(),
        DataType::U32 => (whole as u32).to_ne_bytes().to_vec(),
        DataType::I32 => (whole as i32).to_ne_bytes().to_vec(),
        DataType::U64 => (whole as u64).to_ne_bytes().to_vec(),
        DataType::I64 => whole.to_ne_bytes().to_vec(),
        DataType::F16 => f16::from_f32(value as f32).to_ne_bytes().to_vec(),
        DataType::BF16 => bf16::from_f32(value as f32).to_ne_bytes().to_vec(),
        DataType::F32 => (value as f32).to_ne_bytes().to_vec(),
        DataType::F64 => value.to_ne_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_results_are_exact_in_every_type() {
        for (dtype, op) in DataType::ALL.iter().flat_map(|d| ReduceOp::ALL.iter().map(move |o| (*d, *o))) {
            let exact_to = match dtype {
                DataType::BF16 => 256.0,
                DataType::F16 => 2048.0,
                DataType::I8 => 127.0,
                DataType::U8 => 255.0,
                _ => 32767.0,
            };
            for place in 0..PERIOD {
                let values = (0..64).map(|rank| value(dtype, op, rank, place));
                let largest = if op == ReduceOp::Prod { values.product() } else { values.sum::<f64>() };
                if !matches!(op, ReduceOp::Max | ReduceOp::Min) {
                    assert!(largest <= exact_to, "{dtype} {op}: {largest} at {place}");
                }
            }
        }
    }

    #[test]
    fn every_wrong_element_is_counted_and_poison_is_wrong_everywhere() {
        let pattern = Pattern::new(DataType::F32, ReduceOp::Sum, 0, 2);
        let mut buffer = vec![0; 4 * 1000];
        repeat(&pattern.expected.clone(), &mut buffer);
        assert_eq!(pattern.wrong(&buffer), 0);
        buffer[4 * 700] ^= 1;
        buffer[4 * 999 + 3] ^= 0x80;
        assert_eq!(pattern.wrong(&buffer), 2);
        pattern.poison(&mut buffer);
        assert_eq!(pattern.wrong(&buffer), 1000);
    }

    #[test]
    fn what_travels_as_integers_may_be_off_by_a_step_and_not_by_more() {
        let all = [DataType::F16, DataType::BF16, DataType::F32, DataType::F64];
        for (dtype, op) in all.into_iter().flat_map(|d| [(d, ReduceOp::Sum), (d, ReduceOp::Avg)]) {
            let pattern = Pattern::new(dtype, op, 0, 4).quantized(Quantization::MinMaxU8, dtype, op, 4);
            let Some(Lossy { off, .. }) = pattern.lossy else { panic!("it is lossy") };
            let moved = |by: f64| -> Vec<u8> {
                let elements = pattern.expected.chunks(pattern.element_bytes);
                elements.flat_map(|e| encode_real(dtype, number(dtype, e) + by)).collect()
            };
            assert_eq!(pattern.wrong(&moved(0.9 * off)), 0, "{dtype} {op}");
            assert!(pattern.wrong(&moved(3.0 * off)) > 0, "{dtype} {op}");
            let mut poisoned = moved(0.0);
            pattern.poison(&mut poisoned);
            assert!(pattern.wrong(&poisoned) > 200, "{dtype} {op}");
        }
    }

    fn encode_real(dtype: DataType, value: f64) -> Vec<u8> {
        assert!(matches!(dtype, DataType::F16 | DataType::BF16 | DataType::F32 | DataType::F64));
        encode(dtype, value)
    }

    #[test]
    fn a_world_of_one_gets_its_own_input_back() {
        for (dtype, op) in DataType::ALL.iter().flat_map(|d| ReduceOp::ALL.iter().map(move |o| (*d, *o))) {
            let pattern = Pattern::new(dtype, op, 0, 1);
            assert_eq!(pattern.input, pattern.expected, "{dtype} {op}");
        }
    }
}
