//! What decides an outcome belongs to the run: set at the master, handed to every peer when it connects.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who tries again after an attempt was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recovery {
    /// The library, inside the caller's call.
    InsideCall,
    /// The caller: every cut attempt fails with the input restored (PCCL's contract).
    ByCaller,
}

/// Settings of the run. A peer whose own configuration says otherwise is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSettings {
    /// Time between two heartbeats, milliseconds.
    pub heartbeat_interval_ms: u32,
    /// A process that has not been heard for this long is dead, milliseconds.
    pub heartbeat_timeout_ms: u32,
    /// How long peers wait for a master, milliseconds.
    pub master_timeout_ms: u32,
    /// Whether in-place inputs are kept until commit.
    pub enable_buffer_backup: bool,
    /// Retries of one op before it fails.
    pub max_recovery_attempts: u32,
    /// Who retries.
    pub recovery: Recovery,
    /// Bytes of an op that are on their way at once, over all chunks.
    pub ring_chunk_size: u64,
    /// Whether large sums and averages of floating-point elements travel as integers of 8 bits. Lossy.
    pub enable_compression: bool,
    /// Connections between two peers; zero: as many as the measured round trip asks for.
    pub connections_per_link: u16,
    /// An op that somebody waits for longer than this fails, milliseconds; zero: never.
    pub op_timeout_ms: u64,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 100,
            heartbeat_timeout_ms: 500,
            master_timeout_ms: 60_000,
            enable_buffer_backup: true,
            max_recovery_attempts: 3,
            recovery: Recovery::InsideCall,
            ring_chunk_size: 4 << 20,
            enable_compression: false,
            connections_per_link: 0,
            op_timeout_ms: 0,
        }
    }
}

impl RunSettings {
    /// Time between two heartbeats.
    pub fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(u64::from(self.heartbeat_interval_ms.max(1)))
    }

    /// Silence after which a process is dead.
    pub fn heartbeat_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.heartbeat_timeout_ms.max(1)))
    }

    /// How long peers wait for a master.
    pub fn master_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.master_timeout_ms))
    }
}

/// What a peer's own configuration says about the run's settings; only what was set explicitly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectations {
    /// See [`RunSettings::heartbeat_interval_ms`].
    pub heartbeat_interval_ms: Option<u32>,
    /// See [`RunSettings::heartbeat_timeout_ms`].
    pub heartbeat_timeout_ms: Option<u32>,
    /// See [`RunSettings::enable_buffer_backup`].
    pub enable_buffer_backup: Option<bool>,
    /// See [`RunSettings::max_recovery_attempts`].
    pub max_recovery_attempts: Option<u32>,
    /// See [`RunSettings::recovery`].
    pub recovery: Option<Recovery>,
    /// See [`RunSettings::ring_chunk_size`].
    pub ring_chunk_size: Option<u64>,
    /// See [`RunSettings::enable_compression`].
    pub enable_compression: Option<bool>,
}

/// A setting on which a peer and the run differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreement {
    /// The configuration key.
    pub key: String,
    /// The run's value.
    pub run: String,
    /// The peer's value.
    pub peer: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} at the master and {} here", self.key, self.run, self.peer)
    }
}

impl Expectations {
    /// The first setting on which `self` and the run differ.
    pub fn disagreement(&self, run: &RunSettings) -> Option<Disagreement> {
        fn differ<T: PartialEq + fmt::Debug>(key: &str, run: &T, peer: Option<&T>) -> Option<Disagreement> {
            let peer = peer.filter(|p| *p != run)?;
            Some(Disagreement { key: key.into(), run: format!("{run:?}"), peer: format!("{peer:?}") })
        }
        differ("heartbeat_interval_ms", &run.heartbeat_interval_ms, self.heartbeat_interval_ms.as_ref())
            .or_else(|| {
                differ("heartbeat_timeout_ms", &run.heartbeat_timeout_ms, self.heartbeat_timeout_ms.as_ref())
            })
            .or_else(|| {
                differ("enable_buffer_backup", &run.enable_buffer_backup, self.enable_buffer_backup.as_ref())
            })
            .or_else(|| {
                differ(
                    "max_recovery_attempts",
                    &run.max_recovery_attempts,
                    self.max_recovery_attempts.as_ref(),
                )
            })
            .or_else(|| differ("recovery", &run.recovery, self.recovery.as_ref()))
            .or_else(|| differ("ring_chunk_size", &run.ring_chunk_size, self.ring_chunk_size.as_ref()))
            .or_else(|| {
                differ("enable_compression", &run.enable_compression, self.enable_compression.as_ref())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disagreement_names_key_and_both_values() {
        let run = RunSettings::default();
        assert_eq!(Expectations::default().disagreement(&run), None);
        let peer = Expectations { max_recovery_attempts: Some(5), ..Expectations::default() };
        let said = peer.disagreement(&run).unwrap().to_string();
        assert_eq!(said, "max_recovery_attempts is 3 at the master and 5 here");
        let peer = Expectations { enable_compression: Some(true), ..Expectations::default() };
        let said = peer.disagreement(&run).unwrap().to_string();
        assert_eq!(said, "enable_compression is false at the master and true here");
    }
}
