//! What the kernel knows of a connection: bytes, round trip, retransmissions.
//!
//! Asked over netlink (`sock_diag(7)`), as `ss -ti` does: that needs no unsafe code, and no counting on the way of the
//! bytes. Where the kernel does not answer (other systems, strict sandboxes), nothing is known.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What the kernel knows of a connection. The figures begin at zero with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Bytes that the other side has acknowledged.
    pub acked_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Segments sent again.
    pub retransmits: u32,
    /// Smoothed round trip.
    pub rtt: Duration,
}

/// A way to ask the kernel.
#[derive(Debug)]
pub struct TcpInfos {
    #[cfg(target_os = "linux")]
    socket: Option<std::os::fd::OwnedFd>,
}

impl TcpInfos {
    /// Opens it; without it, nothing is known.
    pub fn open() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            socket: linux::open(),
        }
    }

    /// What is known of the connection between `local`, ours, and `remote`.
    pub fn of(&self, local: SocketAddr, remote: SocketAddr) -> Option<TcpInfo> {
        #[cfg(target_os = "linux")]
        return linux::ask(self.socket.as_ref()?, local, remote);
        #[cfg(not(target_os = "linux"))]
        None
    }
}

/// Addresses of IPv4 connections on sockets of both families are written as IPv6: so must the question be.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "netlink is Linux's"))]
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&ip.octets());
            out
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto};

    use super::{TcpInfo, octets};

    // linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h
    const NETLINK_SOCK_DIAG: u32 = 4;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const INET_DIAG_INFO: u16 = 2;
    const HEADER_BYTES: usize = 16;
    const DIAG_BYTES: usize = 72;
    const REQUEST_BYTES: usize = HEADER_BYTES + 56;
    const RTT_AT: usize = 68;
    const TOTAL_RETRANS_AT: usize = 100;
    const BYTES_ACKED_AT: usize = 120;
    const BYTES_RECEIVED_AT: usize = 128;

    pub(super) fn open() -> Option<OwnedFd> {
        let protocol = rustix::net::Protocol::from_raw(std::num::NonZero::new(NETLINK_SOCK_DIAG)?);
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(protocol))
                .ok()?;
        // The kernel answers within the call; should it not, a scrape must not wait for ever.
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(50))).ok()?;
        Some(socket)
    }

    pub(super) fn ask(socket: &OwnedFd, local: SocketAddr, remote: SocketAddr) -> Option<TcpInfo> {
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        sendto(socket, &request(local, remote), SendFlags::empty(), &kernel).ok()?;
        let mut answer = [0; 1024];
        let (n, _) = recv(socket, &mut answer[..], RecvFlags::empty()).ok()?;
        parse(answer.get(..n)?)
    }

    fn request(local: SocketAddr, remote: SocketAddr) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&(REQUEST_BYTES as u32).to_ne_bytes());
        put(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        put(&NLM_F_REQUEST.to_ne_bytes());
        put(&[0; 8]);
        let family = if local.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let tcp = 6;
        put(&[family.as_raw() as u8, tcp, 1 << (INET_DIAG_INFO - 1), 0]);
        put(&u32::MAX.to_ne_bytes());
        put(&local.port().to_be_bytes());
        put(&remote.port().to_be_bytes());
        put(&octets(local.ip()));
        put(&octets(remote.ip()));
        // Any interface, any cookie.
        put(&[0; 4]);
        put(&[0xff; 8]);
        out
    }

    fn parse(message: &[u8]) -> Option<TcpInfo> {
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        if kind != SOCK_DIAG_BY_FAMILY {
            return None;
        }
        let mut rest = message.get(HEADER_BYTES + DIAG_BYTES..)?;
        loop {
            let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
            let name = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
            let value = rest.get(4..length)?;
            if name == INET_DIAG_INFO {
                return info(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
    }

    fn info(tcp_info: &[u8]) -> Option<TcpInfo> {
        let u32_at = |at: usize| Some(u32::from_ne_bytes(tcp_info.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_ne_bytes(tcp_info.get(at..at + 8)?.try_into().ok()?));
        Some(TcpInfo {
            // The acknowledged SYN counts as one byte.
            acked_bytes: u64_at(BYTES_ACKED_AT)?.saturating_sub(1),
            received_bytes: u64_at(BYTES_RECEIVED_AT)?,
            retransmits: u32_at(TOTAL_RETRANS_AT)?,
            rtt: Duration::from_micros(u64::from(u32_at(RTT_AT)?)),
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn bytes_are_counted(bind: &str) -> std::io::Result<()> {
        let listener = TcpListener::bind(bind)?;
        let mut one = TcpStream::connect(listener.local_addr()?)?;
        let mut two = listener.accept()?.0;
        one.write_all(&vec![7; 100_000])?;
        two.read_exact(&mut vec![0; 100_000])?;
        two.write_all(&[7; 3])?;
        one.read_exact(&mut [0; 3])?;
        let infos = TcpInfos::open();
        let (here, there) = (one.local_addr()?, one.peer_addr()?);
        let first = || infos.of(here, there).unwrap_or_default();
        let second = || infos.of(there, here).unwrap_or_default();
        // What has been read has been acknowledged, or will be in a moment.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while first().acked_bytes < 100_000 && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!((first().acked_bytes, first().received_bytes), (100_000, 3));
        assert_eq!(second().received_bytes, 100_000);
        assert!(first().rtt > Duration::ZERO);
        assert_eq!(infos.of(here, here), None);
        Ok(())
    }

    #[test]
    fn the_kernel_tells_what_a_connection_has_carried() {
        bytes_are_counted("127.0.0.1:0").unwrap();
    }

    #[test]
    fn also_of_ipv6() {
        bytes_are_counted("[::1]:0").unwrap();
    }
}
