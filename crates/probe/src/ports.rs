//! Which ports others can connect to.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Enough for two repetitions of a lost first packet.
const PATIENCE: Duration = Duration::from_millis(3500);
/// Connections for the round trip where UDP does not pass.
const CONNECTIONS: usize = 10;

/// What came of connecting to a host's ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    pub(crate) to: usize,
    /// Somebody accepted.
    pub(crate) open: Vec<u16>,
    /// Somebody said no: no firewall that is silent, and nobody who listens, or one that says no.
    pub(crate) refused: Vec<u16>,
    /// Nobody said anything.
    pub(crate) silent: Vec<u16>,
}

/// Listens on all of these that are free; the others are somebody's already. The system accepts, nobody has to.
pub(crate) fn listen(ip: IpAddr, ports: impl Iterator<Item = u16>) -> Vec<TcpListener> {
    ports.filter_map(|port| TcpListener::bind((ip, port)).ok()).collect()
}

/// Connects to each of `ports`, all at once.
pub(crate) fn reach(to: usize, ip: IpAddr, ports: &[u16]) -> Reached {
    let mut reached = Reached { to, ..Reached::default() };
    let results: Vec<_> = thread::scope(|scope| {
        let connect = |port: &u16| {
            let addr = SocketAddr::new(ip, *port);
            scope.spawn(move || TcpStream::connect_timeout(&addr, PATIENCE).map(drop))
        };
        let connecting: Vec<_> = ports.iter().map(connect).collect();
        connecting.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for (port, result) in ports.iter().zip(results) {
        match result {
            Ok(Ok(())) => reached.open.push(*port),
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => reached.refused.push(*port),
            _ => reached.silent.push(*port),
        }
    }
    reached
}

/// The shortest round trip of connecting to any of `ports`, milliseconds.
pub(crate) fn round_trip_ms(ip: IpAddr, ports: &[u16]) -> Option<f64> {
    let mut shortest: Option<f64> = None;
    for port in ports.iter().take(CONNECTIONS) {
        let begin = Instant::now();
        let connected = TcpStream::connect_timeout(&SocketAddr::new(ip, *port), PATIENCE);
        let took = begin.elapsed().as_secs_f64() * 1e3;
        match connected {
            Err(error) if error.kind() != ErrorKind::ConnectionRefused => {}
            // An answer is an answer.
            _ => shortest = Some(shortest.map_or(took, |before| before.min(took))),
        }
    }
    shortest
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn open_and_refused_ports_are_told_apart() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind((here, 0)).unwrap();
        let open = listener.local_addr().unwrap().port();
        let closed = {
            let listener = TcpListener::bind((here, 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        let reached = reach(3, here, &[open, closed]);
        assert_eq!(reached, Reached { to: 3, open: vec![open], refused: vec![closed], silent: vec![] });
        assert!(round_trip_ms(here, &[open]).is_some_and(|ms| ms < 3000.0));
        // One that is held is not listened on twice.
        assert!(listen(here, [open].into_iter()).is_empty());
    }
}
