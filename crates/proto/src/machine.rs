//! The contract between the pure state machines and whoever moves their bytes (sockets, or the simulator).
//!
//! A machine is told what happened (`handle_*`, with the time), asked what to do (`poll_*`), and gives out the memory
//! that the next bytes come from or go to. It never blocks, never looks at a clock, and never keeps a promise about
//! memory between two calls: the buffers of `receive_buffers` and `transmit_buffers` are valid until the next call only,
//! so an op that ends takes its memory away without anyone else having to know.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::ids::{ConnId, PeerGroup, Time};
use crate::record::StoreRequest;

/// Something the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a TCP connection; answer with `handle_connected` or `handle_closed`.
    Dial {
        /// The machine's name for the connection.
        conn: ConnId,
        /// Where to.
        addr: SocketAddr,
    },
    /// Close a connection and forget its name. No `handle_closed` follows.
    Close {
        /// Which one.
        conn: ConnId,
        /// Last words, written if that takes no waiting.
        last: Vec<u8>,
    },
    /// Read again from a connection on which `receive_buffers` had been empty.
    ResumeReading {
        /// Which one.
        conn: ConnId,
    },
    /// Send a datagram; it may be lost.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// At most 1,200 bytes.
        bytes: Vec<u8>,
    },
    /// Ask the store; answer with `handle_store` (masters only).
    Store(StoreRequest),
}

/// Why a connection is no more (or never came to be).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// Nobody listens there: the process is gone.
    Refused,
    /// No answer.
    TimedOut,
    /// The other side closed it.
    Eof,
    /// Any other failure, in words.
    Failed(String),
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::TimedOut => f.write_str("no answer"),
            Self::Eof => f.write_str("closed by the other side"),
            Self::Failed(text) => f.write_str(text),
        }
    }
}

/// What the certificate of a connection's other side allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// The certificate, as people know it.
    pub certificate: String,
    /// The groups that it may join.
    pub groups: BTreeSet<PeerGroup>,
}

/// A pure state machine with connections: a peer or a master.
pub trait Machine {
    /// Somebody connected to our TCP port. `None`: close it (too many strangers).
    fn handle_accepted(&mut self, now: Time, from: SocketAddr) -> Option<ConnId>;
    /// Said of an accepted connection before anything comes on it, where certificates decide who may join what. Without
    /// it the other side may join every group.
    fn handle_permit(&mut self, _conn: ConnId, _permit: Permit) {}
    /// A dialed connection is established.
    fn handle_connected(&mut self, now: Time, conn: ConnId);
    /// The other side of a dialed connection answers, and security below the protocol is still being set up.
    fn handle_progress(&mut self, _now: Time, _conn: ConnId) {}
    /// A connection ended without our asking.
    fn handle_closed(&mut self, now: Time, conn: ConnId, why: Closed);
    /// Where the next bytes of a connection go, in this order. All empty: do not read now.
    fn receive_buffers(&mut self, conn: ConnId) -> [&mut [u8]; 2];
    /// `n` bytes were written to `receive_buffers`.
    fn handle_received(&mut self, now: Time, conn: ConnId, n: usize);
    /// The next bytes to send on a connection, appended to `out` in order. None: nothing to send.
    fn transmit_buffers<'a>(&'a mut self, conn: ConnId, out: &mut Vec<&'a [u8]>);
    /// `n` bytes of `transmit_buffers` were taken by the connection.
    fn handle_transmitted(&mut self, now: Time, conn: ConnId, n: usize);
    /// A datagram came.
    fn handle_datagram(&mut self, now: Time, from: SocketAddr, bytes: &[u8]);
    /// The time of `poll_timeout` has come (calling early or late does no harm).
    fn handle_timeout(&mut self, now: Time);
    /// When to call `handle_timeout` next.
    fn poll_timeout(&self) -> Option<Time>;
    /// The next thing to do.
    fn poll_action(&mut self) -> Option<Action>;
    /// A connection that may have bytes to send.
    fn poll_writable(&mut self) -> Option<ConnId>;
}
