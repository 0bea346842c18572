//! Ports: the one asked for, the first free one of a range, or any.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted: whole fleets connect at the same moment.
const BACKLOG: i32 = 1024;

/// Listening sockets.
#[derive(Debug)]
pub struct Listeners {
    /// For connections.
    pub tcp: TcpListener,
    /// For heartbeats, on the same port; peers have none of their own that others know.
    pub udp: Option<UdpSocket>,
}

/// No port could be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenError {
    /// This one is not free, or not ours.
    Port {
        /// Which.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// None of a range.
    Range {
        /// The address.
        ip: IpAddr,
        /// The ports.
        ports: RangeInclusive<u16>,
        /// What the system says of the last one.
        source: io::Error,
        /// Who holds them, as far as can be seen.
        holders: Vec<String>,
    },
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { addr, source } => {
                write!(
                    f,
                    "failed to listen on {addr}: {source}; another process may use the port (see `ss -ltnp`)"
                )
            }
            Self::Range { ip, ports, source, holders } => {
                write!(f, "no free port on {ip} in {}-{}: {source}", ports.start(), ports.end())?;
                if !holders.is_empty() {
                    write!(f, "; held by {}", holders.join(", "))?;
                }
                f.write_str("; set network.p2p_ports to a wider range")
            }
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Port { source, .. } | Self::Range { source, .. } => Some(source),
        }
    }
}

fn bind_tcp(addr: SocketAddr, reuse: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if reuse {
        // A restarted master gets its port back although connections of its former life are not quite gone.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Listens on the first free port of `ports`, or, if there is no range, on any free port.
pub fn listen_tcp(ip: IpAddr, ports: Option<RangeInclusive<u16>>) -> Result<TcpListener, ListenError> {
    let Some(ports) = ports else {
        let addr = SocketAddr::new(ip, 0);
        return bind_tcp(addr, false).map_err(|source| ListenError::Port { addr, source });
    };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for port in ports.clone() {
        match bind_tcp(SocketAddr::new(ip, port), true) {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    Err(ListenError::Range { ip, holders: holders(&ports), ports, source: last })
}

/// Listens on a port for connections and datagrams; port 0 stands for any that is free for both.
pub fn listen_tcp_and_udp(addr: SocketAddr) -> Result<Listeners, ListenError> {
    let mut error = None;
    // Another process may take the datagram port between the two calls; then another one is tried.
    for _ in 0..if addr.port() == 0 { 16 } else { 1 } {
        let failed = |source| ListenError::Port { addr, source };
        let tcp = bind_tcp(addr, true).map_err(failed)?;
        let local = tcp.local_addr().map_err(failed)?;
        match UdpSocket::bind(local).and_then(|udp| udp.set_nonblocking(true).map(|()| udp)) {
            Ok(udp) => return Ok(Listeners { tcp, udp: Some(udp) }),
            Err(source) => error = Some(ListenError::Port { addr: local, source }),
        }
    }
    Err(error.unwrap_or(ListenError::Port { addr, source: io::ErrorKind::AddrInUse.into() }))
}

/// Processes that listen on ports of a range, from /proc, as far as this user may see.
#[cfg(target_os = "linux")]
fn holders(ports: &RangeInclusive<u16>) -> Vec<String> {
    let mut by_inode = std::collections::BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&"0A"), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
            else {
                continue;
            };
            let port = local.rsplit(':').next().and_then(|p| u16::from_str_radix(p, 16).ok());
            if let Some(port) = port.filter(|p| ports.contains(p)) {
                by_inode.insert(format!("socket:[{inode}]"), port);
            }
        }
    }
    let mut out = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        for fd in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let link = std::fs::read_link(fd.path()).unwrap_or_default();
            if let Some(port) = link.to_str().and_then(|l| by_inode.get(l)) {
                out.push(format!("{port} by {} (pid {pid})", name.trim()));
            }
        }
        if out.len() >= 8 {
            break;
        }
    }
    out
}

#[cfg(not(target_os = "linux"))]
fn holders(_: &RangeInclusive<u16>) -> Vec<String> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn the_first_free_port_of_a_range_is_taken_and_a_full_range_names_its_holders() {
        let first = listen_tcp(LOOPBACK, None).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = listen_tcp(LOOPBACK, Some(port..=port)).unwrap_err().to_string();
        assert!(error.contains(&format!("{port}-{port}")) && error.contains("p2p_ports"), "{error}");
        if cfg!(target_os = "linux") {
            assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        }
    }

    #[test]
    fn tcp_and_udp_share_a_port() {
        let both = listen_tcp_and_udp(SocketAddr::new(LOOPBACK, 0)).unwrap();
        let udp = both.udp.unwrap();
        assert_eq!(both.tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    }
}
