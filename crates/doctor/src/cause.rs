//! Why a fleet is not well: the causes that can be told apart by measurement.

use std::fmt;

use serde::Serialize;

use crate::symptom::Symptom::{
    self, CantConnect, FrequentRecoveries, HighLatency, LowThroughput, MasterUnreachable, OutOfMemory,
};

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $label:literal [$($symptom:ident),+] $text:literal,)+) => {
        /// A cause. Those that explain others come before what they explain: of equally bad findings the first is shown
        /// first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[non_exhaustive]
        pub enum Cause {
            $($(#[$doc])* #[serde(rename = $label)] $variant,)+
        }

        impl Cause {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name for programs.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }

            /// What it makes somebody notice.
            pub fn symptoms(self) -> &'static [Symptom] {
                match self {
                    $(Self::$variant => &[$($symptom),+],)+
                }
            }
        }

        impl fmt::Display for Cause {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $text,)+
                })
            }
        }
    };
}

causes! {
    /// Nobody has said where the masters are.
    NoMasterGiven = "no_master_given" [CantConnect, MasterUnreachable]
        "no master is configured",
    /// The name of the master leads nowhere.
    NameUnknown = "name_unknown" [CantConnect, MasterUnreachable]
        "the master's name cannot be resolved",
    /// The process of the master is stopped.
    MasterStopped = "master_stopped" [CantConnect, MasterUnreachable, HighLatency]
        "the master's process is stopped (SIGSTOP, a debugger, a frozen control group)",
    /// Somebody accepts and does not answer.
    MasterSilent = "master_silent" [CantConnect, MasterUnreachable, HighLatency]
        "the master's port accepts connections and nothing answers: the process is frozen or starved",
    /// The host says that nobody listens.
    NobodyListens = "nobody_listens" [CantConnect, MasterUnreachable]
        "nobody listens on the master's port",
    /// Packets to the master vanish.
    PacketsVanish = "packets_vanish" [CantConnect, MasterUnreachable]
        "packets to the master vanish: a firewall drops them, or the host is down",
    /// There is no way to that address.
    NoRoute = "no_route" [CantConnect, MasterUnreachable]
        "this machine has no route to the master",
    /// Another program has the port.
    NotAMaster = "not_a_master" [CantConnect, MasterUnreachable]
        "another program listens on the master's port",
    /// Programs of two versions.
    VersionDiffers = "version_differs" [CantConnect, MasterUnreachable]
        "the master speaks another version of the protocol",
    /// One side wants TLS.
    TlsDiffers = "tls_differs" [CantConnect, MasterUnreachable]
        "TLS is on at one end and off at the other",
    /// A certificate that counts no more.
    CertificateExpired = "certificate_expired" [CantConnect, MasterUnreachable]
        "a certificate has expired",
    /// A certificate that does not count yet.
    CertificateEarly = "certificate_not_yet_valid" [CantConnect, MasterUnreachable]
        "a certificate is not valid yet, or a clock is wrong",
    /// A certificate of an authority that is not trusted.
    CertificateAuthority = "certificate_unknown_authority" [CantConnect, MasterUnreachable]
        "a certificate comes from an authority that the other side does not trust",
    /// A certificate for other names.
    CertificateName = "certificate_name" [CantConnect, MasterUnreachable]
        "the master's certificate is for another name",
    /// No certificate where one is asked for.
    CertificateMissing = "certificate_missing" [CantConnect, MasterUnreachable]
        "the master asks for a certificate, and none is configured here",
    /// A certificate that will not do for another reason.
    CertificateRefused = "certificate_refused" [CantConnect, MasterUnreachable]
        "a certificate is refused",
    /// Two secrets.
    SecretDiffers = "secret_differs" [CantConnect, MasterUnreachable]
        "the shared secret differs from the master's",
    /// One side wants a secret.
    SecretMissing = "authentication_differs" [CantConnect, MasterUnreachable]
        "authentication is on at one end and off at the other",
    /// It hangs up.
    HangsUp = "hangs_up" [CantConnect, MasterUnreachable]
        "the master's port hangs up without an answer",
    /// Nobody decides.
    NoActiveMaster = "no_active_master" [CantConnect, MasterUnreachable, HighLatency]
        "no master is active: all of them stand by, or have no valid lease",
    /// The store of the master does not work.
    StoreTrouble = "store_trouble" [CantConnect, MasterUnreachable, HighLatency]
        "the master's store does not answer as it should",
    /// The kernel has ended processes.
    OomKilled = "oom_killed" [OutOfMemory, FrequentRecoveries]
        "the kernel has ended processes for want of memory",
    /// A control group is nearly full.
    MemoryLimit = "memory_limit" [OutOfMemory]
        "the memory that is allowed is nearly used up",
    /// The machine is nearly full.
    MemoryShort = "memory_short" [OutOfMemory]
        "this machine has hardly any memory left",
    /// What restores inputs takes much.
    BackupMemory = "backup_memory" [OutOfMemory]
        "what is kept to restore inputs takes a large part of the memory",
    /// Ports that peers need are another's.
    PortsTaken = "ports_taken" [CantConnect]
        "no port for connections between peers is free on this machine",
    /// Members cannot be connected to.
    PeerPortSilent = "peer_port_silent" [CantConnect, FrequentRecoveries]
        "connections to a peer's port vanish: a firewall drops them",
    /// Nobody listens where a member should.
    PeerPortRefused = "peer_port_refused" [CantConnect, FrequentRecoveries]
        "nobody listens where a peer says it does",
    /// A link between members does not stand.
    LinkDown = "link_down" [CantConnect, FrequentRecoveries, LowThroughput, HighLatency]
        "a link between two peers is down",
    /// Somebody keeps being lost.
    PeersLost = "peers_lost" [FrequentRecoveries]
        "peers are lost again and again",
    /// The timeout does not fit to the network.
    TimeoutShort = "heartbeat_timeout_short" [FrequentRecoveries]
        "the heartbeat timeout is too short for this network",
    /// A member is hardly heard.
    PeerHardlyHeard = "peer_hardly_heard" [FrequentRecoveries, HighLatency]
        "a peer has not been heard for most of the heartbeat timeout",
    /// A worker hears no master.
    NotAttached = "not_attached" [CantConnect, MasterUnreachable, HighLatency]
        "a worker is not attached to a master",
    /// Others wait for a caller.
    PeerNotCalled = "peer_not_called" [HighLatency]
        "the others wait for a peer that has not called the op",
    /// One link is slower than the others.
    SlowLink = "slow_link" [LowThroughput, HighLatency]
        "one link is slower than the others",
    /// Ops wait for the network.
    LittleBandwidth = "little_bandwidth" [LowThroughput]
        "a link carries less than what is needed",
    /// Packets are lost.
    PacketsLost = "packets_lost" [LowThroughput, HighLatency, FrequentRecoveries]
        "a link loses packets",
    /// Peers are far apart.
    LongRoundTrip = "long_round_trip" [HighLatency, LowThroughput, FrequentRecoveries]
        "a round trip is long",
    /// The kernel does not let more bytes be on their way.
    SmallBuffers = "small_buffers" [LowThroughput]
        "the socket buffers of this machine are too small for a long link",
    /// Datagrams to the master do not come back.
    UdpSilent = "udp_silent" [FrequentRecoveries, CantConnect]
        "UDP to the master is blocked, though TCP works: heartbeats go over TCP alone",
    /// Nobody takes datagrams.
    UdpRefused = "udp_refused" [FrequentRecoveries, CantConnect]
        "nobody listens on the master's UDP port, though TCP works",
    /// Another guest has the processor.
    CpuStolen = "cpu_stolen" [LowThroughput, HighLatency, FrequentRecoveries]
        "the host of this virtual machine gives its processors to others",
    /// A limit on processor time.
    CpuThrottled = "cpu_throttled" [LowThroughput, HighLatency, FrequentRecoveries]
        "a limit on processor time keeps processes from running",
    /// More want to run than can.
    CpuShort = "cpu_short" [LowThroughput, HighLatency, FrequentRecoveries]
        "more wants to run on this machine than it has processors",
    /// Descriptors are used up.
    FilesShort = "files_short" [CantConnect]
        "the limit on open files is nearly used up, or too low for a fleet",
    /// A clock is off.
    ClockOff = "clock_off" [CantConnect]
        "the clocks of two machines differ",
    /// A certificate ends soon.
    CertificateEnds = "certificate_ends_soon" [CantConnect]
        "a certificate ends soon",
    /// Others are refused.
    Refusals = "refusals" [CantConnect]
        "the fleet refuses somebody's connections",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symptom_has_causes_and_every_label_is_one() {
        for symptom in Symptom::ALL {
            assert!(Cause::ALL.iter().any(|cause| cause.symptoms().contains(&symptom)), "{symptom}");
        }
        let mut labels: Vec<_> = Cause::ALL.iter().map(|cause| cause.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.label());
        }
    }
}
