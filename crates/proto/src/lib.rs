//! The pure core of the collectives: no socket, clock, thread or entropy.
//!
//! * [`machine`] is the contract with whoever moves the bytes; [`peer::Peer`] and [`master::Master`] implement it.
//! * [`wire`] and [`message`] are what crosses the network; [`record`] is what the master must not forget.
//! * [`schedule`] says who sends what to whom; [`execute`] does it with real memory: both are another crate's, below this one.
#![forbid(unsafe_code)]

pub mod ids;
pub mod lease;
pub mod machine;
pub mod master;
pub mod message;
pub mod peer;
pub mod record;
pub mod rules;
pub mod settings;
pub mod shared_state;
pub mod wire;

pub use pccl_collective::{execute, schedule, vocabulary};
