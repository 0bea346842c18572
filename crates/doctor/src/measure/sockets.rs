//! Connections that are only tried, and who has a port of this machine.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use pccl_observe::process::Roots;

use crate::observed::{Connect, Holder, OwnPorts};

/// Milliseconds, as a figure.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Connects: what came of it, and the connection.
pub(super) fn connect(addr: SocketAddr, timeout: Duration) -> (Connect, Option<TcpStream>) {
    let begun = Instant::now();
    match TcpStream::connect_timeout(&addr, timeout) {
        Ok(stream) => (Connect::Open { ms: ms(begun.elapsed()) }, Some(stream)),
        Err(error) => (failed(&error, begun.elapsed()), None),
    }
}

fn failed(error: &io::Error, after: Duration) -> Connect {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Connect::Refused,
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Connect::Silent { ms: ms(after) },
        _ => Connect::Unreachable { why: error.to_string() },
    }
}

/// Whether an address is this machine's.
pub(super) fn is_here(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Ports that somebody listens on, by the number of the socket.
fn listening(roots: &Roots) -> Option<BTreeMap<u64, u16>> {
    let mut all = BTreeMap::new();
    let mut known = false;
    for table in ["net/tcp", "net/tcp6"] {
        let Ok(text) = fs::read_to_string(roots.proc.join(table)) else { continue };
        known = true;
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&"0A"), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
            else {
                continue;
            };
            let port = local.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
            if let (Some(port), Ok(inode)) = (port, inode.parse()) {
                all.insert(inode, port);
            }
        }
    }
    known.then_some(all)
}

/// Processes that have one of these sockets, as far as this user may see.
fn holders(roots: &Roots, sockets: &BTreeMap<u64, u16>) -> Vec<(u16, Holder)> {
    let mut found = Vec::new();
    for process in fs::read_dir(&roots.proc).into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        for fd in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let link = fs::read_link(fd.path()).unwrap_or_default();
            let inode =
                link.to_str().and_then(|l| l.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(port) = inode.and_then(|inode: u64| sockets.get(&inode)) {
                found.push((*port, holder(roots, pid)));
            }
        }
    }
    found
}

fn holder(roots: &Roots, pid: u32) -> Holder {
    let folder = roots.proc.join(pid.to_string());
    let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
    let stat = fs::read_to_string(folder.join("stat")).unwrap_or_default();
    // The name is in brackets and may contain anything; the state follows the last of them.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
    Holder { pid, name: name.trim().to_owned(), stopped: matches!(state, Some('T' | 't')) }
}

/// Who listens on a port of this machine.
pub(super) fn holder_of(roots: &Roots, port: u16) -> Option<Holder> {
    let sockets: BTreeMap<u64, u16> =
        listening(roots)?.into_iter().filter(|(_, listening)| *listening == port).collect();
    holders(roots, &sockets).into_iter().map(|(_, holder)| holder).next()
}

/// How many of the ports are free here, and who has the others.
pub(super) fn own_ports(roots: &Roots, ip: IpAddr, ports: RangeInclusive<u16>) -> Option<OwnPorts> {
    let sockets: BTreeMap<u64, u16> =
        listening(roots)?.into_iter().filter(|(_, port)| ports.contains(port)).collect();
    let taken: std::collections::BTreeSet<u16> = sockets.values().copied().collect();
    let free = ports.len() - taken.len();
    // Who has them is of interest only where none is left.
    let mut names = Vec::new();
    if free == 0 {
        let all = holders(roots, &sockets).into_iter();
        names.extend(all.map(|(port, h)| format!("{port} by {} (pid {})", h.name, h.pid)));
        names.sort();
        names.dedup();
        let more = names.len().saturating_sub(8);
        names.truncate(8);
        if more > 0 {
            names.push(format!("{more} more"));
        }
    }
    Some(OwnPorts { ip, ports, free, holders: names })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_open_refused_or_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let patience = Duration::from_secs(20);
        assert!(matches!(connect(addr, patience).0, Connect::Open { .. }));
        let own = holder_of(&Roots::default(), addr.port()).unwrap();
        assert_eq!((own.pid, own.stopped), (std::process::id(), false));
        let taken = own_ports(&Roots::default(), addr.ip(), addr.port()..=addr.port()).unwrap();
        assert_eq!(taken.free, 0);
        assert!(taken.holders[0].contains(&format!("(pid {})", std::process::id())), "{taken:?}");
        drop(listener);
        assert_eq!(connect(addr, patience).0, Connect::Refused);
        assert!(is_here(addr.ip()) && !is_here("192.0.2.1".parse().unwrap()));
    }
}
