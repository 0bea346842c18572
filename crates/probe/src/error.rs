//! Why a check cannot be made.

use std::io;
use std::net::SocketAddr;

/// A check cannot be made, or not to its end. What is found to be bad is no error: it is in the report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The port to meet at is not free.
    #[error("failed to wait for the hosts on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Not all have come in time.
    #[error("failed to begin: {came} of {wanted} hosts came within {seconds} s: {}", .names.join(", "))]
    Missing {
        /// How many have come, with this one.
        came: usize,
        /// How many there should be.
        wanted: usize,
        /// How long we waited.
        seconds: u64,
        /// Those that came.
        names: Vec<String>,
    },
    /// More hosts than a check can have, or only one.
    #[error("failed to begin: a check is made between 2 and {most} hosts, not {0}", most = crate::meet::MOST_HOSTS)]
    Hosts(usize),
    /// The place to meet cannot be reached.
    #[error("failed to reach the check at {addr}: {source}")]
    Connect {
        /// Where.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The two sides do not trust each other, or speak different versions.
    #[error("failed to join the check at {addr}: {why}")]
    Refused {
        /// Where.
        addr: SocketAddr,
        /// Why.
        why: String,
    },
    /// A host was lost in the middle.
    #[error("failed to go on: {host} was lost: {why}")]
    Lost {
        /// Which.
        host: String,
        /// How.
        why: String,
    },
    /// The system refuses something.
    #[error("failed to {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl CheckError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Listen { .. } => {
                "another program has the port (see `ss -ltnp`); beside a running fleet add --running and choose another by --port"
            }
            Self::Missing { .. } => {
                "start `pccl check --master HOST` on each of the others, open the port for them (`pccl firewall`), or allow more time by --wait"
            }
            Self::Hosts(_) => "--hosts counts all hosts, the one with --serve included",
            Self::Connect { .. } => {
                "start `pccl check --serve --hosts N` there first, and see that a firewall lets its port through (`pccl firewall`)"
            }
            Self::Refused { .. } => {
                "use the same version, and the same network.tls and auth.secret on all hosts"
            }
            Self::Lost { .. } => "see what its own check says",
            Self::System { .. } => "see what the system says",
        }
    }

    pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
