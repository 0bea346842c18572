//! How fast links of this crate are here: `cargo run --release -p pccl-link --example speed`.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use pccl_link::{Network, NetworkOptions, Shape};

const TIME: Duration = Duration::from_secs(4);
/// Payload of a full segment with timestamps, of a packet of 1500 bytes.
const PAYLOAD_SHARE: f64 = 1448.0 / 1500.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{:>28}  {:>16}  {:>14}", "link", "one TCP stream", "of the payload");
    for mbps in [10, 100, 1000, 0] {
        let rate_bps = (mbps > 0).then_some(mbps * 1_000_000);
        let shape = Shape { rate_bps, delay: Duration::from_millis(1), ..Shape::FREE };
        let network = Network::new(&NetworkOptions { shape, ..NetworkOptions::default() })?;
        let got = tcp_rate(&network)?;
        let of_link = |rate: u64| format!("{:.1} %", got / (rate as f64 * PAYLOAD_SHARE) * 100.0);
        let of_link = rate_bps.map(of_link).unwrap_or_default();
        println!("{:>28}  {:>9.1} Mbit/s  {of_link:>14}", shape.to_string(), got * 1e-6);
    }
    Ok(())
}

/// Bits per second of payload from host 0 to host 1, after a second.
fn tcp_rate(network: &Network) -> io::Result<f64> {
    let at = (network.address(1), 0);
    let listener = network.on(1, || TcpListener::bind(at))??;
    let addr = listener.local_addr()?;
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let mut stream = network.on(0, || TcpStream::connect(addr))??;
            let (block, begin) = (vec![7; 256 << 10], Instant::now());
            while begin.elapsed() < TIME {
                stream.write_all(&block)?;
            }
            io::Result::Ok(())
        });
        let mut stream = listener.accept()?.0;
        let (mut got, begin, mut steady, mut block) = (0, Instant::now(), None, vec![0; 256 << 10]);
        loop {
            let n = stream.read(&mut block)?;
            got += n;
            if n == 0 {
                break;
            }
            if begin.elapsed() > Duration::from_secs(1) && steady.is_none() {
                steady = Some((got, Instant::now()));
            }
        }
        let (before, since) = steady.unwrap_or((0, begin));
        let rate = (got - before) as f64 * 8.0 / since.elapsed().as_secs_f64();
        match sender.join() {
            Ok(sent) => sent.map(|()| rate),
            Err(_) => Err(io::Error::other("the sender panicked")),
        }
    })
}
