//! Fault-tolerant collectives over TCP/IP: the library of a peer.
//!
//! ```no_run
//! use pccl::{Call, Communicator, Options, ReduceOp};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let comm = Communicator::connect(&Options::new("master.example.com:7117"))?;
//! while comm.membership().world_size < 4 {
//!     comm.update_topology()?; // every member calls it; newcomers come in here and nowhere else
//! }
//! let mut gradients = vec![0.5_f32; 1 << 20];
//! let info = comm.all_reduce_in_place(&mut gradients, &Call::new(0).op(ReduceOp::Avg))?;
//! println!("averaged over {} peers, {} recoveries", info.world, info.recoveries);
//! # Ok(())
//! # }
//! ```
//!
//! When a peer dies in the middle of an op, the same call goes on with the survivors; it returns an error only if the op
//! failed for all alike, or this peer's membership has ended, and then the input is as it was.

mod buffer;
#[cfg(feature = "checkpoint")]
mod checkpoint;
mod code;
mod collectives;
mod communicator;
mod configured;
mod cuda;
mod element;
mod engine;
mod error;
mod fault;
mod insight;
mod journal;
mod kernels;
mod masters;
mod options;
mod pending;
mod quantized;
mod raw;
mod residuals;
mod security;
mod settings;
mod shared_state;
mod whole_file;

#[cfg(feature = "checkpoint")]
pub use checkpoint::{
    CheckpointError, CheckpointInfo, CheckpointOptions, CheckpointStatus, Checkpoints, StoredTensor,
};
pub use code::ResultCode;
pub use collectives::{ManyCall, Scattered, block_of};
pub use communicator::{Communicator, MemberInfo, Membership, Stats};
pub use configured::{ConfiguredError, bind_ip, check_configuration, run_settings};
pub use cuda::support as cuda_support;
pub use element::Element;
pub use error::{Class, CollectiveError, ConnectError, VoteError};
pub use options::{Call, Options, Ports};
#[cfg(feature = "fault-points")]
#[doc(hidden)]
pub use pccl_net::fault::arm as arm_fault;
pub use pccl_net::{CertificateGroups, Security, SecurityOptions, SharedSecret, TlsFileError, TlsFiles};
pub use pccl_proto::peer::{EndReason, OpInfo, StartError, SyncStartError};
pub use pccl_proto::record::{Failure, Removal};
pub use pccl_proto::settings::{Expectations, Recovery, RunSettings};
pub use pccl_proto::shared_state::{Fault, KeyDifference, NoCandidate, Strategy};
pub use pccl_proto::vocabulary::{Algorithm, Collective, DataType, Quantization, ReduceOp};
pub use pending::Pending;
pub use raw::{Device, RawOp, RawPending, RawTensor};
pub use security::{certificate_groups, security};
pub use settings::{SettingError, Settings};
pub use shared_state::{SharedState, SyncError, SyncInfo, Tensor};
pub use whole_file::{replace_file, replaceable};

/// The 128-bit content hash that shared state is compared by (XXH3); the same on every machine.
pub fn hash_bytes(bytes: &[u8]) -> u128 {
    pccl_kernels::hash::hash_block(bytes)
}

/// The README's example must compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
