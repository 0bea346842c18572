//! The loops over a buffer, and the choice of the loop for a type and an op.

#![expect(
    clippy::inline_always,
    reason = "a loop left out of line would be compiled without the target features"
)]

use super::lane::{Bf16, F16, Lane, Max, Min, Op, Prod, Sum, Value};
use crate::{DataType, ReduceOp};

/// `dst = a op b`
#[inline(always)]
pub(super) fn into<L: Lane, O: Op>(dst: &mut [u8], a: &[u8], b: &[u8]) {
    let operands = L::elements(a).iter().zip(L::elements(b));
    for (dst, (a, b)) in L::elements_mut(dst).iter_mut().zip(operands) {
        *dst = L::store(O::apply(L::load(*a), L::load(*b)));
    }
}

/// `acc = acc op b`
#[inline(always)]
pub(super) fn assign<L: Lane, O: Op>(acc: &mut [u8], b: &[u8]) {
    for (acc, b) in L::elements_mut(acc).iter_mut().zip(L::elements(b)) {
        *acc = L::store(O::apply(L::load(*acc), L::load(*b)));
    }
}

/// `acc = acc / world`
#[inline(always)]
pub(super) fn quotient<L: Lane>(acc: &mut [u8], world: u32) {
    for acc in L::elements_mut(acc) {
        *acc = L::store(L::load(*acc).divided_by(world));
    }
}

/// Something that runs the loops on one instruction set.
pub(super) trait Engine: Copy {
    fn into<L: Lane, O: Op>(self, dst: &mut [u8], a: &[u8], b: &[u8]);
    fn assign<L: Lane, O: Op>(self, acc: &mut [u8], b: &[u8]);
    fn quotient<L: Lane>(self, acc: &mut [u8], world: u32);

    // Instruction sets that convert binary16 in hardware do so here.
    fn f16_into<O: Op>(self, dst: &mut [u8], a: &[u8], b: &[u8]) {
        self.into::<F16, O>(dst, a, b);
    }
    fn f16_assign<O: Op>(self, acc: &mut [u8], b: &[u8]) {
        self.assign::<F16, O>(acc, b);
    }
    fn f16_quotient(self, acc: &mut [u8], world: u32) {
        self.quotient::<F16>(acc, world);
    }
}

/// The instruction set that the crate is compiled for.
#[derive(Clone, Copy)]
pub(super) struct Baseline;

impl Engine for Baseline {
    fn into<L: Lane, O: Op>(self, dst: &mut [u8], a: &[u8], b: &[u8]) {
        into::<L, O>(dst, a, b);
    }

    fn assign<L: Lane, O: Op>(self, acc: &mut [u8], b: &[u8]) {
        assign::<L, O>(acc, b);
    }

    fn quotient<L: Lane>(self, acc: &mut [u8], world: u32) {
        quotient::<L>(acc, world);
    }
}

/// Evaluates `$call` with `$O` naming the type of the op.
macro_rules! with_op {
    ($op:expr, $O:ident => $call:expr) => {
        match $op {
            ReduceOp::Sum | ReduceOp::Avg => {
                type $O = Sum;
                $call
            }
            ReduceOp::Prod => {
                type $O = Prod;
                $call
            }
            ReduceOp::Max => {
                type $O = Max;
                $call
            }
            ReduceOp::Min => {
                type $O = Min;
                $call
            }
        }
    };
}

pub(super) fn reduce(engine: impl Engine, dtype: DataType, op: ReduceOp, dst: &mut [u8], a: &[u8], b: &[u8]) {
    with_op!(op, O => match dtype {
        DataType::Uint8 => engine.into::<u8, O>(dst, a, b),
        DataType::Int8 => engine.into::<i8, O>(dst, a, b),
        DataType::Int16 => engine.into::<i16, O>(dst, a, b),
        DataType::Uint16 => engine.into::<u16, O>(dst, a, b),
        DataType::Uint32 => engine.into::<u32, O>(dst, a, b),
        DataType::Int32 => engine.into::<i32, O>(dst, a, b),
        DataType::Uint64 => engine.into::<u64, O>(dst, a, b),
        DataType::Int64 => engine.into::<i64, O>(dst, a, b),
        DataType::Float16 => engine.f16_into::<O>(dst, a, b),
        DataType::BFloat16 => engine.into::<Bf16, O>(dst, a, b),
        DataType::Float32 => engine.into::<f32, O>(dst, a, b),
        DataType::Float64 => engine.into::<f64, O>(dst, a, b),
    });
}

pub(super) fn reduce_assign(engine: impl Engine, dtype: DataType, op: ReduceOp, acc: &mut [u8], b: &[u8]) {
    with_op!(op, O => match dtype {
        DataType::Uint8 => engine.assign::<u8, O>(acc, b),
        DataType::Int8 => engine.assign::<i8, O>(acc, b),
        DataType::Int16 => engine.assign::<i16, O>(acc, b),
        DataType::Uint16 => engine.assign::<u16, O>(acc, b),
        DataType::Uint32 => engine.assign::<u32, O>(acc, b),
        DataType::Int32 => engine.assign::<i32, O>(acc, b),
        DataType::Uint64 => engine.assign::<u64, O>(acc, b),
        DataType::Int64 => engine.assign::<i64, O>(acc, b),
        DataType::Float16 => engine.f16_assign::<O>(acc, b),
        DataType::BFloat16 => engine.assign::<Bf16, O>(acc, b),
        DataType::Float32 => engine.assign::<f32, O>(acc, b),
        DataType::Float64 => engine.assign::<f64, O>(acc, b),
    });
}

pub(super) fn divide(engine: impl Engine, dtype: DataType, acc: &mut [u8], world: u32) {
    match dtype {
        DataType::Uint8 => engine.quotient::<u8>(acc, world),
        DataType::Int8 => engine.quotient::<i8>(acc, world),
        DataType::Int16 => engine.quotient::<i16>(acc, world),
        DataType::Uint16 => engine.quotient::<u16>(acc, world),
        DataType::Uint32 => engine.quotient::<u32>(acc, world),
        DataType::Int32 => engine.quotient::<i32>(acc, world),
        DataType::Uint64 => engine.quotient::<u64>(acc, world),
        DataType::Int64 => engine.quotient::<i64>(acc, world),
        DataType::Float16 => engine.f16_quotient(acc, world),
        DataType::BFloat16 => engine.quotient::<Bf16>(acc, world),
        DataType::Float32 => engine.quotient::<f32>(acc, world),
        DataType::Float64 => engine.quotient::<f64>(acc, world),
    }
}
