//! Sockets and timers: drives the pure state machines of `pccl-proto`.
//!
//! [`Net`] holds the sockets and moves the bytes of a [`Machine`]; [`Waiter`] waits for them. They are two values, so that
//! a thread can wait while another one, holding the lock around machine and [`Net`], sends. Nothing here spins: a thread
//! that has nothing to do sleeps in the kernel.
#![deny(unsafe_code)]

pub mod fault;
#[expect(unsafe_code, reason = "what a child after `fork` does is set up by a call of the C library")]
mod fork;
mod interface;
mod knock;
mod listen;
mod net;
mod security;
mod send;
mod tcp_info;
mod waiter;

pub use fork::not_for_children;
pub use interface::{InterfaceError, interface_ip};
pub use knock::knock;
pub use listen::{ListenError, Listeners, listen_tcp, listen_tcp_and_udp};
pub use net::Net;
pub use pccl_proto::machine::Machine;
#[doc(hidden)]
pub use security::Channel;
pub use security::{
    CertificateGroups, Reason, Refused, SecureStream, Security, SecurityOptions, SharedSecret, TlsFileError,
    TlsFiles,
};
pub use tcp_info::{TcpInfo, TcpInfos};
pub use waiter::{Waiter, Wakeup, pair};
