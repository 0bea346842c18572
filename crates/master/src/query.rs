//! Asking a running master what goes on.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pccl_net::{Reason, Refused, SecureStream, Security};
use pccl_proto::message::{Command, FromMaster, MasterMessage, Status, ToMaster};
use pccl_proto::wire::{ControlStream, MAX_CONTROL_BYTES, VERSION, WireError};

/// A master's status cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// Nobody listens there.
    #[error("failed to ask the master at {addr}: connection refused; is it running, and is this its port?")]
    Refused {
        /// Whom we asked.
        addr: SocketAddr,
    },
    /// It was not reached, or did not answer, in time.
    #[error(
        "failed to ask the master at {addr}: no answer within {limit_ms} ms; check network and firewall, or allow more time"
    )]
    TimedOut {
        /// Whom we asked.
        addr: SocketAddr,
        /// The limit, milliseconds.
        limit_ms: u128,
    },
    /// Another program listens there.
    #[error("failed to ask the master at {addr}: {what}; another program uses this port")]
    NotAMaster {
        /// Whom we asked.
        addr: SocketAddr,
        /// How it is seen.
        what: String,
    },
    /// It speaks another version of the protocol.
    #[error(
        "failed to ask the master at {addr}: it speaks protocol version {theirs}, this program {VERSION}; use its version of pccl"
    )]
    Version {
        /// Whom we asked.
        addr: SocketAddr,
        /// Its version.
        theirs: u8,
    },
    /// It closed the connection without an answer, as masters of another version do.
    #[error(
        "failed to ask the master at {addr}: it closed the connection without an answer; it is not a master of pccl, \
         one of another version (this is protocol version {VERSION}), or it has just ended"
    )]
    Closed {
        /// Whom we asked.
        addr: SocketAddr,
    },
    /// The two sides do not trust each other.
    #[error("failed to ask the master at {addr}: {why}")]
    Distrust {
        /// Whom we asked.
        addr: SocketAddr,
        /// Which side refuses the other, and why.
        why: String,
        /// The kind; none if the other side just closed the connection.
        reason: Option<Reason>,
    },
    /// Any other failure of the network.
    #[error("failed to ask the master at {addr}: {source}; check address and network")]
    Network {
        /// Whom we asked.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl StatusError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Distrust { .. } => {
                "network.tls and auth must be the same here as in the master's configuration (--config names the file); \
                 `pccl doctor cant-connect` tells what differs"
            }
            Self::TimedOut { .. } | Self::Network { .. } => {
                "`pccl doctor master-unreachable` tells a blocked way from a stopped process"
            }
            Self::Version { .. } => "all processes of a run should have one version",
            _ => "`pccl master` says at its start where it listens",
        }
    }
}

/// Asks the master at `addr` for its status, for at most `timeout` in all. Blocks. A master that guards its connections
/// answers those with the same `security` only.
pub fn query_status(
    addr: SocketAddr,
    timeout: Duration,
    security: Option<&Security>,
) -> Result<Status, StatusError> {
    ask(addr, timeout, security, &ToMaster::Status, |message| match message {
        MasterMessage::Status(status) => Some(*status),
        _ => None,
    })
}

/// Commands the master at `addr`, for at most `timeout` in all; its own host only. Blocks. The inner error is its reason
/// not to obey.
pub fn send_command(
    addr: SocketAddr,
    command: Command,
    timeout: Duration,
    security: Option<&Security>,
) -> Result<Result<(), String>, StatusError> {
    ask(addr, timeout, security, &ToMaster::Command(command), |message| match message {
        MasterMessage::Commanded { outcome } => Some(outcome),
        _ => None,
    })
}

fn ask<T>(
    addr: SocketAddr,
    timeout: Duration,
    security: Option<&Security>,
    question: &ToMaster,
    answer_in: impl Fn(MasterMessage) -> Option<T>,
) -> Result<T, StatusError> {
    let query = Query { addr, timeout, deadline: Instant::now() + timeout };
    let stream = TcpStream::connect_timeout(&addr, query.left()?).map_err(|e| query.failed(e))?;
    // What follows the handshake would wait for a delayed acknowledgement of it, 40 ms.
    stream.set_nodelay(true).map_err(|e| query.failed(e))?;
    stream.set_read_timeout(Some(query.left()?)).map_err(|e| query.failed(e))?;
    stream.set_write_timeout(Some(query.left()?)).map_err(|e| query.failed(e))?;
    let mut stream = SecureStream::client(stream, addr, security).map_err(|e| query.failed(e))?;
    let mut control = ControlStream::new(MAX_CONTROL_BYTES);
    control.push(question);
    stream.socket().set_write_timeout(Some(query.left()?)).map_err(|e| query.failed(e))?;
    stream.write_all(control.transmit_buffer()).map_err(|e| query.failed(e))?;
    loop {
        stream.socket().set_read_timeout(Some(query.left()?)).map_err(|e| query.failed(e))?;
        match stream.read(control.receive_buffer()) {
            Ok(0) => return Err(StatusError::Closed { addr }),
            Ok(n) => control.handle_received(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(query.failed(e)),
        }
        while let Some(answer) = control.next_message::<FromMaster>().map_err(|e| query.not_ours(&e))? {
            if let Some(answer) = answer_in(answer.message) {
                return Ok(answer);
            }
        }
    }
}

struct Query {
    addr: SocketAddr,
    timeout: Duration,
    deadline: Instant,
}

impl Query {
    /// Time left; never zero, which the system takes for "for ever".
    fn left(&self) -> Result<Duration, StatusError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.timed_out()) } else { Ok(left) }
    }

    fn timed_out(&self) -> StatusError {
        StatusError::TimedOut { addr: self.addr, limit_ms: self.timeout.as_millis() }
    }

    fn failed(&self, source: io::Error) -> StatusError {
        let addr = self.addr;
        if let Some(refused) = source.get_ref().and_then(|e| e.downcast_ref::<Refused>()) {
            return StatusError::Distrust { addr, why: refused.why.clone(), reason: Some(refused.reason) };
        }
        match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                StatusError::Distrust { addr, why: source.to_string(), reason: None }
            }
            io::ErrorKind::ConnectionRefused => StatusError::Refused { addr },
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => self.timed_out(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => StatusError::Closed { addr },
            _ => StatusError::Network { addr, source },
        }
    }

    fn not_ours(&self, e: &WireError) -> StatusError {
        let addr = self.addr;
        match e {
            WireError::Version { theirs } => StatusError::Version { addr, theirs: *theirs },
            WireError::Tls => {
                StatusError::Distrust { addr, why: e.to_string(), reason: Some(Reason::PlainText) }
            }
            WireError::Authentication => {
                StatusError::Distrust { addr, why: e.to_string(), reason: Some(Reason::NotAuthenticated) }
            }
            other => StatusError::NotAMaster { addr, what: other.to_string() },
        }
    }
}
