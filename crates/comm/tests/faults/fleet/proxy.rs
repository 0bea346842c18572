//! A wire that breaks: a TCP proxy in front of a peer that ends or stalls connections at chosen bytes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pccl_proto::ids::Seeded;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breaks {
    /// Both directions are closed.
    Cut,
    /// No more bytes one way, and its end is told; the other way goes on.
    HalfClose,
    /// No more bytes one way, and nobody is told.
    Stall,
}

/// A proxy, closed when dropped.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) broken: Arc<AtomicUsize>,
    /// Connections break after at most so many bytes; zero: never.
    pub(crate) limit: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    /// In front of `target`.
    pub(crate) fn start(ip: Ipv4Addr, target: SocketAddr, how: Breaks, seed: u64) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (broken, limit) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (counted, limited, stopped) = (broken.clone(), limit.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut random = Seeded::new(seed);
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(near), Ok(far)) = (stream, TcpStream::connect(target)) else { continue };
                let ways = [(&near, &far), (&far, &near)].map(|(a, b)| (a.try_clone(), b.try_clone()));
                for (from, to) in ways {
                    let (Ok(from), Ok(to)) = (from, to) else { continue };
                    let wire = Wire {
                        how,
                        random: Seeded::new(random.next_u64()),
                        broken: counted.clone(),
                        limit: limited.clone(),
                    };
                    std::thread::spawn(move || wire.pump(from, to));
                }
            }
        });
        Self { addr, broken, limit, stop }
    }

    pub(crate) fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

struct Wire {
    how: Breaks,
    random: Seeded,
    broken: Arc<AtomicUsize>,
    limit: Arc<AtomicU64>,
}

impl Wire {
    fn pump(mut self, mut from: TcpStream, mut to: TcpStream) {
        let _ = (from.set_nodelay(true), to.set_nodelay(true));
        let mut buffer = vec![0; 64 << 10];
        let mut left: Option<u64> = None;
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            let limit = self.limit.load(Ordering::Relaxed);
            if limit > 0 && left.is_none() {
                left = Some(1 + self.random.below(limit));
            }
            let allowed = left.map_or(n, |l| n.min(l as usize));
            if to.write_all(&buffer[..allowed]).is_err() {
                break;
            }
            left = left.map(|l| l - allowed as u64);
            if left == Some(0) {
                return self.end(&mut from, &to, &mut buffer);
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    fn end(&self, from: &mut TcpStream, to: &TcpStream, buffer: &mut [u8]) {
        self.broken.fetch_add(1, Ordering::Relaxed);
        match self.how {
            Breaks::Cut => {
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            }
            Breaks::HalfClose => {
                let _ = to.shutdown(Shutdown::Write);
                while from.read(buffer).is_ok_and(|n| n > 0) {}
            }
            Breaks::Stall => {
                let _ = from.set_read_timeout(Some(Duration::from_secs(60)));
                while from.read(buffer).is_ok_and(|n| n > 0) {}
            }
        }
    }
}
