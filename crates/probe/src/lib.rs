//! Measures the network between the hosts of a fleet, and says whether it is good enough and what to do if not.
//!
//! The hosts meet at one of them ([`serve`]; the others [`join`]), which tells everybody what to measure when, so that no
//! measurement disturbs another, and gives everybody the same [`Report`]. What is measured goes over UDP between the hosts
//! themselves, every datagram with a code of this meeting's key; what is said goes over TCP, guarded like a master's port.
//!
//! [`stats`], [`verdict`] and [`plan`] are arithmetic, and know no socket. [`firewall`] writes the rules
//! that let a fleet through.
#![forbid(unsafe_code)]

mod bandwidth;
mod control;
mod counters;
mod display;
mod error;
pub mod firewall;
mod host;
mod meet;
mod mtu;
pub mod plan;
mod ports;
mod probing;
pub mod report;
pub mod stats;
pub mod verdict;
mod wire;

pub use error::CheckError;
pub use meet::{JoinOptions, Progress, ServeOptions, join, serve};
pub use plan::Settings;
pub use report::{HostReport, PairReport, Report, Way};
