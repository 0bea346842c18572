//! The kernel's own TCP and UDP over links of this crate, measured.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use pccl_link::{LinkError, Network, NetworkOptions, Shape};

/// Payload of a full segment with timestamps, of a packet of 1500 bytes.
const PAYLOAD_SHARE: f64 = 1448.0 / 1500.0;

type Failed = Box<dyn std::error::Error>;

fn network(shape: Shape, seed: u64) -> Result<Network, LinkError> {
    Network::new(&NetworkOptions { shape, seed, ..NetworkOptions::default() })
}

/// Bits per second of payload that one TCP connection gets from host 0 to host 1, its first quarter left out.
fn tcp_rate(network: &Network, bytes: usize) -> io::Result<f64> {
    let at = (network.address(1), 0);
    let listener = network.on(1, || TcpListener::bind(at))??;
    let addr = listener.local_addr()?;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = network.on(0, || TcpStream::connect(addr))??;
            let block = vec![7; 64 << 10];
            (0..bytes / block.len()).try_for_each(|_| stream.write_all(&block))
        });
        let mut stream = listener.accept()?.0;
        let (mut got, mut steady, mut block) = (0, (0, Instant::now()), vec![0; 64 << 10]);
        loop {
            let n = stream.read(&mut block)?;
            got += n;
            if n == 0 {
                break;
            }
            if got >= bytes / 4 && steady.0 == 0 {
                steady = (got, Instant::now());
            }
        }
        let (before, since) = steady;
        Ok((got - before) as f64 * 8.0 / since.elapsed().as_secs_f64())
    })
}

/// The largest of some tries: a machine that is busy may be slower than a link, never faster.
fn best(tries: usize, enough: f64, mut once: impl FnMut() -> io::Result<f64>) -> io::Result<f64> {
    let mut best: f64 = 0.0;
    for _ in 0..tries {
        best = best.max(once()?);
        if best >= enough {
            break;
        }
    }
    Ok(best)
}

#[test]
fn tcp_gets_the_rate_of_the_link_and_no_more() {
    for (mbps, bytes) in [(20, 3 << 20), (100, 12 << 20)] {
        let delay = Duration::from_millis(5);
        let network = network(Shape { delay, rate_bps: Some(mbps * 1_000_000), ..Shape::FREE }, 1).unwrap();
        let most = mbps as f64 * 1e6 * PAYLOAD_SHARE;
        let got = best(30, 0.9 * most, || tcp_rate(&network, bytes)).unwrap();
        assert!(got > 0.9 * most && got < 1.02 * most, "{:.1} of {:.1} Mbit/s", got * 1e-6, most * 1e-6);
    }
}

/// A socket on a host.
fn bind(network: &Network, host: usize, port: u16, patience_ms: u64) -> io::Result<UdpSocket> {
    let at = (network.address(host), port);
    let socket = network.on(host, || UdpSocket::bind(at))??;
    socket.set_read_timeout(Some(Duration::from_millis(patience_ms)))?;
    Ok(socket)
}

/// Receives, also where a process that is stopped and goes on is told that its wait was interrupted.
fn patiently<T>(mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match receive() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Round trips in milliseconds of `count` probes that follow each other after at least `gap`; those that came back.
fn ping(network: &Network, count: usize, gap: Duration) -> Result<Vec<f64>, Failed> {
    let (near, far) = (bind(network, 0, 0, 1000)?, bind(network, 1, 0, 1000)?);
    near.connect(far.local_addr()?)?;
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut packet = [0; 8];
            while let Ok((n, from)) = patiently(|| far.recv_from(&mut packet)) {
                // What cannot be sent is missed by whoever counts.
                let _ = far.send_to(&packet[..n], from);
            }
        });
        let receiver = scope.spawn(|| {
            let mut trips = Vec::new();
            let mut packet = [0; 8];
            while patiently(|| near.recv(&mut packet)).is_ok() {
                let sent = Duration::from_nanos(u64::from_le_bytes(packet));
                trips.push(begin.elapsed().saturating_sub(sent).as_secs_f64() * 1e3);
            }
            trips
        });
        for _ in 0..count {
            // Not by the clock: after a moment without a core all would follow at once, and queues have an end.
            thread::sleep(gap);
            near.send(&(begin.elapsed().as_nanos() as u64).to_le_bytes())?;
        }
        receiver.join().map_err(|_| "the receiver panicked".into())
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[test]
fn probes_see_the_delay_the_jitter_and_the_loss() {
    let shape = Shape {
        delay: Duration::from_millis(60),
        jitter: Duration::from_millis(10),
        loss: 0.05,
        reorder: true,
        ..Shape::FREE
    };
    let network = network(shape, 3).unwrap();
    let sent = 2_000;
    let trips = ping(&network, sent, Duration::from_millis(1)).unwrap();
    assert!((median(&trips) / 120.0 - 1.0).abs() < 0.1, "median {} ms", median(&trips));
    let (least, most) = trips.iter().fold((f64::MAX, 0.0_f64), |(a, b), t| (a.min(*t), b.max(*t)));
    assert!(least >= 100.0, "{least} ms is before it can have arrived");
    assert!(most > 130.0, "jitter of ± 20 ms has never made one later than {most} ms");
    // What was lost is counted, and nothing else was.
    let (there, back) = (network.counters(0, 1), network.counters(1, 0));
    assert_eq!(there.packets + there.lost, sent as u64);
    assert_eq!(back.packets + back.lost, there.packets);
    assert_eq!(trips.len() as u64, back.packets);
    assert!((50..=150).contains(&there.lost), "{there:?}");
}

#[test]
fn the_same_packets_meet_the_same_fates() {
    let lost = |seed| {
        let network = network(Shape { loss: 0.3, ..Shape::FREE }, seed).unwrap();
        ping(&network, 200, Duration::ZERO).unwrap();
        network.counters(0, 1).lost
    };
    assert_eq!(lost(5), lost(5));
}

#[test]
fn links_change_while_packets_are_on_their_way_and_hosts_are_apart() {
    let options = NetworkOptions { hosts: 3, ..NetworkOptions::default() };
    let network = Network::new(&options).unwrap();
    // The same port on each: they are hosts of their own.
    let sockets = [0, 1, 2].map(|host| bind(&network, host, 7117, 300).unwrap());
    let gets = |from: usize, to: usize| {
        sockets[from].send_to(b"?", sockets[to].local_addr().unwrap()).unwrap();
        sockets[to].recv(&mut [0]).is_ok()
    };
    assert!(gets(0, 1) && gets(1, 0) && gets(2, 0));
    network.set_both(0, 1, Shape::CUT);
    assert!(!gets(0, 1) && !gets(1, 0));
    assert!(gets(0, 2) && gets(2, 1));
    network.set_both(0, 1, Shape::FREE);
    assert!(gets(0, 1) && gets(1, 0));
}

#[test]
#[expect(clippy::zombie_processes, reason = "how it ends is what the test looks at")]
fn programs_run_on_hosts_and_nothing_is_left() {
    let network = network(Shape::FREE, 1).unwrap();
    let output = network.command(1, "ip").args(["-4", "-brief", "address"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("10.77.0.2/24"), "{text}");
    // What a thread has started ends with it, whatever becomes of it.
    let path = network.namespace(0);
    let child = thread::scope(|scope| {
        let start = || {
            let mut command = network.command(0, "sh");
            command.args(["-c", "echo; exec sleep 1000"]).stdin(Stdio::null()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            child
        };
        scope.spawn(start).join().unwrap()
    });
    let gone = |pid: u32| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !gone(child.id()) {
        assert!(Instant::now() < deadline, "`sleep` goes on");
        thread::sleep(Duration::from_millis(5));
    }
    drop(network);
    assert!(!Path::new(&path).exists());
}

#[test]
fn too_many_hosts_are_refused() {
    let options = NetworkOptions { hosts: 201, ..NetworkOptions::default() };
    assert!(matches!(Network::new(&options), Err(LinkError::Hosts(201))));
    assert_eq!(Ipv4Addr::new(10, 77, 0, 1), network(Shape::FREE, 1).unwrap().address(0));
}
