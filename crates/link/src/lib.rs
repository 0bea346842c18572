//! Hosts on one machine, with links of a given delay, jitter, loss and rate between them: a WAN for tests and benchmarks.
//!
//! A kernel without `netem` is enough. Each host is a network namespace with one TUN device; every packet that leaves it is
//! read here, held as long as the link's [`Shape`] says, and written to the device of the host that it is for. What a shape
//! does to a packet is a pure function of its seed and of time ([`Shaper`]), so the same packets meet the same fates.
//!
//! Nothing is left behind, in whichever way a program ends: a namespace has no name and lives as long as the descriptor that
//! this process holds, its device goes with it, and what [`Network::command`] starts ends with the thread that started it.
//! It takes root, and `unshare`, `nsenter`, `setpriv` and `ip` on the `PATH`.
#![forbid(unsafe_code)]

mod host;
mod network;
mod pump;
mod shape;

pub use host::LinkError;
pub use network::{Counters, Network, NetworkOptions};
pub use shape::{Fate, Shape, Shaper};
