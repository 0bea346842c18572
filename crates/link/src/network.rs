//! Hosts and the links between them.

use std::ffi::OsStr;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::host::{LinkError, Namespace};
use crate::pump::{self, Shared};
use crate::shape::Shape;

/// Addresses of a network are 10.77.0.1 and so on, in namespaces where nobody else has any.
const MOST_HOSTS: usize = 200;

/// How a network is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NetworkOptions {
    /// Hosts.
    pub hosts: usize,
    /// Every link, in both directions, until [`Network::set`] says otherwise.
    pub shape: Shape,
    /// Of loss and jitter.
    pub seed: u64,
    /// MTU of the hosts' devices, bytes.
    pub mtu: u16,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self { hosts: 2, shape: Shape::FREE, seed: 1, mtu: 1500 }
    }
}

/// What has become of the packets of one direction of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that were delivered, or are on their way.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Found the queue full.
    pub overflowed: u64,
    /// Longer than the link carries.
    pub too_long: u64,
}

#[derive(Default)]
pub(crate) struct Counting {
    pub(crate) packets: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) overflowed: AtomicU64,
    pub(crate) too_long: AtomicU64,
}

impl Counting {
    fn read(&self) -> Counters {
        Counters {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            overflowed: self.overflowed.load(Ordering::Relaxed),
            too_long: self.too_long.load(Ordering::Relaxed),
        }
    }
}

/// Hosts with links between any two. Gone when dropped, with everything in it.
pub struct Network {
    namespaces: Vec<Namespace>,
    shared: Arc<Shared>,
    pumps: Vec<JoinHandle<()>>,
}

impl Network {
    /// Makes it.
    pub fn new(options: &NetworkOptions) -> Result<Self, LinkError> {
        if !(1..=MOST_HOSTS).contains(&options.hosts) {
            return Err(LinkError::Hosts(options.hosts));
        }
        let namespaces: Vec<_> = (0..options.hosts).map(|_| Namespace::new()).collect::<Result<_, _>>()?;
        let devices = namespaces.iter().enumerate().map(|(host, one)| one.device(address(host), options.mtu));
        let shared = Arc::new(Shared::new(devices.collect::<Result<_, _>>()?, options.shape)?);
        let pump = |host| pump::start(&shared, host, options.seed);
        let pumps = (0..options.hosts).map(pump).collect::<Result<_, _>>()?;
        Ok(Self { namespaces, shared, pumps })
    }

    /// How many.
    pub fn hosts(&self) -> usize {
        self.namespaces.len()
    }

    /// The address of a host, counted from 0.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        address(host)
    }

    /// Changes one direction of a link, from now on.
    pub fn set(&self, from: usize, to: usize, shape: Shape) {
        self.shared.set(from, to, shape);
    }

    /// Changes both directions of a link.
    pub fn set_both(&self, one: usize, other: usize, shape: Shape) {
        self.set(one, other, shape);
        self.set(other, one, shape);
    }

    /// What has become of the packets from one to the other.
    pub fn counters(&self, from: usize, to: usize) -> Counters {
        self.shared.counting(from, to).read()
    }

    /// A program on a host. It is killed when the thread that starts it ends, at the latest.
    pub fn command(&self, host: usize, program: impl AsRef<OsStr>) -> Command {
        self.namespaces[host].command(program)
    }

    /// Runs `work` on a thread of this process that is on a host: the sockets that it makes are there.
    pub fn on<T: Send>(&self, host: usize, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.namespaces[host].enter(work)
    }

    /// The namespace of a host, for `nsenter --net=…` as long as this process lives.
    pub fn namespace(&self, host: usize) -> PathBuf {
        self.namespaces[host].path()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.stop();
        for pump in self.pumps.drain(..) {
            // A pump that panicked has said so.
            let _ = pump.join();
        }
    }
}

fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host as u8 + 1)
}

/// The host with this address.
pub(crate) fn host_at(address: [u8; 4], hosts: usize) -> Option<usize> {
    let [10, 77, 0, number] = address else { return None };
    usize::from(number).checked_sub(1).filter(|host| *host < hosts)
}
