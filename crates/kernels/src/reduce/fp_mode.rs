//! The thread's floating-point mode: set to the default around a kernel, then put back.
//!
//! The mode belongs to the thread, is inherited by new threads, and is changed behind our back: fast-math
//! libraries set flush-to-zero when they are loaded, frameworks have a switch for it. A peer in such a
//! process would reduce to other bits than its neighbours.

/// Runs `kernel` in the default mode, if `wanted`: round to nearest even, subnormals kept, no traps.
#[inline]
pub(super) fn with_default_fp_mode(wanted: bool, kernel: impl FnOnce()) {
    if !wanted {
        return kernel();
    }
    let found = control::read();
    if control::is_default(found) {
        return kernel();
    }
    in_default_mode(found, kernel);
}

/// The rare path. Never inlined, so that the compiler cannot move arithmetic of the kernel across the switch.
#[cold]
#[inline(never)]
fn in_default_mode(found: control::Word, kernel: impl FnOnce()) {
    /// Puts the mode back also if the kernel panics.
    struct Restore(control::Word);

    impl Drop for Restore {
        fn drop(&mut self) {
            control::write(self.0);
        }
    }

    #[inline(never)]
    fn call(kernel: impl FnOnce()) {
        kernel();
    }

    let _restore = Restore(found);
    control::write(control::DEFAULT);
    call(kernel);
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod control {
    use std::arch::asm;

    pub(super) type Word = u32;

    /// All exceptions masked, round to nearest, neither FTZ nor DAZ, no sticky flag set.
    pub(super) const DEFAULT: Word = 0x1F80;

    /// The lower six bits are sticky flags that record what happened and change nothing.
    const STICKY: Word = 0x3F;

    pub(super) fn is_default(word: Word) -> bool {
        word & !STICKY == DEFAULT
    }

    pub(super) fn read() -> Word {
        let mut word: Word = 0;
        // SAFETY: stores the 4 bytes of MXCSR to `word`; every x86-64 processor has SSE.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut word, options(nostack, preserves_flags)) };
        word
    }

    pub(super) fn write(word: Word) {
        // SAFETY: `word` is the default or was read from MXCSR, so no reserved bit is set. The mode is
        // either the one that Rust expects or the one that the caller's thread was in already.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, preserves_flags)) };
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod control {
    use std::arch::asm;

    pub(super) type Word = u64;

    /// FPCR zero: round to nearest, subnormals kept, NaNs propagate, no traps.
    pub(super) const DEFAULT: Word = 0;

    pub(super) fn is_default(word: Word) -> bool {
        word == DEFAULT
    }

    pub(super) fn read() -> Word {
        let word: Word;
        // SAFETY: reads a control register that user code may read.
        unsafe { asm!("mrs {}, fpcr", out(reg) word, options(nostack, preserves_flags)) };
        word
    }

    pub(super) fn write(word: Word) {
        // SAFETY: `word` is zero or was read from FPCR. The mode is either the one that Rust expects or the
        // one that the caller's thread was in already.
        unsafe { asm!("msr fpcr, {}", in(reg) word, options(nostack, preserves_flags)) };
    }
}

/// Other processors, and Miri: the default mode is taken for granted.
#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod control {
    pub(super) type Word = ();

    pub(super) const DEFAULT: Word = ();

    pub(super) fn is_default(_word: Word) -> bool {
        true
    }

    pub(super) fn read() -> Word {}

    pub(super) fn write(_word: Word) {}
}

#[cfg(all(test, target_arch = "x86_64", not(miri)))]
mod tests {
    use super::control;
    use crate::{DataType, ReduceOp, finalize, reduce, reduce_assign};

    /// FTZ, DAZ, and rounding toward zero.
    const HOSTILE: control::Word = 0x1F80 | 0x8000 | 0x0040 | 0x6000;

    fn in_hostile_mode(work: impl FnOnce()) {
        let before = control::read();
        control::write(HOSTILE);
        work();
        let after = control::read();
        control::write(before);
        assert_eq!(after & !0x3F, HOSTILE, "the thread's mode was not put back");
    }

    #[test]
    fn results_do_not_depend_on_the_threads_mode() {
        let subnormal = f32::from_bits(3).to_ne_bytes().repeat(9);
        let third = f64::from_bits(0x3FD5_5555_5555_5556).to_ne_bytes().repeat(5);
        let (mut sum, mut wide, mut average) = ([0; 36], [0; 40], *b"\xFE\xFF\xFF\xFF");
        in_hostile_mode(|| {
            reduce(DataType::Float32, ReduceOp::Sum, &mut sum, &subnormal, &subnormal);
            wide.copy_from_slice(&third);
            reduce_assign(DataType::Float64, ReduceOp::Prod, &mut wide, &third);
            finalize(DataType::Uint8, ReduceOp::Avg, &mut average, 85);
        });
        assert_eq!(sum.as_slice(), f32::from_bits(6).to_ne_bytes().repeat(9));
        let mut expected = third.clone();
        crate::scalar::reduce_assign(DataType::Float64, ReduceOp::Prod, &mut expected, &third);
        assert_eq!(wide.as_slice(), expected);
        assert_eq!(average, [2, 3, 3, 3]);
    }
}
