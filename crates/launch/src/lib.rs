//! Processes that `pccl` starts: one way to build, mark, find and end them, in three forms.
//!
//! | form | module | it ends | what it says |
//! | --- | --- | --- | --- |
//! | waited for | [`run`](mod@run) | by itself, or by a [`Control`] | goes to a file that is kept |
//! | a service | [`service`] | when it is told to, also by a later session | goes to a file that is kept |
//! | attached | [`crew`], and [`parent`] in the child | with its parent, whatever happens to that | is heard line by line |
//!
//! What they have in common is said once: a [`Program`] becomes a command (variables that it must not get, a process
//! group of its own), processes are told apart by number and start time and found by a mark in their environment
//! ([`identity`]), and whoever is to end is asked first and killed after a time of grace.
#![forbid(unsafe_code)]

pub mod crew;
pub mod identity;
mod output;
pub mod parent;
mod program;
pub mod run;
pub mod service;
mod stop;

pub use crew::{Crew, Happening, Id};
pub use program::{Program, StartError};
pub use run::{Control, Finished, Running};
pub use service::{Keeper, Service, StopError};
