//! A thread for each host: reads what the host sends, and writes it to the others when its time has come.
//!
//! A link's state belongs to the thread of the host that sends, so nothing is locked on a packet's way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tun_rs::SyncDevice;

use crate::host::{LinkError, system};
use crate::network::{Counting, host_at};
use crate::shape::{Fate, Shape, Shaper};

/// Packets that are read before those whose time has come are looked at again.
const BATCH: usize = 32;
/// Bytes on the way from one host; what comes beyond is lost. It bounds memory where a link has no rate.
const MOST_BYTES: usize = 256 << 20;
/// Generation of the shapes that means: end.
const STOP: u64 = u64::MAX;

/// What the threads share.
pub(crate) struct Shared {
    devices: Vec<SyncDevice>,
    /// By sender, then receiver.
    shapes: Mutex<Vec<Shape>>,
    /// Changes with the shapes.
    generation: AtomicU64,
    counting: Vec<Counting>,
    wakeups: Vec<OwnedFd>,
}

impl Shared {
    pub(crate) fn new(devices: Vec<SyncDevice>, shape: Shape) -> Result<Self, LinkError> {
        let links = devices.len() * devices.len();
        let wakeup = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wakeups: Result<_, _> = (0..devices.len()).map(wakeup).collect();
        Ok(Self {
            shapes: Mutex::new(vec![shape; links]),
            generation: AtomicU64::new(0),
            counting: (0..links).map(|_| Counting::default()).collect(),
            wakeups: wakeups.map_err(|e| system("make an eventfd")(e.into()))?,
            devices,
        })
    }

    pub(crate) fn counting(&self, from: usize, to: usize) -> &Counting {
        &self.counting[from * self.devices.len() + to]
    }

    pub(crate) fn set(&self, from: usize, to: usize, shape: Shape) {
        let mut shapes = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        shapes[from * self.devices.len() + to] = shape;
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn stop(&self) {
        self.generation.store(STOP, Ordering::Release);
        for wakeup in &self.wakeups {
            // It can only fail when it has been written already.
            let _ = rustix::io::write(wakeup, &1_u64.to_ne_bytes());
        }
    }

    fn shapes_of(&self, from: usize) -> Vec<Shape> {
        let hosts = self.devices.len();
        let shapes = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        shapes[from * hosts..(from + 1) * hosts].to_vec()
    }
}

/// A packet on its way: when it arrives (nanoseconds), its number, where.
type Due = Reverse<(u64, u64, usize)>;

struct Pump {
    shared: Arc<Shared>,
    host: usize,
    links: Vec<Shaper>,
    generation: u64,
    started: Instant,
    due: BinaryHeap<(Due, Packet)>,
    due_bytes: usize,
    sent: u64,
    /// The packet that has just been read.
    incoming: Vec<u8>,
    /// Memory to use again.
    spare: Vec<Vec<u8>>,
}

/// The bytes; they have no part in the order of the heap.
struct Packet(Vec<u8>);

impl PartialEq for Packet {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Packet {}
impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Packet {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// Starts the thread of a host.
pub(crate) fn start(shared: &Arc<Shared>, host: usize, seed: u64) -> Result<JoinHandle<()>, LinkError> {
    // Each direction of each link has chances of its own.
    let link = |(to, shape): (usize, Shape)| {
        Shaper::new(shape, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((host as u64) << 32 | to as u64))
    };
    let mut pump = Pump {
        shared: Arc::clone(shared),
        host,
        links: shared.shapes_of(host).into_iter().enumerate().map(link).collect(),
        generation: 0,
        started: Instant::now(),
        due: BinaryHeap::new(),
        due_bytes: 0,
        sent: 0,
        incoming: vec![0; usize::from(u16::MAX)],
        spare: Vec::new(),
    };
    let thread = thread::Builder::new().name(format!("link-{host}"));
    thread.spawn(move || pump.run()).map_err(system("start a thread"))
}

impl Pump {
    fn run(&mut self) {
        loop {
            let readable = self.wait();
            // After the wait: a packet that is sent once a shape has been set must meet it.
            if !self.follow_shapes() {
                return;
            }
            if readable {
                self.receive();
            }
            self.deliver();
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Takes changed shapes; false to end.
    fn follow_shapes(&mut self) -> bool {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation && generation != STOP {
            self.generation = generation;
            for (link, shape) in self.links.iter_mut().zip(self.shared.shapes_of(self.host)) {
                link.set(shape);
            }
        }
        generation != STOP
    }

    /// Waits for a packet, or for the time of one; true if there is one to read.
    fn wait(&self) -> bool {
        let timeout = self.due.peek().map(|(Reverse((at, _, _)), _)| {
            let left = at.saturating_sub(self.now());
            Timespec {
                tv_sec: (left / 1_000_000_000).cast_signed(),
                tv_nsec: (left % 1_000_000_000).cast_signed(),
            }
        });
        let mut ready = [
            PollFd::from_borrowed_fd(self.shared.devices[self.host].as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.shared.wakeups[self.host].as_fd(), PollFlags::IN),
        ];
        // An error is an interruption: what there is to do is looked at anyway.
        let _ = poll(&mut ready, timeout.as_ref());
        !ready[0].revents().is_empty()
    }

    /// Reads what the host has sent.
    fn receive(&mut self) {
        for _ in 0..BATCH {
            match self.shared.devices[self.host].recv(&mut self.incoming) {
                Ok(length) => self.take(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Decides on the packet of so many bytes that has come.
    fn take(&mut self, bytes: usize) {
        let Some(to) = destination(&self.incoming[..bytes], self.links.len()) else { return };
        let now = self.now();
        let mut fate = self.links[to].send(now, bytes);
        if self.due_bytes + bytes > MOST_BYTES {
            fate = Fate::Overflows;
        }
        let counting = self.shared.counting(self.host, to);
        let add = |counter: &AtomicU64, more: u64| counter.fetch_add(more, Ordering::Relaxed);
        match fate {
            Fate::Arrives(at) => {
                add(&counting.packets, 1);
                add(&counting.bytes, bytes as u64);
                self.sent += 1;
                self.due_bytes += bytes;
                let mut packet = self.spare.pop().unwrap_or_default();
                packet.clear();
                packet.extend_from_slice(&self.incoming[..bytes]);
                self.due.push((Reverse((at, self.sent, to)), Packet(packet)));
                0
            }
            Fate::Lost => add(&counting.lost, 1),
            Fate::Overflows => add(&counting.overflowed, 1),
            Fate::TooLong => add(&counting.too_long, 1),
        };
    }

    /// Writes what has arrived.
    fn deliver(&mut self) {
        let now = self.now();
        while self.due.peek().is_some_and(|(Reverse((at, _, _)), _)| *at <= now) {
            let Some((Reverse((_, _, to)), Packet(packet))) = self.due.pop() else { return };
            self.due_bytes -= packet.len();
            // A host that takes nothing more loses it, as hosts do.
            let _ = self.shared.devices[to].send(&packet);
            self.spare.push(packet);
        }
    }
}

/// The host that a packet is for; none for what is not IPv4 or goes elsewhere.
fn destination(packet: &[u8], hosts: usize) -> Option<usize> {
    if packet.first()? >> 4 != 4 {
        return None;
    }
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    host_at(address, hosts)
}
