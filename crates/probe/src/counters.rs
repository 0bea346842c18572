//! What a running fleet has moved, from the metrics of the workers on this host.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long metrics may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// No page of metrics is as long.
const MOST_BYTES: u64 = 8 << 20;
const NAME: &str = "pccl_link_sent_bytes_total{";

/// The busiest second towards one address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moved {
    /// The peer's IP address.
    pub(crate) to: String,
    /// Mbit/s of payload.
    pub(crate) mbps: f64,
}

/// Looks at counters again and again.
pub(crate) struct Watch {
    pages: Vec<SocketAddr>,
    last: Option<(Instant, BTreeMap<IpAddr, f64>)>,
    busiest: BTreeMap<IpAddr, f64>,
}

impl Watch {
    pub(crate) fn new(pages: Vec<SocketAddr>) -> Self {
        Self { pages, last: None, busiest: BTreeMap::new() }
    }

    /// Looks once.
    pub(crate) fn look(&mut self) {
        let mut sums = BTreeMap::new();
        for page in &self.pages {
            // A page that cannot be had is one that says nothing.
            for (ip, bytes) in read(*page).map(|text| sent_bytes(&text)).unwrap_or_default() {
                *sums.entry(ip).or_insert(0.0) += bytes;
            }
        }
        let now = Instant::now();
        if let Some((then, before)) = self.last.replace((now, sums.clone())) {
            let seconds = now.duration_since(then).as_secs_f64();
            for (ip, bytes) in sums {
                let Some(earlier) = before.get(&ip) else { continue };
                let mbps = (bytes - earlier).max(0.0) * 8e-6 / seconds.max(1e-3);
                let busiest = self.busiest.entry(ip).or_insert(0.0);
                *busiest = busiest.max(mbps);
            }
        }
    }

    pub(crate) fn moved(&self) -> Vec<Moved> {
        self.busiest.iter().map(|(ip, mbps)| Moved { to: ip.to_string(), mbps: *mbps }).collect()
    }
}

fn read(page: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&page, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // The older protocol ends its answer by closing, and has no chunks.
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: pccl\r\n\r\n")?;
    let mut text = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Bytes sent by the receiver's IP address, over all its ports.
fn sent_bytes(page: &str) -> BTreeMap<IpAddr, f64> {
    let mut sums = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix(NAME)) {
        let Some((labels, rest)) = line.split_once('}') else { continue };
        let peer = labels.split(',').find_map(|label| label.strip_prefix("peer=\"")?.strip_suffix('"'));
        let ip = peer.and_then(|peer| peer.parse::<SocketAddr>().ok());
        let bytes = rest.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
        if let (Some(addr), Some(bytes)) = (ip, bytes) {
            *sums.entry(addr.ip().to_canonical()).or_insert(0.0) += bytes;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_added_up_by_address() {
        let page = "# TYPE pccl_link_sent_bytes counter\n\
            pccl_link_sent_bytes_total{group=\"0\",peer=\"10.0.0.8:7118\"} 100\n\
            pccl_link_sent_bytes_total{group=\"0\",peer=\"10.0.0.8:7119\"} 20.0 1700000000\n\
            pccl_link_sent_bytes_total{peer=\"[::ffff:10.0.0.9]:7118\"} 3\n\
            pccl_link_sent_bytes_total{peer=\"nonsense\"} 3\n\
            pccl_link_received_bytes_total{peer=\"10.0.0.8:7118\"} 7\n";
        let sums = sent_bytes(page);
        let expected = [("10.0.0.8", 120.0), ("10.0.0.9", 3.0)];
        assert_eq!(sums, expected.map(|(ip, bytes)| (ip.parse().unwrap(), bytes)).into());
    }
}
