//! The public kernels: checks, the choice of instruction set, and the way down to the loops.

mod fp_mode;
mod lane;
mod loops;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::{DataType, ReduceOp};
use fp_mode::with_default_fp_mode;

/// An instruction set that the fast kernels can use on this machine.
///
/// The results do not depend on it; speed does. The only way to get one is to ask what the machine can do,
/// so that having one is the proof that it may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
}

impl Isa {
    /// What every machine of this build's target has: SSE2 on x86-64, NEON on AArch64.
    pub const BASELINE: Self = Self(Kind::Baseline);

    /// The best one of this machine, which the functions of the crate use. Cheap: the answer is cached.
    pub fn active() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = x86::Avx2::detect() {
            return Self(Kind::Avx2(avx2));
        }
        Self::BASELINE
    }

    /// A short name for logs and metrics: `baseline`, `avx2`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Baseline => "baseline",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
        }
    }

    /// [`reduce()`] on this instruction set.
    pub fn reduce(self, dtype: DataType, op: ReduceOp, dst: &mut [u8], a: &[u8], b: &[u8]) {
        check(dtype, dst, &[a, b]);
        with_default_fp_mode(dtype.is_float(), || match self.0 {
            Kind::Baseline => loops::reduce(loops::Baseline, dtype, op, dst, a, b),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => loops::reduce(avx2, dtype, op, dst, a, b),
        });
    }

    /// [`reduce_assign`] on this instruction set.
    pub fn reduce_assign(self, dtype: DataType, op: ReduceOp, acc: &mut [u8], b: &[u8]) {
        check(dtype, acc, &[b]);
        with_default_fp_mode(dtype.is_float(), || match self.0 {
            Kind::Baseline => loops::reduce_assign(loops::Baseline, dtype, op, acc, b),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => loops::reduce_assign(avx2, dtype, op, acc, b),
        });
    }

    /// [`reduce_assign_left`] on this instruction set.
    pub fn reduce_assign_left(self, dtype: DataType, op: ReduceOp, a: &[u8], acc: &mut [u8]) {
        // Every op is commutative bit for bit (one NaN, ordered zeros), so one loop serves both forms.
        self.reduce_assign(dtype, op, acc, a);
    }

    /// [`finalize`] on this instruction set.
    pub fn finalize(self, dtype: DataType, op: ReduceOp, acc: &mut [u8], world: u32) {
        check(dtype, acc, &[]);
        check_world(op, world);
        if op != ReduceOp::Avg {
            return;
        }
        // Integers divide by way of floats too, but no mode changes a quotient so much that it shows.
        with_default_fp_mode(dtype.is_float(), || match self.0 {
            Kind::Baseline => loops::divide(loops::Baseline, dtype, acc, world),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => loops::divide(avx2, dtype, acc, world),
        });
    }
}

/// `dst = a op b`, element by element.
///
/// # Panics
/// If the slices differ in length or do not hold whole elements.
pub fn reduce(dtype: DataType, op: ReduceOp, dst: &mut [u8], a: &[u8], b: &[u8]) {
    Isa::active().reduce(dtype, op, dst, a, b);
}

/// `acc = acc op b`, element by element.
///
/// # Panics
/// If the slices differ in length or do not hold whole elements.
pub fn reduce_assign(dtype: DataType, op: ReduceOp, acc: &mut [u8], b: &[u8]) {
    Isa::active().reduce_assign(dtype, op, acc, b);
}

/// `acc = a op acc`, element by element: for a schedule that fixes `a` as the left operand.
///
/// # Panics
/// If the slices differ in length or do not hold whole elements.
pub fn reduce_assign_left(dtype: DataType, op: ReduceOp, a: &[u8], acc: &mut [u8]) {
    Isa::active().reduce_assign_left(dtype, op, a, acc);
}

/// Ends a reduction among `world` peers: divides by `world` for [`ReduceOp::Avg`], does nothing for the
/// others.
///
/// # Panics
/// If the slice does not hold whole elements, or an average is taken of no peers.
pub fn finalize(dtype: DataType, op: ReduceOp, acc: &mut [u8], world: u32) {
    Isa::active().finalize(dtype, op, acc, world);
}

/// The contract of all kernels. Kept in release builds: it is nothing beside the loop, and a kernel that
/// stopped silently at the shorter slice would hand on a wrong tensor.
pub(crate) fn check(dtype: DataType, dst: &[u8], operands: &[&[u8]]) {
    let len = dst.len();
    assert!(
        len.is_multiple_of(dtype.size()),
        "bug of the caller: {len} bytes are no whole number of {dtype} elements"
    );
    for operand in operands {
        assert!(
            operand.len() == len,
            "bug of the caller: an operand of {} bytes is combined into {len} bytes",
            operand.len()
        );
    }
}

pub(crate) fn check_world(op: ReduceOp, world: u32) {
    assert!(op != ReduceOp::Avg || world > 0, "bug of the caller: an average over a world of no peers");
}
