//! The pure core of the collectives: no socket, clock, thread or entropy.
//!
//! * [`machine`] is the contract with whoever moves the bytes; [`peer::Peer`] and [`master::Master`] implement it.
//! * [`wire`] and [`message`] are what crosses the network; [`record`] is what the master must not forget.
//! * [`schedule`] says who sends what to whom; [`execute`] does it with real memory.
#![forbid(unsafe_code)]

pub mod execute;
pub mod ids;
pub mod lease;
pub mod machine;
pub mod master;
pub mod message;
pub mod peer;
pub mod record;
pub mod rules;
pub mod schedule;
pub mod settings;
pub mod shared_state;
pub mod vocabulary;
pub mod wire;
