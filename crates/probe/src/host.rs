//! The datagrams of one host: what it answers to others, and what others answer to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::stats::{Sample, delivery_rate};
use crate::wire::{Key, Kind, Packet};

/// Numbers of probes end here: what is remembered of a stream is bounded.
pub(crate) const MOST_PROBES: u32 = 1 << 20;
/// Datagrams of a train that are remembered.
const MOST_ARRIVALS: usize = 1 << 20;
/// What the socket may hold while this process does something else, as far as the system allows.
const SOCKET_BYTES: usize = 8 << 20;
/// Between two looks at whether to end.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Headers of UDP and IP.
const HEADERS_V4: u32 = 28;
const HEADERS_V6: u32 = 48;

/// Who takes part, known once the hosts have met.
pub(crate) struct Meeting {
    pub(crate) me: usize,
    pub(crate) key: Key,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// The probes of somebody's newest stream that have come.
#[derive(Default)]
struct Heard {
    stream: u32,
    count: u64,
    numbers: Vec<u64>,
}

/// Somebody's newest train.
#[derive(Default)]
struct Train {
    stream: u32,
    arrivals: Vec<(u64, u32)>,
}

#[derive(Default)]
struct Inbox {
    heard: BTreeMap<u8, Heard>,
    trains: BTreeMap<u8, Train>,
    /// Answers to our streams: those we wait for have an entry.
    samples: BTreeMap<u32, Vec<Sample>>,
    fits: BTreeMap<u32, BTreeSet<u32>>,
    counted: BTreeMap<u32, (u64, u64)>,
}

/// A host.
pub(crate) struct Host {
    socket: UdpSocket,
    state: UdpSocketState,
    meeting: OnceLock<Meeting>,
    inbox: Mutex<Inbox>,
    changed: Condvar,
    streams: AtomicU32,
    stop: AtomicBool,
}

/// Nanoseconds since 1970, the clock of the kernel's time stamps.
pub(crate) fn wall_clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

impl Host {
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        // Whoever may do more than the system's limit does.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES).is_err() {
            let _ = state.set_recv_buffer_size((&socket).into(), SOCKET_BYTES);
        }
        Ok(Self {
            socket,
            state,
            meeting: OnceLock::new(),
            inbox: Mutex::default(),
            changed: Condvar::new(),
            streams: AtomicU32::new(1),
            stop: AtomicBool::new(false),
        })
    }

    /// From now on datagrams of this meeting are taken.
    pub(crate) fn meet(&self, mut meeting: Meeting) {
        if self.socket.local_addr().is_ok_and(|own| own.is_ipv6()) {
            for address in &mut meeting.addresses {
                if let IpAddr::V4(ip) = address.ip() {
                    address.set_ip(ip.to_ipv6_mapped().into());
                }
            }
        }
        // A host meets once.
        let _ = self.meeting.set(meeting);
    }

    /// Ends [`Self::serve`].
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Bytes of UDP and IP headers on the way to this host.
    pub(crate) fn headers(&self, to: usize) -> u32 {
        let address = self.meeting.get().and_then(|meeting| meeting.addresses.get(to));
        if address.is_some_and(|a| a.ip().to_canonical().is_ipv4()) { HEADERS_V4 } else { HEADERS_V6 }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- what comes ---

    /// Takes and answers datagrams until [`Self::stop`].
    pub(crate) fn serve(&self) -> io::Result<()> {
        let mut memory = vec![vec![0_u8; usize::from(u16::MAX)]; 8];
        let mut metas = [RecvMeta::default(); 8];
        let mut answers = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
            if poll(&mut ready, Some(&PATIENCE)).is_err() || ready[0].revents().is_empty() {
                continue;
            }
            let mut buffers: Vec<IoSliceMut<'_>> =
                memory.iter_mut().map(|part| IoSliceMut::new(part)).collect();
            let messages = match self.state.recv((&self.socket).into(), &mut buffers, &mut metas) {
                Ok(messages) => messages,
                // Some hosts answer by ICMP; that is seen as silence anyway.
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            };
            for (bytes, meta) in memory.iter().zip(&metas[..messages]) {
                let heard = meta.timestamp.map_or_else(wall_clock, |at| at.as_nanos() as u64);
                for datagram in bytes[..meta.len].chunks(meta.stride.max(1)) {
                    self.take(datagram, meta.addr, heard, &mut answers);
                }
            }
        }
        Ok(())
    }

    fn take(&self, bytes: &[u8], from: SocketAddr, at: u64, answers: &mut Vec<u8>) {
        let Some(meeting) = self.meeting.get() else { return };
        let Some(packet) = Packet::read(&meeting.key, bytes) else { return };
        let others =
            usize::from(packet.from) < meeting.addresses.len() && usize::from(packet.from) != meeting.me;
        if !others || usize::from(packet.to) != meeting.me {
            return;
        }
        if let Some(answer) = self.answer(meeting, &packet, bytes.len(), at) {
            answers.clear();
            answer.write(&meeting.key, 0, answers);
            // What cannot be sent is lost, and counted as such by whoever waits.
            let _ = self.transmit(from, answers, None);
        }
    }

    /// Takes note of a datagram; what is to be said to it is never longer than itself.
    fn answer(&self, meeting: &Meeting, packet: &Packet, bytes: usize, at: u64) -> Option<Packet> {
        let mut inbox = self.lock();
        let back = Packet { from: meeting.me as u8, to: packet.from, ..*packet };
        match packet.kind {
            Kind::Probe => {
                inbox.heard.entry(packet.from).or_default().note(packet);
                Some(Packet { kind: Kind::Echo, b: at, c: wall_clock(), ..back })
            }
            Kind::Long => Some(Packet { kind: Kind::Fits, ..back }),
            Kind::Train => {
                let train = inbox.trains.entry(packet.from).or_default();
                if train.stream != packet.stream {
                    *train = Train { stream: packet.stream, arrivals: Vec::new() };
                }
                if train.arrivals.len() < MOST_ARRIVALS {
                    train.arrivals.push((at, bytes as u32 + self.headers(usize::from(packet.from))));
                }
                None
            }
            Kind::Tally => {
                let (count, rate) = inbox.tally(packet);
                Some(Packet { kind: Kind::Counted, a: count, b: rate, ..back })
            }
            Kind::Echo => {
                let samples = inbox.samples.get_mut(&packet.stream)?;
                if samples.len() < 2 * MOST_PROBES as usize {
                    let (number, sent) = (packet.number, packet.a);
                    samples.push(Sample { number, sent, heard: packet.b, answered: packet.c, returned: at });
                }
                None
            }
            Kind::Fits => {
                inbox.fits.get_mut(&packet.stream)?.insert(packet.number);
                None
            }
            Kind::Counted => {
                *inbox.counted.get_mut(&packet.stream)? = (packet.a, packet.b);
                self.changed.notify_all();
                None
            }
        }
    }

    // --- what is asked ---

    /// A new stream, whose answers are kept from now on.
    pub(crate) fn stream(&self) -> u32 {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let mut inbox = self.lock();
        inbox.samples.insert(stream, Vec::new());
        inbox.fits.insert(stream, BTreeSet::new());
        stream
    }

    /// Answers that have come.
    pub(crate) fn answered(&self, stream: u32) -> usize {
        self.lock().samples.get(&stream).map_or(0, Vec::len)
    }

    /// The answers; no more are kept.
    pub(crate) fn samples(&self, stream: u32) -> Vec<Sample> {
        self.lock().samples.remove(&stream).unwrap_or_default()
    }

    /// The numbers that have fitted.
    pub(crate) fn fits(&self, stream: u32) -> BTreeSet<u32> {
        self.lock().fits.get(&stream).cloned().unwrap_or_default()
    }

    /// What the other side has counted of a stream: datagrams, and bits per second of a train. Asks again until an answer
    /// comes, for as long as `patience`.
    pub(crate) fn tally(&self, to: usize, stream: u32, patience: Duration) -> Option<(u64, u64)> {
        let deadline = Instant::now() + patience;
        self.lock().counted.insert(stream, (u64::MAX, 0));
        while Instant::now() < deadline {
            // An error is a loss, as far as anybody can tell.
            let _ = self.send(to, Kind::Tally, stream, 0, 0);
            let wait = Duration::from_millis(250).min(deadline.saturating_duration_since(Instant::now()));
            let silent =
                |inbox: &mut Inbox| inbox.counted.get(&stream).is_none_or(|(count, _)| *count == u64::MAX);
            let waited = self.changed.wait_timeout_while(self.lock(), wait, silent);
            let (inbox, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if !timeout.timed_out() {
                return inbox.counted.get(&stream).copied();
            }
        }
        None
    }

    /// Sends one datagram of at least `length` bytes.
    pub(crate) fn send(
        &self,
        to: usize,
        kind: Kind,
        stream: u32,
        number: u32,
        length: usize,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        let address = self.write(to, kind, stream, number, length, &mut bytes)?;
        self.transmit(address, &bytes, None)
    }

    /// Sends many datagrams of `length` bytes with few system calls.
    pub(crate) fn send_train(
        &self,
        to: usize,
        stream: u32,
        numbers: std::ops::Range<u32>,
        length: usize,
    ) -> io::Result<()> {
        let most =
            self.state.max_gso_segments().clamp(1, (usize::from(u16::MAX) - 100) / length.max(1)).max(1);
        let mut bytes = Vec::with_capacity(most * length);
        let mut number = numbers.start;
        while number < numbers.end {
            bytes.clear();
            let mut address = None;
            for _ in 0..most.min((numbers.end - number) as usize) {
                address = Some(self.write(to, Kind::Train, stream, number, length, &mut bytes)?);
                number += 1;
            }
            if let Some(address) = address {
                self.transmit(address, &bytes, Some(length))?;
            }
        }
        Ok(())
    }

    fn write(
        &self,
        to: usize,
        kind: Kind,
        stream: u32,
        number: u32,
        length: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<SocketAddr> {
        let unknown = || io::Error::new(ErrorKind::NotConnected, "the hosts have not met");
        let meeting = self.meeting.get().ok_or_else(unknown)?;
        let address = *meeting.addresses.get(to).ok_or_else(unknown)?;
        let a = wall_clock();
        let packet = Packet { kind, from: meeting.me as u8, to: to as u8, stream, number, a, b: 0, c: 0 };
        packet.write(&meeting.key, length, out);
        Ok(address)
    }

    fn transmit(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        loop {
            match self.state.try_send((&self.socket).into(), &transmit) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut ready = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::OUT)];
                    // Looked at again either way.
                    let _ = poll(&mut ready, Some(&PATIENCE));
                    if self.stop.load(Ordering::Acquire) {
                        return Err(error);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}

impl Heard {
    /// Counts each number once.
    fn note(&mut self, packet: &Packet) {
        if self.stream != packet.stream {
            *self = Self { stream: packet.stream, ..Self::default() };
        }
        if packet.number >= MOST_PROBES {
            return;
        }
        let (word, bit) = (packet.number as usize / 64, 1_u64 << (packet.number % 64));
        if self.numbers.len() <= word {
            self.numbers.resize(word + 1, 0);
        }
        if self.numbers[word] & bit == 0 {
            self.numbers[word] |= bit;
            self.count += 1;
        }
    }
}

impl Inbox {
    fn tally(&self, packet: &Packet) -> (u64, u64) {
        if let Some(train) = self.trains.get(&packet.from).filter(|train| train.stream == packet.stream) {
            let rate = delivery_rate(&train.arrivals).unwrap_or(0.0) as u64;
            return (train.arrivals.len() as u64, rate);
        }
        let heard = self.heard.get(&packet.from).filter(|heard| heard.stream == packet.stream);
        (heard.map_or(0, |heard| heard.count), 0)
    }
}
