//! What the cost model knows of the network.

use serde::{Deserialize, Serialize};

/// Figures of the links, published with the topology; every peer computes with these and no private ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkModel {
    /// One-way latency of the slowest link, microseconds.
    pub alpha_us: u32,
    /// Cost of a message on either side, nanoseconds.
    pub message_ns: u32,
    /// Time for one MiB over the slowest link, microseconds.
    pub mib_us: u32,
    /// Members on the fullest host: they share its cores, so their messages cost each other time.
    pub peers_per_host: u32,
}

/// What one TCP connection keeps in flight with the buffers that systems allow by default.
const CONNECTION_WINDOW_BYTES: u64 = 3 << 20;
/// Connections of a peer to all others.
const MAX_CONNECTIONS: u64 = 512;

impl LinkModel {
    /// Connections between two of `world` peers that fill a link: round trip · bandwidth, over what one keeps in flight.
    pub fn connections(&self, world: u32) -> u16 {
        let in_flight = 2 * u64::from(self.alpha_us) * (1 << 20) / u64::from(self.mib_us.max(1));
        let most = (MAX_CONNECTIONS / u64::from(world.max(1))).clamp(1, 16);
        in_flight.div_ceil(CONNECTION_WINDOW_BYTES).clamp(1, most) as u16
    }
}

impl Default for LinkModel {
    /// A loopback or a fast local network, until something is measured.
    fn default() -> Self {
        Self { alpha_us: 15, message_ns: 5_000, mib_us: 500, peers_per_host: 1 }
    }
}
