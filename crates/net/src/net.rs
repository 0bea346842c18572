//! The sockets of a machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use mio::{Interest, Registry, Token};
use pccl_observe::Metrics;
use pccl_proto::ids::{ConnId, Time};
use pccl_proto::machine::{Action, Closed, Machine};
use pccl_proto::record::StoreRequest;

use crate::fork::Ours;
use crate::knock;
use crate::security::Security;
use crate::send::send;
use crate::waiter::{FIRST_CONN, LISTENER, UDP, Waiter};
use guarded::{Guard, Guards};

mod guarded;

/// Reads of one connection before the others have their turn.
const READS_PER_TURN: usize = 8;
/// Buffers that a machine gives for one write, as a rule.
const BUFFERS_PER_WRITE: usize = 20;
/// Largest datagram of the protocol, with room to see that one is too large.
const DATAGRAM_BYTES: usize = 2048;

struct Socket {
    stream: Ours<mio::net::TcpStream>,
    connecting: bool,
    readable: bool,
    writable: bool,
    /// The other side sends no more: what is left is read up to the end.
    read_closed: bool,
    /// What lies between it and the machine, if anything.
    guard: Option<Box<Guard>>,
}

/// The sockets of a machine, and the clock that it is told.
pub struct Net {
    registry: Registry,
    listener: Option<Ours<mio::net::TcpListener>>,
    udp: Option<Ours<mio::net::UdpSocket>>,
    sockets: BTreeMap<ConnId, Socket>,
    /// Connections with bytes to read.
    readable: BTreeSet<ConnId>,
    origin: Instant,
    /// Accepting failed for want of descriptors; the next try is due then.
    accept_again: Option<Instant>,
    metrics: Option<Metrics>,
    guards: Option<Guards>,
    /// Says from where anything is taken at all.
    doorkeeper: Option<Security>,
}

fn token(conn: ConnId) -> Token {
    Token(FIRST_CONN + conn.0 as usize)
}

impl Net {
    pub(crate) fn new(registry: Registry) -> Self {
        Self {
            registry,
            listener: None,
            udp: None,
            sockets: BTreeMap::new(),
            readable: BTreeSet::new(),
            origin: Instant::now(),
            accept_again: None,
            metrics: None,
            guards: None,
            doorkeeper: None,
        }
    }

    /// Takes connections from a listening socket.
    pub fn set_listener(&mut self, listener: TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let mut listener = Ours::new(mio::net::TcpListener::from_std(listener));
        self.registry.register(&mut *listener, LISTENER, Interest::READABLE)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Sends and receives datagrams on a socket.
    pub fn set_udp(&mut self, udp: UdpSocket) -> io::Result<()> {
        udp.set_nonblocking(true)?;
        let mut udp = Ours::new(mio::net::UdpSocket::from_std(udp));
        self.registry.register(&mut *udp, UDP, Interest::READABLE)?;
        self.udp = Some(udp);
        Ok(())
    }

    /// Counts what goes over its connections.
    pub fn set_metrics(&mut self, metrics: Metrics) {
        self.metrics = Some(metrics);
    }

    /// A connection's ends, ours first, if it stands.
    pub fn ends(&self, conn: ConnId) -> Option<(SocketAddr, SocketAddr)> {
        let stream = &self.sockets.get(&conn)?.stream;
        Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
    }

    /// The time that the machine is told.
    pub fn now(&self) -> Time {
        Time(self.origin.elapsed().as_micros() as u64)
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.sockets.len()
    }

    /// How long the machine may be left alone.
    pub fn time_left<M: Machine>(&self, machine: &M) -> Option<Duration> {
        if !self.readable.is_empty() {
            return Some(Duration::ZERO);
        }
        let retry = self.accept_again.map(|at| at.saturating_duration_since(Instant::now()));
        let timer = machine.poll_timeout().map(|at| at.since(self.now()));
        let handshakes = self.handshake_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        [retry, timer, handshakes].into_iter().flatten().min()
    }

    /// Closes every connection, without ceremony and without telling the machine. Returns which.
    pub fn close_all(&mut self) -> Vec<ConnId> {
        let all: Vec<ConnId> = self.sockets.keys().copied().collect();
        for conn in &all {
            self.close(*conn);
        }
        self.listener = None;
        self.udp = None;
        all
    }

    /// Handles what the waiter has seen, timers that are due, and what the machine wants done.
    /// Requests to a store go to `store`.
    pub fn handle<M: Machine>(
        &mut self,
        machine: &mut M,
        waiter: &Waiter,
        store: &mut dyn FnMut(StoreRequest),
    ) -> io::Result<()> {
        for event in &waiter.events {
            match event.token() {
                LISTENER => self.accept(machine),
                UDP => self.receive_datagrams(machine),
                Token(n) if n >= FIRST_CONN => {
                    let conn = ConnId((n - FIRST_CONN) as u64);
                    self.note(conn, event);
                }
                _ => {}
            }
        }
        self.go_on(machine, store);
        Ok(())
    }

    /// Timers, reading and writing without having waited: after a call has changed the machine.
    pub fn go_on<M: Machine>(&mut self, machine: &mut M, store: &mut dyn FnMut(StoreRequest)) {
        if self.accept_again.is_some_and(|at| at <= Instant::now()) {
            self.accept_again = None;
            self.accept(machine);
        }
        self.flush(machine, store);
        let ready: Vec<ConnId> = self.readable.iter().copied().collect();
        for conn in ready {
            self.read(machine, conn, store);
        }
        self.end_slow_handshakes(machine);
        let now = self.now();
        if machine.poll_timeout().is_some_and(|at| at <= now) {
            machine.handle_timeout(now);
        }
        self.flush(machine, store);
        if crate::fault::take_cut() {
            self.cut_all(machine);
            self.flush(machine, store);
        }
    }

    /// Every connection breaks, as a fault that a test asked for.
    fn cut_all<M: Machine>(&mut self, machine: &mut M) {
        let all: Vec<ConnId> = self.sockets.keys().copied().collect();
        for conn in all {
            self.ended(machine, conn, Closed::Eof);
        }
    }

    fn note(&mut self, conn: ConnId, event: &mio::event::Event) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        if event.is_writable() || event.is_write_closed() || event.is_error() {
            socket.writable = true;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            socket.readable = true;
            socket.read_closed |= event.is_read_closed() || event.is_error();
            self.readable.insert(conn);
        }
        if socket.connecting {
            // Looked at by `read`, which sees whether the connection has come about.
            self.readable.insert(conn);
        } else if socket.writable {
            self.readable.insert(conn);
        }
    }

    fn accept<M: Machine>(&mut self, machine: &mut M) {
        loop {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, from)) => self.accepted(machine, stream, from),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    tracing::warn!("failed to accept a connection: {e}; trying again in 50 ms");
                    self.accept_again = Some(Instant::now() + Duration::from_millis(50));
                    return;
                }
            }
        }
    }

    fn accepted<M: Machine>(&mut self, machine: &mut M, stream: mio::net::TcpStream, from: SocketAddr) {
        if self.doorkeeper.as_ref().is_some_and(|security| !security.admits(from)) {
            return;
        }
        if self.guards.is_some() {
            return self.accepted_stranger(stream, from);
        }
        let Some(conn) = machine.handle_accepted(self.now(), from) else { return };
        tune(&stream);
        if let Err(e) = self.add(conn, stream, false, None) {
            machine.handle_closed(self.now(), conn, Closed::Failed(e.to_string()));
        }
    }

    fn add(
        &mut self,
        conn: ConnId,
        stream: mio::net::TcpStream,
        connecting: bool,
        guard: Option<Box<Guard>>,
    ) -> io::Result<()> {
        let mut stream = Ours::new(stream);
        self.registry.register(&mut *stream, token(conn), Interest::READABLE | Interest::WRITABLE)?;
        self.sockets.insert(
            conn,
            Socket { stream, connecting, readable: false, writable: !connecting, read_closed: false, guard },
        );
        Ok(())
    }

    fn dial<M: Machine>(&mut self, machine: &mut M, conn: ConnId, addr: SocketAddr) {
        let guard = match self.dialing_guard(conn, addr) {
            Ok(guard) => guard,
            Err(why) => return machine.handle_closed(self.now(), conn, why),
        };
        let added = mio::net::TcpStream::connect(addr).and_then(|stream| self.add(conn, stream, true, guard));
        if let Err(e) = added {
            self.close(conn);
            machine.handle_closed(self.now(), conn, reason(&e));
        }
    }

    fn receive_datagrams<M: Machine>(&mut self, machine: &mut M) {
        let mut buffer = [0; DATAGRAM_BYTES];
        loop {
            let Some(udp) = &self.udp else { return };
            match udp.recv_from(&mut buffer) {
                Ok((_, from)) if self.doorkeeper.as_ref().is_some_and(|s| !s.admits(from)) => {}
                Ok((n, from)) if knock::is_question(&buffer[..n]) => {
                    // An answer that finds no room is one that is lost.
                    let _ = knock::answer(&buffer[..n]).map(|answer| udp.send_to(&answer, from));
                }
                Ok((n, from)) => match &mut self.guards {
                    None => machine.handle_datagram(self.now(), from, &buffer[..n]),
                    Some(guards) => {
                        if let Some(beat) = guards.open_datagram(from, &buffer[..n]) {
                            machine.handle_datagram(self.now(), from, beat);
                        }
                    }
                },
                // An earlier datagram was refused; that says nothing about the next.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    }

    /// Carries out actions and writes until there is nothing more to do.
    fn flush<M: Machine>(&mut self, machine: &mut M, store: &mut dyn FnMut(StoreRequest)) {
        loop {
            if let Some(action) = machine.poll_action() {
                self.act(machine, action, store);
            } else if let Some(conn) = machine.poll_writable() {
                self.write(machine, conn);
            } else {
                return;
            }
        }
    }

    fn act<M: Machine>(&mut self, machine: &mut M, action: Action, store: &mut dyn FnMut(StoreRequest)) {
        match action {
            Action::Dial { conn, addr } => self.dial(machine, conn, addr),
            Action::Close { conn, last } => {
                self.say_last(conn, &last);
                self.close(conn);
            }
            Action::ResumeReading { conn } => {
                if self.sockets.get(&conn).is_some_and(|s| s.readable || s.guard.is_some()) {
                    self.readable.insert(conn);
                }
            }
            Action::Datagram { to, bytes } => {
                let sealed = match &mut self.guards {
                    None => Some(bytes),
                    Some(guards) => guards.seal_datagram(to, &bytes),
                };
                if let Some((udp, bytes)) = self.udp.as_ref().zip(sealed) {
                    // Datagrams may be lost anyway.
                    let _ = udp.send_to(&bytes, to);
                }
            }
            Action::Store(request) => store(request),
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.readable.remove(&conn);
        if let Some(mut socket) = self.sockets.remove(&conn) {
            let _ = self.registry.deregister(&mut *socket.stream);
            if let Some(guards) = &mut self.guards {
                guards.forget(conn);
            }
        }
    }

    /// Last words, if saying them takes no waiting.
    fn say_last(&mut self, conn: ConnId, last: &[u8]) {
        let Some(socket) = self.sockets.get_mut(&conn).filter(|s| !s.connecting) else { return };
        match &mut socket.guard {
            Some(guard) => guard.say_last(&mut socket.stream, last),
            None if last.is_empty() => {}
            None => {
                let _ = socket.stream.write(last);
            }
        }
    }

    fn closed<M: Machine>(&mut self, machine: &mut M, conn: ConnId, why: Closed) {
        self.close(conn);
        machine.handle_closed(self.now(), conn, why);
    }

    /// Reads what a connection has, for a while.
    fn read<M: Machine>(&mut self, machine: &mut M, conn: ConnId, store: &mut dyn FnMut(StoreRequest)) {
        self.readable.remove(&conn);
        if !self.check_connected(machine, conn) {
            return;
        }
        if self.sockets.get(&conn).is_some_and(|s| s.writable) {
            self.write(machine, conn);
        }
        if self.sockets.get(&conn).is_some_and(|s| s.guard.is_some()) {
            return self.read_guarded(machine, conn, store);
        }
        for _ in 0..READS_PER_TURN {
            let Some(socket) = self.sockets.get_mut(&conn).filter(|s| s.readable) else { return };
            let [first, second] = machine.receive_buffers(conn);
            let room = first.len() + second.len();
            if room == 0 {
                // `ResumeReading` will come.
                return;
            }
            let got = if second.is_empty() {
                socket.stream.read(first)
            } else {
                socket.stream.read_vectored(&mut [IoSliceMut::new(first), IoSliceMut::new(second)])
            };
            match got {
                Ok(0) => return self.closed(machine, conn, Closed::Eof),
                Ok(n) => {
                    // Edge-triggered: a short read has emptied the socket, and more bytes make a new event; an end
                    // that was announced together with them does not.
                    if n < room && !socket.read_closed {
                        socket.readable = false;
                    }
                    if let Some(metrics) = &self.metrics {
                        metrics.add_bytes(0, n as u64, Instant::now());
                    }
                    machine.handle_received(self.now(), conn, n);
                    self.flush(machine, store);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.closed(machine, conn, reason(&e)),
            }
        }
        if self.sockets.get(&conn).is_some_and(|s| s.readable) {
            self.readable.insert(conn);
        }
    }

    /// Whether the connection stands; finds out if it was being made.
    fn check_connected<M: Machine>(&mut self, machine: &mut M, conn: ConnId) -> bool {
        let Some(socket) = self.sockets.get_mut(&conn) else { return false };
        if !socket.connecting {
            return true;
        }
        match socket.stream.take_error() {
            Ok(Some(e)) | Err(e) => {
                self.ended(machine, conn, reason(&e));
                return false;
            }
            Ok(None) => {}
        }
        match socket.stream.peer_addr() {
            Ok(_) => {
                socket.connecting = false;
                socket.writable = true;
                tune(&socket.stream);
                if socket.guard.is_none() {
                    machine.handle_connected(self.now(), conn);
                }
                true
            }
            Err(e) if e.kind() == io::ErrorKind::NotConnected => false,
            Err(e) => {
                self.closed(machine, conn, reason(&e));
                false
            }
        }
    }

    /// Writes until the machine has nothing more or the connection takes nothing more.
    fn write<M: Machine>(&mut self, machine: &mut M, conn: ConnId) {
        loop {
            let Some(socket) = self.sockets.get_mut(&conn) else { return };
            if socket.connecting || !socket.writable {
                return;
            }
            if socket.guard.is_some() {
                return self.write_guarded(machine, conn);
            }
            let mut buffers = Vec::with_capacity(BUFFERS_PER_WRITE);
            machine.transmit_buffers(conn, &mut buffers);
            let slices: Vec<IoSlice<'_>> =
                buffers.iter().filter(|b| !b.is_empty()).map(|b| IoSlice::new(b)).collect();
            if slices.is_empty() {
                return;
            }
            match send(&*socket.stream, &slices) {
                Ok(n) => {
                    if let Some(metrics) = &self.metrics {
                        metrics.add_bytes(n as u64, 0, Instant::now());
                    }
                    machine.handle_transmitted(self.now(), conn, n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    socket.writable = false;
                    return;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.closed(machine, conn, reason(&e)),
            }
        }
    }
}

/// Options without which connections are slow; none of them is worth an error.
fn tune(stream: &mio::net::TcpStream) {
    // Without it two small messages in a row wait for a delayed acknowledgement, 40 ms.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    if stream.peer_addr().is_ok_and(|a| a.ip().is_loopback()) {
        // Within one host there is nothing to probe for: pacing (BBR) only delays. Reno is always allowed.
        let socket = socket2::SockRef::from(stream);
        let _ = socket.set_tcp_congestion(b"cubic").or_else(|_| socket.set_tcp_congestion(b"reno"));
    }
}

fn reason(e: &io::Error) -> Closed {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => Closed::Refused,
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Closed::TimedOut
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Closed::Eof,
        _ => Closed::Failed(e.to_string()),
    }
}

#[cfg(test)]
mod tests;
