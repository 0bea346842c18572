//! The sections of the configuration. Field names are the keys of the file; times end in `_ms` (milliseconds).

use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use super::values::{
    BindAddress, HostPort, LogLevel, LogLevels, MetricsAddress, NamedGroups, PortRange, Recovery, Secret,
    StoreKind,
};

/// `network`: who listens and connects where, and when silence counts as death.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkConfig {
    /// Where the masters are; empty if the program says it otherwise.
    pub master_host: Vec<HostPort>,
    /// The master's TCP and heartbeat port; for the hosts above that name none.
    pub master_port: u16,
    /// Time between two heartbeats, in milliseconds. Run-wide.
    pub heartbeat_interval_ms: u32,
    /// Silence after which a peer is dead, in milliseconds. Run-wide.
    pub heartbeat_timeout_ms: u32,
    /// How long a peer waits for a master before it settles, in milliseconds.
    pub master_timeout_ms: u32,
    /// Peer-to-peer TCP ports; the first free one is taken.
    pub p2p_ports: PortRange,
    /// The address that other peers connect to, where it differs from the local one.
    pub advertise_address: Option<HostPort>,
    /// The local IP address to use, or the interface that has it.
    pub bind_address: Option<BindAddress>,
    /// The name of the place.
    pub site: Option<String>,
    /// Where connections and heartbeats are taken from; empty for everywhere.
    pub allowed_networks: Vec<IpNet>,
    /// TLS on TCP connections.
    pub tls: TlsConfig,
}

/// `network.tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsConfig {
    /// TLS on every TCP connection. A certificate without this key means true.
    pub enabled: bool,
    /// Path of this process's certificate chain (PEM).
    pub cert_file: Option<String>,
    /// Path of the certificate's private key (PEM).
    pub key_file: Option<String>,
    /// Path of the authorities that every other side's certificate must come from (PEM).
    pub ca_file: Option<String>,
    /// The peer groups that a certificate may join at this master, by the names in it; empty for all.
    pub groups: NamedGroups,
}

/// `auth`: the shared secret.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AuthConfig {
    /// Authenticate every connection. A secret without this key means true.
    pub enabled: bool,
    /// The secret that all processes of the run share.
    pub secret: Option<Secret>,
    /// Path of a file that holds it, instead.
    pub secret_file: Option<String>,
}

/// `fault_tolerance`: what happens when a peer is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultToleranceConfig {
    /// Keep what restores an input until commit. Run-wide.
    pub enable_buffer_backup: bool,
    /// Steps (shared-state revisions) between checkpoints; 0 = never.
    pub checkpoint_interval_steps: u32,
    /// Where checkpoints are written; none = nowhere.
    pub checkpoint_url: Option<String>,
    /// Complete checkpoints of a peer group that are kept.
    pub checkpoint_keep: u32,
    /// How often an op that lost a peer is tried again. Run-wide.
    pub max_recovery_attempts: u32,
    /// Who tries it again. Run-wide.
    pub recovery: Recovery,
    /// When an op that waits for living peers ends, in milliseconds; 0 = never. Run-wide.
    pub op_timeout_ms: u64,
}

/// `performance`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PerformanceConfig {
    /// Size of the pieces that run around a ring, in bytes. Run-wide.
    pub ring_chunk_size: u64,
    /// Threads that move bytes.
    pub num_io_threads: u32,
    /// Send large float sums and averages as int8 blocks (lossy). Run-wide.
    pub enable_compression: bool,
}

/// `logging`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggingConfig {
    /// What is logged: this level and all graver ones.
    pub level: LogLevel,
    /// Levels of single modules.
    pub levels: LogLevels,
    /// Path of a file for JSON lines.
    pub file: Option<String>,
    /// Size at which the file is rotated, in megabytes (10⁶ bytes).
    pub max_size_mb: u64,
}

/// `metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MetricsConfig {
    /// Where metrics and health are served.
    pub address: MetricsAddress,
}

/// `store`: where the master keeps its state.
#[derive(Clone, Debug, Serialize)]
pub struct StoreConfig {
    /// Which store.
    pub kind: StoreKind,
    /// Address of the postgres or etcd store; it may hold a password.
    pub url: Option<Secret>,
    /// Path of the embedded store's file; the master chooses one if it is not given.
    pub path: Option<String>,
    /// How long the active master may act without renewing its lease, in milliseconds.
    pub lease_ms: u64,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            master_host: Vec::new(),
            master_port: 7117,
            heartbeat_interval_ms: 100,
            heartbeat_timeout_ms: 500,
            master_timeout_ms: 60_000,
            p2p_ports: PortRange { first: 7118, last: 7150 },
            advertise_address: None,
            bind_address: None,
            site: None,
            allowed_networks: Vec::new(),
            tls: TlsConfig::default(),
        }
    }
}

impl Default for FaultToleranceConfig {
    fn default() -> Self {
        Self {
            enable_buffer_backup: true,
            checkpoint_interval_steps: 100,
            checkpoint_url: None,
            checkpoint_keep: 3,
            max_recovery_attempts: 3,
            recovery: Recovery::InsideCall,
            op_timeout_ms: 0,
        }
    }
}

impl Default for PerformanceConfig {
    fn default() -> Self {
        Self { ring_chunk_size: 4_194_304, num_io_threads: 4, enable_compression: false }
    }
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { level: LogLevel::Info, levels: LogLevels::default(), file: None, max_size_mb: 100 }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { kind: StoreKind::Embedded, url: None, path: None, lease_ms: 1500 }
    }
}

impl NetworkConfig {
    /// The masters with their ports, in the order given.
    pub fn masters(&self) -> Vec<(String, u16)> {
        let port = |at: &HostPort| at.port.unwrap_or(self.master_port);
        self.master_host.iter().map(|at| (at.host.clone(), port(at))).collect()
    }

    /// Time between two heartbeats.
    pub fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms.into())
    }

    /// Silence after which a peer is dead.
    pub fn heartbeat_timeout(&self) -> Duration {
        Duration::from_millis(self.heartbeat_timeout_ms.into())
    }

    /// How long a peer waits for a master before it settles.
    pub fn master_timeout(&self) -> Duration {
        Duration::from_millis(self.master_timeout_ms.into())
    }
}

impl FaultToleranceConfig {
    /// When an op that waits for living peers ends; none = never.
    pub fn op_timeout(&self) -> Option<Duration> {
        (self.op_timeout_ms > 0).then(|| Duration::from_millis(self.op_timeout_ms))
    }
}

impl LoggingConfig {
    /// Level and levels as `tracing` understands them: `info,pccl_net=debug`.
    pub fn directives(&self) -> String {
        self.levels.directives(self.level)
    }
}

impl StoreConfig {
    /// How long the active master may act without renewing its lease.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}
