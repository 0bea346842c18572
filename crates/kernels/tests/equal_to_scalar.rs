//! The fast kernels give the bits of the scalar twin: for every type, op, form, instruction set, length and
//! address.

use half::f16;
use pccl_kernels::{DataType, Isa, ReduceOp, scalar};
use proptest::prelude::*;

/// Bytes on both sides of a kernel's buffer that it must not touch.
const GUARD: u8 = 0xA5;
/// Kernels see every address modulo the widest vector.
const ALIGNMENT: usize = 32;
const WORLDS: [u32; 12] = [1, 2, 3, 7, 100, 255, 256, 32_768, 65_535, 65_537, (1 << 24) + 1, u32::MAX];

fn isas() -> Vec<Isa> {
    let mut isas = vec![Isa::BASELINE, Isa::active()];
    isas.dedup();
    isas
}

/// `bytes` at `offset` from an aligned address, with guards around.
struct Placed {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Placed {
    fn new(bytes: &[u8], offset: usize) -> Self {
        let mut memory = vec![GUARD; bytes.len() + 3 * ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT) + offset % ALIGNMENT;
        memory[start..][..bytes.len()].copy_from_slice(bytes);
        Self { memory, start, len: bytes.len() }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }

    fn assert_holds(&self, expected: &[u8], what: &str) {
        let differing = self.bytes().iter().zip(expected).position(|(got, wanted)| got != wanted);
        assert_eq!(differing, None, "{what}: first byte that differs");
        let (before, rest) = self.memory.split_at(self.start);
        let untouched = before.iter().chain(&rest[self.len..]).all(|byte| *byte == GUARD);
        assert!(untouched, "{what}: wrote beyond the buffer");
    }
}

/// Asserts all forms of `a op b` on all instruction sets, with the buffers at the given offsets.
fn assert_forms_equal(dtype: DataType, op: ReduceOp, a: &[u8], b: &[u8], offsets: [usize; 3]) {
    let mut expected = vec![0; a.len()];
    scalar::reduce(dtype, op, &mut expected, a, b);
    let placed = [Placed::new(a, offsets[0]), Placed::new(b, offsets[1])];
    let [a, b] = placed.each_ref().map(Placed::bytes);
    for isa in isas() {
        let what = |form: &str| format!("{dtype} {op}, {form}, on {}", isa.name());

        let mut dst = Placed::new(&vec![0; a.len()], offsets[2]);
        isa.reduce(dtype, op, dst.bytes_mut(), a, b);
        dst.assert_holds(&expected, &what("dst = a op b"));

        let mut acc = Placed::new(a, offsets[2]);
        isa.reduce_assign(dtype, op, acc.bytes_mut(), b);
        acc.assert_holds(&expected, &what("acc = acc op b"));

        let mut acc = Placed::new(b, offsets[2]);
        isa.reduce_assign_left(dtype, op, a, acc.bytes_mut());
        acc.assert_holds(&expected, &what("acc = a op acc"));
    }
}

fn assert_averages_equal(dtype: DataType, sum: &[u8], world: u32, offset: usize) {
    let mut expected = sum.to_vec();
    scalar::finalize(dtype, ReduceOp::Avg, &mut expected, world);
    for isa in isas() {
        let mut acc = Placed::new(sum, offset);
        isa.finalize(dtype, ReduceOp::Avg, acc.bytes_mut(), world);
        acc.assert_holds(&expected, &format!("{dtype} / {world} on {}", isa.name()));
    }
}

/// (exponent bits, mantissa bits); an integer is taken as a float of its width, which makes as good corner
/// cases.
fn format_of(dtype: DataType) -> (u32, u32) {
    match (dtype, dtype.size()) {
        (DataType::BFloat16, _) => (8, 7),
        (_, 1) => (4, 3),
        (_, 2) => (5, 10),
        (_, 4) => (8, 23),
        _ => (11, 52),
    }
}

/// ±0, ±1 and their neighbours, subnormals, the greatest and least numbers, infinities, and NaNs of all
/// kinds; as integers these include 0, −1, the minimum and the maximum.
fn specials(dtype: DataType) -> Vec<u64> {
    let (exponent_bits, mantissa_bits) = format_of(dtype);
    let exponent_max = (1_u64 << exponent_bits) - 1;
    let mantissa_max = (1_u64 << mantissa_bits) - 1;
    let bias = exponent_max / 2;
    let exponents =
        [0, 1, bias - 1, bias, bias + 1, bias + u64::from(mantissa_bits), exponent_max - 1, exponent_max];
    let mantissas = [0, 1, 1 << (mantissa_bits - 1), mantissa_max - 1, mantissa_max];
    let mut all = vec![];
    for sign in [0, 1] {
        for exponent in exponents {
            all.extend(
                mantissas.map(|mantissa| (sign << exponent_bits | exponent) << mantissa_bits | mantissa),
            );
        }
    }
    all
}

/// Appends the low bytes of `bits` as one element.
fn push(bytes: &mut Vec<u8>, dtype: DataType, bits: u64) {
    match dtype.size() {
        1 => bytes.push(bits as u8),
        2 => bytes.extend((bits as u16).to_ne_bytes()),
        4 => bytes.extend((bits as u32).to_ne_bytes()),
        _ => bytes.extend(bits.to_ne_bytes()),
    }
}

/// Makes elements of any type out of random numbers: any bits, special values, or numbers of like magnitude
/// (sums of numbers of any magnitude hardly ever round).
fn elements(dtype: DataType, random: &[(u8, u64)]) -> Vec<u8> {
    let (exponent_bits, mantissa_bits) = format_of(dtype);
    let bias = (1_u64 << (exponent_bits - 1)) - 1;
    let specials = specials(dtype);
    let mut bytes = vec![];
    for &(kind, bits) in random {
        let element = match kind % 3 {
            0 => bits,
            1 => specials[bits as usize % specials.len()],
            _ => {
                let exponent = bias - 4 + (bits >> 56 & 7);
                let mantissa = bits & ((1 << mantissa_bits) - 1);
                (bits >> 63 << exponent_bits | exponent) << mantissa_bits | mantissa
            }
        };
        push(&mut bytes, dtype, element);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_operands(
        random in prop::collection::vec((any::<(u8, u64)>(), any::<(u8, u64)>()), 0..200),
        offsets in any::<[usize; 3]>(),
    ) {
        let (a, b): (Vec<_>, Vec<_>) = random.into_iter().unzip();
        for dtype in DataType::ALL {
            let (a, b) = (elements(dtype, &a), elements(dtype, &b));
            for op in ReduceOp::ALL {
                assert_forms_equal(dtype, op, &a, &b, offsets);
            }
        }
    }

    #[test]
    fn any_average(
        random in prop::collection::vec(any::<(u8, u64)>(), 0..200),
        world in prop_oneof![1..=1000_u32, 1..=u32::MAX],
        offset in any::<usize>(),
    ) {
        for dtype in DataType::ALL {
            assert_averages_equal(dtype, &elements(dtype, &random), world, offset);
        }
    }

    /// Where a quotient computed by way of a float would go wrong first: just beside a whole one.
    #[test]
    fn averages_beside_whole_quotients(
        quotients in prop::collection::vec(any::<u64>(), 1..50),
        world in prop_oneof![1..=300_u32, 1..=70_000_u32, 1..=u32::MAX],
    ) {
        for dtype in DataType::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
            let most = (u64::MAX >> (64 - 8 * dtype.size())) / u64::from(world);
            let mut sums = vec![];
            for quotient in &quotients {
                let product = (quotient % most.saturating_add(1)).wrapping_mul(u64::from(world));
                for sum in [product.wrapping_sub(1), product, product.wrapping_add(1)] {
                    push(&mut sums, dtype, sum);
                    push(&mut sums, dtype, sum.wrapping_neg());
                }
            }
            assert_averages_equal(dtype, &sums, world, 0);
        }
    }
}

#[test]
fn every_pair_of_special_values() {
    for dtype in DataType::ALL {
        let specials = specials(dtype);
        let (mut a, mut b) = (vec![], vec![]);
        for x in &specials {
            for y in &specials {
                push(&mut a, dtype, *x);
                push(&mut b, dtype, *y);
            }
        }
        for op in ReduceOp::ALL {
            assert_forms_equal(dtype, op, &a, &b, [0; 3]);
        }
        for world in WORLDS {
            assert_averages_equal(dtype, &a, world, 0);
        }
    }
}

#[test]
fn every_length_at_every_address() {
    let bytes: Vec<u8> = (0..200_u8).map(|i| i.wrapping_mul(37)).collect();
    for dtype in [DataType::Uint8, DataType::Float16, DataType::BFloat16, DataType::Float32] {
        for len in (0..200).step_by(dtype.size()) {
            let offsets = [len, len / 7 + 1, len / 3];
            assert_forms_equal(dtype, ReduceOp::Sum, &bytes[..len], &bytes[200 - len..], offsets);
            assert_averages_equal(dtype, &bytes[..len], 3, len);
        }
    }
}

/// Every element of 8 and 16 bits, through every conversion: unchanged, scaled to and from the subnormals,
/// rounded.
#[test]
fn every_small_element() {
    for dtype in DataType::ALL.into_iter().filter(|dtype| dtype.size() <= 2) {
        let mut all = vec![];
        let most = u64::MAX >> (64 - 8 * dtype.size());
        (0..=most).for_each(|bits| push(&mut all, dtype, bits));
        let one_and_a_half = match dtype {
            DataType::Float16 => f16::from_f32(1.5).to_bits(),
            DataType::BFloat16 => 0x3FC0,
            _ => 3,
        };
        for (op, other) in [
            (ReduceOp::Sum, 0x8000),
            (ReduceOp::Sum, 0x0400),
            (ReduceOp::Prod, one_and_a_half),
            (ReduceOp::Prod, one_and_a_half / 4),
        ] {
            let mut others = vec![];
            (0..=most).for_each(|_| push(&mut others, dtype, other.into()));
            assert_forms_equal(dtype, op, &all, &others, [0; 3]);
        }
        for world in [1, 3, 7, 100, 65_535] {
            assert_averages_equal(dtype, &all, world, 0);
        }
    }
}
