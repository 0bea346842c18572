//! The scalar twin: the crate's semantics in plain code, one element at a time.
//!
//! Nothing here is clever, so that it can be read as the definition. Halves are converted by the
//! software path of the `half` crate. It does not guard the thread's floating-point mode as the fast kernels
//! do: call it in the default mode.

use crate::reduce::{check, check_world};
use crate::{DataType, ReduceOp};
use half::{bf16, f16};

/// `dst = a op b`; see [`crate::reduce`].
pub fn reduce(dtype: DataType, op: ReduceOp, dst: &mut [u8], a: &[u8], b: &[u8]) {
    check(dtype, dst, &[a, b]);
    match dtype {
        DataType::Uint8 => each::<u8>(op, dst, a, b),
        DataType::Int8 => each::<i8>(op, dst, a, b),
        DataType::Int16 => each::<i16>(op, dst, a, b),
        DataType::Uint16 => each::<u16>(op, dst, a, b),
        DataType::Uint32 => each::<u32>(op, dst, a, b),
        DataType::Int32 => each::<i32>(op, dst, a, b),
        DataType::Uint64 => each::<u64>(op, dst, a, b),
        DataType::Int64 => each::<i64>(op, dst, a, b),
        DataType::Float16 => each::<f16>(op, dst, a, b),
        DataType::BFloat16 => each::<bf16>(op, dst, a, b),
        DataType::Float32 => each::<f32>(op, dst, a, b),
        DataType::Float64 => each::<f64>(op, dst, a, b),
    }
}

/// `acc = acc op b`; see [`crate::reduce_assign`].
pub fn reduce_assign(dtype: DataType, op: ReduceOp, acc: &mut [u8], b: &[u8]) {
    let a = acc.to_vec();
    reduce(dtype, op, acc, &a, b);
}

/// `acc = a op acc`; see [`crate::reduce_assign_left`].
pub fn reduce_assign_left(dtype: DataType, op: ReduceOp, a: &[u8], acc: &mut [u8]) {
    let b = acc.to_vec();
    reduce(dtype, op, acc, a, &b);
}

/// Ends a reduction among `world` peers; see [`crate::finalize`].
pub fn finalize(dtype: DataType, op: ReduceOp, acc: &mut [u8], world: u32) {
    check(dtype, acc, &[]);
    check_world(op, world);
    if op != ReduceOp::Avg {
        return;
    }
    match dtype {
        DataType::Uint8 => divide::<u8>(acc, world),
        DataType::Int8 => divide::<i8>(acc, world),
        DataType::Int16 => divide::<i16>(acc, world),
        DataType::Uint16 => divide::<u16>(acc, world),
        DataType::Uint32 => divide::<u32>(acc, world),
        DataType::Int32 => divide::<i32>(acc, world),
        DataType::Uint64 => divide::<u64>(acc, world),
        DataType::Int64 => divide::<i64>(acc, world),
        DataType::Float16 => divide::<f16>(acc, world),
        DataType::BFloat16 => divide::<bf16>(acc, world),
        DataType::Float32 => divide::<f32>(acc, world),
        DataType::Float64 => divide::<f64>(acc, world),
    }
}

fn each<T: Element>(op: ReduceOp, dst: &mut [u8], a: &[u8], b: &[u8]) {
    let size = size_of::<T>();
    let operands = a.chunks_exact(size).zip(b.chunks_exact(size));
    for (dst, (a, b)) in dst.chunks_exact_mut(size).zip(operands) {
        let (a, b) = (T::read(a), T::read(b));
        let result = match op {
            ReduceOp::Sum | ReduceOp::Avg => a.sum(b),
            ReduceOp::Prod => a.product(b),
            ReduceOp::Max => a.greater(b),
            ReduceOp::Min => a.lesser(b),
        };
        result.write(dst);
    }
}

fn divide<T: Element>(acc: &mut [u8], world: u32) {
    for element in acc.chunks_exact_mut(size_of::<T>()) {
        T::read(element).divided_by(world).write(element);
    }
}

/// One element of a tensor. The slices of `read` and `write` are exactly as long as the element.
trait Element: Copy {
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut [u8]);
    fn sum(self, other: Self) -> Self;
    fn product(self, other: Self) -> Self;
    fn greater(self, other: Self) -> Self;
    fn lesser(self, other: Self) -> Self;
    fn divided_by(self, world: u32) -> Self;
}

macro_rules! read_and_write {
    () => {
        fn read(bytes: &[u8]) -> Self {
            Self::from_ne_bytes(bytes.try_into().expect("a slice as long as the element"))
        }

        fn write(self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.to_ne_bytes());
        }
    };
}

macro_rules! integer {
    ($($T:ident)*) => {$(
        impl Element for $T {
            read_and_write!();

            fn sum(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            fn product(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            fn greater(self, other: Self) -> Self {
                self.max(other)
            }

            fn lesser(self, other: Self) -> Self {
                self.min(other)
            }

            fn divided_by(self, world: u32) -> Self {
                // Every integer type and every world fit into an i128, and the quotient back into the type.
                (self as i128 / i128::from(world)) as Self
            }
        }
    )*};
}

integer!(u8 i8 i16 u16 u32 i32 u64 i64);

macro_rules! float {
    ($T:ident, $nan:literal) => {
        impl Element for $T {
            read_and_write!();

            fn sum(self, other: Self) -> Self {
                let result = self + other;
                if result.is_nan() { $T::from_bits($nan) } else { result }
            }

            fn product(self, other: Self) -> Self {
                let result = self * other;
                if result.is_nan() { $T::from_bits($nan) } else { result }
            }

            fn greater(self, other: Self) -> Self {
                if self.is_nan() || other.is_nan() {
                    $T::from_bits($nan)
                } else if self == 0.0 && other == 0.0 {
                    if self.is_sign_positive() { self } else { other }
                } else if self > other {
                    self
                } else {
                    other
                }
            }

            fn lesser(self, other: Self) -> Self {
                if self.is_nan() || other.is_nan() {
                    $T::from_bits($nan)
                } else if self == 0.0 && other == 0.0 {
                    if self.is_sign_negative() { self } else { other }
                } else if self < other {
                    self
                } else {
                    other
                }
            }

            fn divided_by(self, world: u32) -> Self {
                let result = self / world as $T;
                if result.is_nan() { $T::from_bits($nan) } else { result }
            }
        }
    };
}

float!(f32, 0x7FC0_0000);
float!(f64, 0x7FF8_0000_0000_0000);

/// Halves compute each step in `f32`. The canonical NaN of `f32` becomes that of the half.
macro_rules! half {
    ($($T:ident)*) => {$(
        impl Element for $T {
            read_and_write!();

            fn sum(self, other: Self) -> Self {
                $T::from_f32_const(self.to_f32_const().sum(other.to_f32_const()))
            }

            fn product(self, other: Self) -> Self {
                $T::from_f32_const(self.to_f32_const().product(other.to_f32_const()))
            }

            fn greater(self, other: Self) -> Self {
                $T::from_f32_const(self.to_f32_const().greater(other.to_f32_const()))
            }

            fn lesser(self, other: Self) -> Self {
                $T::from_f32_const(self.to_f32_const().lesser(other.to_f32_const()))
            }

            fn divided_by(self, world: u32) -> Self {
                $T::from_f32_const(self.to_f32_const().divided_by(world))
            }
        }
    )*};
}

half!(f16 bf16);
