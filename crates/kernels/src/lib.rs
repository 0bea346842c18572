//! Reduction and hashing of tensors: a scalar twin and a SIMD one of each.
//!
//! # Reduction
//!
//! [`reduce`], [`reduce_assign`], [`reduce_assign_left`] and [`finalize`] work on byte slices, because that
//! is what a caller's buffer and a network frame are. Elements are in native byte order and may lie at any
//! address; the slices of one call must be equally long and hold whole elements. A violation of that is a
//! bug of the caller and panics before anything is written.
//!
//! Peers with different processors reduce parts of one tensor, or the same part twice. So **the result
//! is defined to the last bit**, and the same on every instruction set:
//!
//! | | [`Sum`], [`Avg`] | [`Prod`] | [`Max`], [`Min`] | [`finalize`] of [`Avg`] |
//! | --- | --- | --- | --- | --- |
//! | integers | wraps | wraps | by value | divides by the world size, truncating toward zero |
//! | `f32`, `f64` | IEEE 754, to nearest even | the same | see below | IEEE 754, to nearest even |
//! | `f16`, `bf16` | in `f32`, then to nearest even | the same | exact | in `f32`, then to nearest even |
//!
//! * **Avg** accumulates exactly as Sum does; [`finalize`] divides once at the end. For all other ops
//!   `finalize` does nothing. Integers divide by the exact world size; `f16`, `bf16` and `f32` divide by
//!   the world size as an `f32`, `f64` by it as an `f64`.
//! * **NaN**: a result that is NaN is always the one quiet NaN with sign 0 and payload 0: `0x7E00` (`f16`),
//!   `0x7FC0` (`bf16`), `0x7FC0_0000` (`f32`), `0x7FF8_0000_0000_0000` (`f64`), whatever the operands'
//!   payloads were. This includes `finalize` of Avg. An element that no kernel has touched keeps its
//!   payload.
//! * **Max and Min** are NaN if either operand is NaN. They order −0 below +0: `max(-0, +0)` is +0 and
//!   `min(-0, +0)` is −0, in either order of the operands.
//! * **Every step rounds.** `f16` and `bf16` results go back to 16 bits after each step, overflow to infinity
//!   by the usual rule of rounding, and no step is fused with another (no multiply-add).
//! * **Subnormals are kept**, as operands and as results, also on a thread whose floating-point mode says
//!   otherwise (flush to zero, another rounding direction; libraries built with fast-math do that to their
//!   host). The mode is set to the default for the length of a call and then put back.
//! * It follows that every op is commutative bit for bit. None but Max, Min and the integer ops is
//!   associative, so the order in which *three* operands meet is for the schedule to fix.
//!
//! [`scalar`] is the same in plain code, one element at a time: the definition the fast kernels are tested
//! against. [`Isa`] says which instruction set the fast ones use here.
//!
//! # Hashing
//!
//! See [`hash`].
//!
//! # Quantization
//!
//! See [`quantize`]; [`Blocks`] is a tensor of which pieces are quantized as they are needed.
//!
//! [`Sum`]: ReduceOp::Sum
//! [`Avg`]: ReduceOp::Avg
//! [`Prod`]: ReduceOp::Prod
//! [`Max`]: ReduceOp::Max
//! [`Min`]: ReduceOp::Min

mod blocks;
pub mod hash;
mod kind;
pub mod quantize;
mod reduce;
pub mod scalar;

pub use blocks::Blocks;
pub use kind::{DataType, ReduceOp, UnknownName};
pub use reduce::{Isa, finalize, reduce, reduce_assign, reduce_assign_left};
