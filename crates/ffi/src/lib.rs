//! `libpccl`: the C API of PCCL 1.0.0, by its names, values and layouts, over [`pccl`] and [`pccl_master`]; and in the
//! same style what it does not have: error texts, options, more collectives, leaving.
//!
//! * `abi`: types as C sees them. `pccl.h` is generated from it and from the functions.
//! * `boundary`: what every call does first and last: whatever goes wrong becomes a result code and a text, never a crash.
//! * `handles`: what C holds are numbers that are never used again, not addresses: a handle that was destroyed, or is one
//!   of another kind, is found out.
#![expect(non_camel_case_types, reason = "the names of the C API")]

pub mod abi;
mod address;
mod boundary;
pub mod collectives;
pub mod communicator;
mod convert;
mod handles;
mod log;
pub mod many;
pub mod master;
pub mod process;
pub mod reduce;
pub mod shared_state;
pub mod votes;
