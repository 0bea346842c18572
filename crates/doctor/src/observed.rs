//! What was measured: plain values, for [`diagnose`](crate::diagnose()).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use pccl_net::Reason;
use pccl_proto::message::Status;

use crate::finding::Unmeasured;

/// All that was measured from one machine.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    /// What the configuration of this machine says.
    pub setting: Setting,
    /// The masters, as they were named.
    pub masters: Vec<MasterSeen>,
    /// Our own certificates.
    pub certificates: Vec<CertificateSeen>,
    /// Processes by their pages of metrics.
    pub processes: Vec<ProcessSeen>,
    /// The peers' ports, tried from here.
    pub ports: Vec<PortSeen>,
    /// The ports that a peer on this machine would take.
    pub own_ports: Option<OwnPorts>,
    /// This machine.
    pub host: HostSeen,
    /// Seconds since 1970, by this machine's clock.
    pub now: i64,
    /// What could not be measured.
    pub unmeasured: Vec<Unmeasured>,
}

/// What the configuration says.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `network.heartbeat_interval_ms`.
    pub heartbeat_interval_ms: u32,
    /// `network.heartbeat_timeout_ms`.
    pub heartbeat_timeout_ms: u32,
    /// Whether TLS is on here.
    pub tls: bool,
    /// Whether a secret is configured here.
    pub secret: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self { heartbeat_interval_ms: 100, heartbeat_timeout_ms: 500, tls: false, secret: false }
    }
}

/// A master by its name.
#[derive(Clone, Debug)]
pub struct MasterSeen {
    /// As it was given.
    pub name: String,
    /// What the resolver says, if it has no address.
    pub unresolved: Option<String>,
    /// Its addresses, each tried.
    pub addresses: Vec<AddressSeen>,
}

impl MasterSeen {
    /// Its status, by the first address that tells it.
    pub fn status(&self) -> Option<&Status> {
        self.addresses.iter().find_map(|one| match &one.answer {
            Some(Answer::Status { status, .. }) => Some(&**status),
            _ => None,
        })
    }
}

/// An address of a master.
#[derive(Clone, Debug)]
pub struct AddressSeen {
    /// Which.
    pub addr: SocketAddr,
    /// What came of connecting.
    pub connect: Connect,
    /// What came of asking, if it accepted.
    pub answer: Option<Answer>,
    /// The certificate that it shows, if it speaks TLS.
    pub certificate: Option<CertificateSeen>,
    /// What came of datagrams.
    pub udp: Udp,
    /// Who listens there, if that is this machine and may be seen.
    pub holder: Option<Holder>,
}

/// What came of connecting by TCP.
#[derive(Clone, Debug, PartialEq)]
pub enum Connect {
    /// Somebody accepted, after so many milliseconds.
    Open {
        /// Milliseconds.
        ms: f64,
    },
    /// The host said no.
    Refused,
    /// Nobody said anything for so long.
    Silent {
        /// Milliseconds.
        ms: f64,
    },
    /// The system says that it cannot get there.
    Unreachable {
        /// What it says.
        why: String,
    },
}

/// What came of asking a master for its status.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It, after so many milliseconds.
    Status {
        /// What it says.
        status: Box<Status>,
        /// Milliseconds, with the connection and the handshake.
        ms: f64,
    },
    /// Nothing for so long.
    Silent {
        /// Milliseconds.
        ms: f64,
    },
    /// Something else.
    NotAMaster {
        /// How it is seen.
        what: String,
    },
    /// Another version.
    Version {
        /// Its version.
        theirs: u8,
    },
    /// It hung up.
    Closed,
    /// One side does not trust the other.
    Distrust {
        /// The kind; none if it just hung up during the handshake.
        reason: Option<Reason>,
        /// In words.
        why: String,
    },
    /// Anything else.
    Other {
        /// What the system says.
        why: String,
    },
}

/// What came of datagrams to a master.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Udp {
    /// An answer, after so many milliseconds.
    Answers {
        /// Milliseconds, the fastest.
        ms: f64,
    },
    /// The host said that nobody listens.
    Refused,
    /// Nothing.
    Silent,
    /// Not tried: TCP does not work either.
    NotTried,
}

/// A process that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// It is stopped.
    pub stopped: bool,
}

/// A certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateSeen {
    /// Where it was found: a file, an address.
    pub place: String,
    /// Its names.
    pub names: Vec<String>,
    /// Who has signed it.
    pub issuer: String,
    /// From when it counts, seconds since 1970.
    pub from: i64,
    /// Until when.
    pub until: i64,
}

/// A process, by its page of metrics, looked at several times.
#[derive(Clone, Debug, Default)]
pub struct ProcessSeen {
    /// The address of its metrics.
    pub place: String,
    /// Where others reach the peers in it.
    pub addresses: Vec<String>,
    /// It runs on this machine.
    pub is_here: bool,
    /// It is a master.
    pub is_master: bool,
    /// Between the first and the last look.
    pub seconds: f64,
    /// Its peers are attached to a master; none if it has no peers.
    pub attached: Option<bool>,
    /// Since a master was heard, seconds.
    pub heartbeat_age_s: Option<f64>,
    /// Ops that have been called and have not ended.
    pub ops_in_flight: f64,
    /// Age of the oldest of them.
    pub oldest_op_s: f64,
    /// What is kept to restore inputs, bytes.
    pub backup_bytes: f64,
    /// What it moves, 10⁹ bits per second.
    pub gbps: f64,
    /// Recoveries since it began.
    pub recoveries: f64,
    /// Seconds that calls have waited between the looks, by reason.
    pub waited: BTreeMap<String, f64>,
    /// Connections and heartbeats refused since it began, by reason.
    pub refused: BTreeMap<String, f64>,
    /// Its links by the other member's address.
    pub links: BTreeMap<String, LinkSeen>,
    /// Memory that it has, bytes.
    pub resident: Option<f64>,
    /// Memory that its control group may have, bytes.
    pub memory_limit: Option<f64>,
    /// Memory that its control group has, bytes.
    pub memory_used: Option<f64>,
    /// Processes of its control group that were ended for want of memory.
    pub oom_kills: Option<f64>,
    /// Share of the time in which a limit kept its control group from running.
    pub throttled_share: Option<f64>,
    /// Files that it has open.
    pub open_files: Option<f64>,
    /// Files that it may have open.
    pub most_files: Option<f64>,
    /// Its clock minus ours, seconds, and how exactly that is known.
    pub clock_s: Option<(f64, f64)>,
    /// What its flight record says of peers that were lost.
    pub lost: Option<LossRecord>,
}

/// A link as the process at one end sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkSeen {
    /// All its connections stand.
    pub up: bool,
    /// How many.
    pub connections: f64,
    /// The kernel's smoothed round trip, the median of the looks, seconds.
    pub rtt_s: f64,
    /// What was sent and acknowledged between the looks, Mbit/s.
    pub sent_mbps: f64,
    /// What was received, Mbit/s.
    pub received_mbps: f64,
    /// Bytes sent since it began.
    pub sent_bytes: f64,
    /// Segments sent again since it began.
    pub retransmits: f64,
    /// Share of the looks in which frames waited to be sent although the member has called the op.
    pub queued_share: f64,
    /// Share of the looks in which the oldest op waited for this member's data.
    pub awaited_share: f64,
    /// Share of the looks in which data waited because the member has not called the op.
    pub no_credit_share: f64,
}

/// Peers that were lost, from the flight record of a master.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossRecord {
    /// How far back it reaches, seconds.
    pub seconds: f64,
    /// Who and why, the oldest first.
    pub lost: Vec<LostPeer>,
}

/// A peer that was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct LostPeer {
    /// Its address, if the record still has its registration; else its session.
    pub who: String,
    /// How long ago, seconds.
    pub ago_s: f64,
    /// What the master says.
    pub why: String,
}

/// A peer's port, tried from here.
#[derive(Clone, Debug, PartialEq)]
pub struct PortSeen {
    /// Where.
    pub addr: SocketAddr,
    /// What came of it.
    pub connect: Connect,
}

/// The ports of `network.p2p_ports` on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPorts {
    /// Where.
    pub ip: IpAddr,
    /// Which.
    pub ports: RangeInclusive<u16>,
    /// How many of them are free.
    pub free: usize,
    /// Who has the others, as far as that can be seen: `7118 by nginx (pid 812)`.
    pub holders: Vec<String>,
}

/// This machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostSeen {
    /// Processors.
    pub cpus: Option<f64>,
    /// Share of the time that the host of this virtual machine gave to others.
    pub steal_share: Option<f64>,
    /// Tasks that ran or wanted to, the median of the looks.
    pub runnable: Option<f64>,
    /// Share of the last ten seconds in which some task waited for a processor.
    pub pressure_share: Option<f64>,
    /// Bytes of memory.
    pub memory_bytes: Option<f64>,
    /// Bytes that can still be had.
    pub available_bytes: Option<f64>,
    /// Processes that were ended for want of memory in the control group of this process.
    pub oom_kills: Option<f64>,
    /// Memory that the control group of this process may have, and has.
    pub group_memory: Option<(f64, f64)>,
    /// Most files that a process may have open.
    pub most_files: Option<f64>,
    /// `net.ipv4.tcp_wmem`, the largest.
    pub send_buffer_bytes: Option<f64>,
    /// `net.ipv4.tcp_rmem`, the largest.
    pub receive_buffer_bytes: Option<f64>,
}
