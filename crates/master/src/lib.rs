//! The coordination service: the master and its store.
//!
//! [`Server`] runs a [`pccl_proto::master::Master`] on real sockets and a [`StateStore`] beside it: [`MemoryStore`], which
//! forgets with the process, or [`EmbeddedStore`], a file, with which a restart is a pause and not the end of the run, or
//! [`PostgresStore`] or [`EtcdStore`], which several masters on several machines share.
//! [`query_status`] asks a running master what goes on.
#![forbid(unsafe_code)]

mod journal;
mod query;
mod server;
mod store;
#[cfg(test)]
mod tests;

pub use pccl_net::Security;
#[cfg(feature = "fault-points")]
#[doc(hidden)]
pub use pccl_net::fault::arm as arm_fault;
pub use query::{StatusError, query_status, send_command};
pub use server::{EndError, Server, ServerError, ServerOptions, StoreChoice};
pub use store::{EmbeddedStore, EtcdStore, MemoryStore, PostgresStore, StateStore, StoreError, StoreUrl};
