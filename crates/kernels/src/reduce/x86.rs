//! AVX2: the same loops compiled with wider vectors, and binary16 converted by F16C.

use super::lane::{Lane, Op, Value};
use super::loops::{self, Engine};
use std::arch::x86_64::{__m128i, __m256, _MM_FROUND_TO_NEAREST_INT, _mm256_cvtph_ps, _mm256_cvtps_ph};
use std::mem::transmute;

/// Proof that the processor, and the operating system, have AVX2 and F16C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let there = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
        there.then_some(Self(()))
    }
}

impl Engine for Avx2 {
    fn into<L: Lane, O: Op>(self, dst: &mut [u8], a: &[u8], b: &[u8]) {
        #[target_feature(enable = "avx2,f16c")]
        fn run<L: Lane, O: Op>(dst: &mut [u8], a: &[u8], b: &[u8]) {
            loops::into::<L, O>(dst, a, b);
        }
        // SAFETY: `self` is the proof that the features are there.
        unsafe { run::<L, O>(dst, a, b) }
    }

    fn assign<L: Lane, O: Op>(self, acc: &mut [u8], b: &[u8]) {
        #[target_feature(enable = "avx2,f16c")]
        fn run<L: Lane, O: Op>(acc: &mut [u8], b: &[u8]) {
            loops::assign::<L, O>(acc, b);
        }
        // SAFETY: `self` is the proof that the features are there.
        unsafe { run::<L, O>(acc, b) }
    }

    fn quotient<L: Lane>(self, acc: &mut [u8], world: u32) {
        #[target_feature(enable = "avx2,f16c")]
        fn run<L: Lane>(acc: &mut [u8], world: u32) {
            loops::quotient::<L>(acc, world);
        }
        // SAFETY: `self` is the proof that the features are there.
        unsafe { run::<L>(acc, world) }
    }

    fn f16_into<O: Op>(self, dst: &mut [u8], a: &[u8], b: &[u8]) {
        // SAFETY: `self` is the proof that the features are there.
        unsafe { f16_into::<O>(dst, a, b) }
    }

    fn f16_assign<O: Op>(self, acc: &mut [u8], b: &[u8]) {
        // SAFETY: `self` is the proof that the features are there.
        unsafe { f16_assign::<O>(acc, b) }
    }

    fn f16_quotient(self, acc: &mut [u8], world: u32) {
        // SAFETY: `self` is the proof that the features are there.
        unsafe { f16_quotient(acc, world) }
    }
}

/// How many elements are widened, combined and narrowed at a time: so many that the compiler makes vector
/// code of the loop over them. One over a single vector it unrolls, and then fails to put the pieces of
/// `max` together again.
const STAGE: usize = 64;

type Halves = [u8; 2 * STAGE];
type Values = [f32; STAGE];

#[target_feature(enable = "avx2,f16c")]
fn f16_into<O: Op>(dst: &mut [u8], a: &[u8], b: &[u8]) {
    let (dst, dst_rest) = dst.as_chunks_mut();
    let (a, a_rest) = a.as_chunks();
    let (b, b_rest) = b.as_chunks();
    for (dst, (a, b)) in dst.iter_mut().zip(a.iter().zip(b)) {
        *dst = combine::<O>(a, b);
    }
    let rest = combine::<O>(&padded(a_rest), &padded(b_rest));
    dst_rest.copy_from_slice(&rest[..dst_rest.len()]);
}

#[target_feature(enable = "avx2,f16c")]
fn f16_assign<O: Op>(acc: &mut [u8], b: &[u8]) {
    let (acc, acc_rest) = acc.as_chunks_mut();
    let (b, b_rest) = b.as_chunks();
    for (acc, b) in acc.iter_mut().zip(b) {
        *acc = combine::<O>(acc, b);
    }
    let rest = combine::<O>(&padded(acc_rest), &padded(b_rest));
    acc_rest.copy_from_slice(&rest[..acc_rest.len()]);
}

#[target_feature(enable = "avx2,f16c")]
fn f16_quotient(acc: &mut [u8], world: u32) {
    let (acc, rest) = acc.as_chunks_mut();
    for acc in acc {
        *acc = divide(acc, world);
    }
    let quotients = divide(&padded(rest), world);
    rest.copy_from_slice(&quotients[..rest.len()]);
}

/// Less than a stage, filled up with zeros.
fn padded(rest: &[u8]) -> Halves {
    let mut halves = [0; 2 * STAGE];
    halves[..rest.len()].copy_from_slice(rest);
    halves
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn combine<O: Op>(a: &Halves, b: &Halves) -> Halves {
    let (mut a, b) = (widen(a), widen(b));
    for (a, b) in a.iter_mut().zip(&b) {
        *a = O::apply(*a, *b);
    }
    narrow(&a)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn divide(halves: &Halves, world: u32) -> Halves {
    let mut values = widen(halves);
    for value in &mut values {
        *value = value.divided_by(world);
    }
    narrow(&values)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen(halves: &Halves) -> Values {
    let mut values = [0.0; STAGE];
    for (halves, values) in halves.as_chunks::<16>().0.iter().zip(values.as_chunks_mut::<8>().0) {
        // SAFETY: types of 16 bytes for which every bit pattern is valid.
        let halves = unsafe { transmute::<[u8; 16], __m128i>(*halves) };
        // SAFETY: types of 32 bytes for which every bit pattern is valid.
        *values = unsafe { transmute::<__m256, [f32; 8]>(_mm256_cvtph_ps(halves)) };
    }
    values
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn narrow(values: &Values) -> Halves {
    let mut halves = [0; 2 * STAGE];
    for (values, halves) in values.as_chunks::<8>().0.iter().zip(halves.as_chunks_mut::<16>().0) {
        // SAFETY: types of 32 bytes for which every bit pattern is valid.
        let values = unsafe { transmute::<[f32; 8], __m256>(*values) };
        let narrowed = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
        // SAFETY: types of 16 bytes for which every bit pattern is valid.
        *halves = unsafe { transmute::<__m128i, [u8; 16]>(narrowed) };
    }
    halves
}
