//! What metrics cost: `cargo run --release -p pccl-observe --example cost`.
//!
//! Prints the processor time of recording one op and of one scrape with 128 peers, as the best and the median of rounds.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pccl_observe::{Health, LinkSample, Metrics, PeerSample, Sample, Source, flight};

const PEERS: u32 = 128;

struct Peer;

impl Source for Peer {
    fn sample(&self) -> Option<Sample> {
        let links: BTreeMap<String, LinkSample> =
            (1..PEERS).map(|n| (format!("10.0.0.{n}:7118"), LinkSample::default())).collect();
        Some(Sample::Peer(PeerSample { links, ..PeerSample::default() }))
    }

    fn health(&self) -> Health {
        Health { alive: Ok(()), ready: Ok(String::new()) }
    }
}

fn rounds(name: &str, calls: u32, mut call: impl FnMut()) {
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let begun = Instant::now();
            (0..calls).for_each(|_| call());
            begun.elapsed() / calls
        })
        .collect();
    times.sort_unstable();
    println!("{name}: best {:?}, median {:?}", times[0], times[times.len() / 2]);
}

fn main() {
    let metrics = Metrics::new();
    let source: Arc<dyn Source> = Arc::new(Peer);
    metrics.watch(Arc::downgrade(&source));
    rounds("recording an op (its latency, two counts of bytes)", 100_000, || {
        metrics.record_op(black_box(Duration::from_micros(300)));
        metrics.add_bytes(4096, 0, Instant::now());
        metrics.add_bytes(0, 4096, Instant::now());
    });
    let who: Arc<str> = "peer".into();
    rounds("the flight record of an op", 100_000, || {
        flight::op_began(&who, black_box(7), 1, 4096);
        flight::op_ended(&who, 7, 1, black_box(Duration::from_micros(300)), 0, None);
    });
    rounds(&format!("a scrape with {PEERS} peers"), 100, || drop(black_box(metrics.render())));
}
