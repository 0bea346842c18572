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
    use crate::{DataType, Isa, ReduceOp, scalar};

    const STICKY_FLAGS: control::Word = 0x003F;
    const FLUSH_TO_ZERO: control::Word = 0x8000;
    const SUBNORMALS_ARE_ZERO: control::Word = 0x0040;
    const ROUND_DOWN: control::Word = 0x2000;
    const ROUND_UP: control::Word = 0x4000;
    const ROUND_TO_ZERO: control::Word = 0x6000;

    fn in_mode<R>(mode: control::Word, work: impl FnOnce() -> R) -> R {
        let (before, wanted) = (control::read(), control::DEFAULT | mode);
        control::write(wanted);
        let result = work();
        let after = control::read();
        control::write(before);
        assert_eq!(after & !STICKY_FLAGS, wanted, "the thread's mode was not put back");
        result
    }

    /// Operands whose sums, products and thirds are subnormal or have to be rounded.
    fn operands(dtype: DataType) -> (Vec<u8>, Vec<u8>) {
        let bits: [[u64; 4]; 2] = match dtype {
            DataType::Float16 => [[3, 0x3555, 0xB555, 0x0401], [2, 0x7001, 0x8001, 0x3803]],
            DataType::BFloat16 => [[3, 0x3EAB, 0xBEAB, 0x0081], [2, 0x4281, 0x8001, 0x3F03]],
            DataType::Float32 => {
                [[3, 0x3EAA_AAAB, 0xBEAA_AAAB, 0x80_0001], [2, 0x4280_0001, 0x8000_0001, 0x3F00_0003]]
            }
            _ => [
                [3, 0x3FD5_5555_5555_5556, 0xBFD5_5555_5555_5556, 0x10_0000_0000_0001],
                [2, 0x4100_0000_0000_0001, 1 << 63 | 1, 0x3FE0_0000_0000_0003],
            ],
        };
        let bytes = bits.map(|bits| bits.map(|bits| bits.to_le_bytes()[..dtype.size()].to_vec()).concat());
        let [a, b] = bytes.map(|bytes| bytes.repeat(40));
        (a, b)
    }

    fn all_results(isa: Isa, dtype: DataType, op: ReduceOp, a: &[u8], b: &[u8]) -> [Vec<u8>; 4] {
        let (mut into, mut assign) = (vec![0; a.len()], a.to_vec());
        let (mut left, mut average) = (b.to_vec(), a.to_vec());
        isa.reduce(dtype, op, &mut into, a, b);
        isa.reduce_assign(dtype, op, &mut assign, b);
        isa.reduce_assign_left(dtype, op, a, &mut left);
        isa.finalize(dtype, ReduceOp::Avg, &mut average, 3);
        [into, assign, left, average]
    }

    #[test]
    fn results_do_not_depend_on_the_threads_mode() {
        for dtype in DataType::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            let (a, b) = operands(dtype);
            for op in ReduceOp::ALL {
                let (mut reduced, mut average) = (vec![0; a.len()], a.clone());
                scalar::reduce(dtype, op, &mut reduced, &a, &b);
                scalar::finalize(dtype, ReduceOp::Avg, &mut average, 3);
                let expected = [reduced.clone(), reduced.clone(), reduced, average];
                for mode in [0, FLUSH_TO_ZERO, SUBNORMALS_ARE_ZERO, ROUND_DOWN, ROUND_UP, ROUND_TO_ZERO] {
                    for isa in [Isa::BASELINE, Isa::active()] {
                        let results = in_mode(mode, || all_results(isa, dtype, op, &a, &b));
                        assert!(results == expected, "{dtype} {op} in mode {mode:#x} on {}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn integer_quotients_do_not_depend_on_the_threads_mode() {
        for dtype in DataType::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
            for world in [1_u32, 3, 85, 255, 65_535, 65_537, (1 << 24) + 1, u32::MAX] {
                let sums = [0, 1, 2, 7, 84, 254, 255, 32_767, 65_534, u32::MAX - 1, u32::MAX].map(u64::from);
                let sums = sums.map(|sum| [sum, sum.wrapping_neg(), sum << 31]);
                let sums: Vec<u8> = sums
                    .as_flattened()
                    .iter()
                    .flat_map(|sum| sum.to_le_bytes()[..dtype.size()].to_vec())
                    .collect();
                let mut expected = sums.clone();
                scalar::finalize(dtype, ReduceOp::Avg, &mut expected, world);
                for mode in [FLUSH_TO_ZERO, ROUND_DOWN, ROUND_UP, ROUND_TO_ZERO] {
                    let mut average = sums.clone();
                    in_mode(mode, || {
                        Isa::active().finalize(dtype, ReduceOp::Avg, &mut average, world);
                    });
                    assert_eq!(average, expected, "{dtype} / {world} in mode {mode:#x}");
                }
            }
        }
    }
}
