//! The longest packet that gets through whole.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::wire::Kind;

/// Sizes of packets that are tried, bytes with IP headers: what links and tunnels usually carry.
const SIZES: [u32; 19] = [
    576, 1280, 1300, 1320, 1340, 1360, 1380, 1400, 1420, 1440, 1450, 1460, 1480, 1492, 1500, 4000, 8000,
    8900, 9000,
];
/// Each is tried so often: some may be lost by chance.
const TRIES: u32 = 8;
const BETWEEN: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_millis(1500);

/// The longest packet on one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fitting {
    pub(crate) to: usize,
    /// That came, bytes with IP headers; none if none came.
    pub(crate) through: Option<u32>,
    /// That this host's interface sends.
    pub(crate) sendable: u32,
}

/// Tries all sizes on the way to each of `targets`. Nothing on the way may cut a packet into pieces.
pub(crate) fn find(host: &Host, targets: &[usize]) -> Vec<Fitting> {
    let streams: Vec<(usize, u32)> = targets.iter().map(|to| (*to, host.stream())).collect();
    let mut sendable = vec![0; streams.len()];
    for _ in 0..TRIES {
        for ((to, stream), sendable) in streams.iter().zip(&mut sendable) {
            for size in SIZES {
                let length = (size - host.headers(*to)) as usize;
                if host.send(*to, Kind::Long, *stream, size, length).is_ok() {
                    *sendable = size.max(*sendable);
                }
            }
        }
        thread::sleep(BETWEEN);
    }
    let deadline = Instant::now() + PATIENCE;
    let largest = |stream: u32| host.fits(stream).last().copied();
    let complete =
        || streams.iter().zip(&sendable).all(|((_, stream), size)| largest(*stream) == Some(*size));
    while !complete() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let fitting = |((to, stream), sendable): (&(usize, u32), u32)| Fitting {
        to: *to,
        through: largest(*stream),
        sendable,
    };
    streams.iter().zip(sendable).map(fitting).collect()
}
