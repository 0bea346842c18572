//! The bound: what loopback TCP itself can carry. A ring of N peers pushes 2(N−1)·S bytes through it,
//! so at this machine's rate no such all-reduce can take less time, whatever the program.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::process::{Crew, Deadline};
use super::row::Row;

/// Below this, time is latency and the data fits into caches: a bound by bytes would say nothing.
pub(super) const LEAST_BYTES: u64 = 16 << 20;
const BUFFER_BYTES: usize = 256 << 10;
/// Enough to be at full speed, and not more than a second or so.
const MEASURED_BYTES: std::ops::RangeInclusive<u64> = (128 << 20)..=(1 << 30);
const WARMUP_BYTES: u64 = 32 << 20;

/// All bytes that a ring of `peers` pushes through the network for one buffer of `bytes`.
pub(super) fn ring_bytes(peers: u32, bytes: u64) -> u64 {
    2 * u64::from(peers - 1) * bytes
}

/// The time of [`ring_bytes`] between two processes at full speed.
pub(super) fn measure(peers: u32, bytes: u64, deadline: &Deadline) -> Result<Row> {
    let total = ring_bytes(peers, bytes);
    let sample = total.clamp(*MEASURED_BYTES.start(), *MEASURED_BYTES.end());
    let seconds = transfer(sample, deadline)? * total as f64 / sample as f64;
    Ok(Row {
        peers,
        bytes,
        algorithm: "loopback bound".to_owned(),
        iters: 1,
        median_s: seconds,
        p99_s: seconds,
        wrong: 0,
        max_rss_bytes: 0,
    })
}

/// Seconds that `bytes` take from a child process to this one.
fn transfer(bytes: u64, deadline: &Deadline) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    listener.set_nonblocking(true)?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut crew = Crew::new();
    crew.spawn(
        "loopback source",
        Command::new(program).args(["bench", "--loopback-source", &listener.local_addr()?.to_string()]),
    )?;
    let mut stream = accept(&listener, deadline)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    receive(&mut stream, WARMUP_BYTES, deadline)?;
    let begin = Instant::now();
    receive(&mut stream, bytes, deadline)?;
    Ok(begin.elapsed().as_secs_f64())
}

fn accept(listener: &TcpListener, deadline: &Deadline) -> Result<TcpStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error).context("cannot accept on loopback"),
        }
        deadline.check()?;
    }
}

fn receive(stream: &mut TcpStream, bytes: u64, deadline: &Deadline) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut left = bytes;
    while left > 0 {
        let most = usize::try_from(left).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
        let n = stream.read(&mut buffer[..most]).context("cannot read from loopback")?;
        ensure!(n > 0, "the loopback source ended early");
        left -= n as u64;
        deadline.check()?;
    }
    Ok(())
}

/// The child's part: sends until the other side has had enough.
pub(super) fn send_to(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    let buffer = vec![0; BUFFER_BYTES];
    loop {
        match stream.write(&buffer) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return Ok(());
            }
            Err(error) => return Err(error).context("cannot write to loopback"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_pushes_each_byte_twice_to_all_but_one() {
        assert_eq!(ring_bytes(2, 64 << 20), 128 << 20);
        assert_eq!(ring_bytes(8, 1 << 20), 14 << 20);
    }

    #[test]
    fn the_source_ends_when_the_receiver_does() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let source = thread::spawn(move || send_to(address));
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
        drop(stream);
        source.join().unwrap().unwrap();
    }
}
